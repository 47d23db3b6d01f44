"""Any partition of the examples merges to the same numbers to the last bit: from stored answers to the summary."""

import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple, TypeVar

import pyarrow.parquet as pq
import pytest

from moe_ray.comparison.records import Summary
from moe_ray.comparison.summary import summarise
from moe_ray.domains.example import Example
from moe_ray.scoring.decisions import DecisionGrader
from moe_ray.scoring.references import BitsPerByteGrader
from moe_ray.scoring.samples import TextGrader
from moe_ray.scoring.score import Grader, Metric, Score, write_scores
from moe_ray.store.answers import Answer
from moe_ray.store.records import Manifest
from moe_ray.store.run_directory import RunDirectory
from tests.scoring.answering import example, generated, measured

ItemT = TypeVar("ItemT")

MODELS = ("general", "expert")
CHOICES = ("yes", "no", "maybe")
NUM_EXAMPLES = 16
NUM_SAMPLES = {"once": 1, "often": 3}

# Their sum depends on the order of addition: big ones that cancel, tiny ones that they swallow, ones without a short
# binary form, and ones below the least normal number.
TREACHEROUS = (1e16, 1.0, -1e16, 0.1, 1e-9, 3e15, -3e15, 0.3, 2**53 + 0.0, -(2**53) + 0.0)
DENORMAL = (5e-324, 1e-310, 3e-320, 2.5e-308)


class Told(TextGrader):
    """The number that an answer ends with. Unlike real metrics it has no bounds, so that sums can go wrong."""

    def __init__(self, num_samples: int) -> None:
        super().__init__(num_samples)
        self.metrics = (Metric(name="told", definition="the number that the answer ends with"),)

    def measure(self, example: Example, text: str) -> Sequence[float]:
        return [float(text.split()[-1])]


class Material(NamedTuple):
    """All answers of a made-up run, with what grades them."""

    examples: dict[str, dict[str, Example]]
    graders: dict[str, list[Grader]]
    answers: list[Answer]

    @property
    def metrics(self) -> dict[str, Metric]:
        every = [metric for graders in self.graders.values() for grader in graders for metric in grader.metrics]
        return {metric.name: metric for metric in every}


def make_material(numbers: Sequence[float]) -> Material:
    """Two domains, one with several samples an example; the models' answers end with `numbers`, shuffled."""
    rng = random.Random(11)
    names = [f"e{index:02d}" for index in range(NUM_EXAMPLES)]
    examples = {
        domain: {name: example(name, domain=domain, label=rng.choice(CHOICES), choices=list(CHOICES)) for name in names}
        for domain in NUM_SAMPLES
    }
    graders: dict[str, list[Grader]] = {
        "once": [DecisionGrader(), BitsPerByteGrader()],
        "often": [Told(NUM_SAMPLES["often"])],
    }
    answers = [
        answer
        for domain, of_domain in examples.items()
        for asked in of_domain.values()
        for model in MODELS
        for answer in _answers(asked, model, NUM_SAMPLES[domain], numbers, rng)
    ]
    return Material(examples, graders, answers)


def _answers(
    asked: Example, model: str, num_samples: int, numbers: Sequence[float], rng: random.Random
) -> Iterator[Answer]:
    for sample in range(num_samples):
        failed = rng.random() < 0.05
        text = f"{rng.choice([*CHOICES, 'hm'])}, {rng.choice(numbers)!r}"
        answer = generated(
            None if failed else text, sample=sample, error="lost" if failed else None, model=model, of=asked
        )
        yield _stored(answer)
    if num_samples == 1:
        choices = [f" {choice}" for choice in CHOICES]
        reference = " " + "x" * rng.randrange(1, 90)
        likelihoods = [-rng.expovariate(0.3) for _ in (*choices, reference)]
        yield _stored(measured(likelihoods, [*choices, reference], model=model, of=asked))


def _stored(answer: Answer) -> Answer:
    return replace(answer, key=f"{answer.domain}-{answer.key}")


def random_parts(items: Sequence[ItemT], rng: random.Random, max_size: int) -> list[list[ItemT]]:
    """Shuffle `items` and cut them into parts of 1 to `max_size`."""
    shuffled = rng.sample(items, len(items))
    parts = []
    while shuffled:
        size = rng.randint(1, max_size)
        parts.append(shuffled[:size])
        shuffled = shuffled[size:]
    return parts


def summary_of(
    material: Material,
    folder: Path,
    answer_parts: Sequence[Sequence[Answer]],
    cut_scores: Callable[[list[Score]], Sequence[Sequence[Score]]],
) -> str:
    """Store the answers shard by shard, grade them, store the scores part by part; return the summary's JSON."""
    run = RunDirectory(folder)
    run.prepare()
    for shard in answer_parts:
        run.write_shard(shard)
    paths: list[Path] = []
    for part in cut_scores(_graded(material, run.answers())):
        paths.append(folder / f"scores-{len(paths)}.parquet")
        write_scores(paths[-1], part, material.metrics)
    merged = [Score(**row) for path in paths for row in pq.read_table(path).to_pylist()]
    summary = summarise(merged, material.metrics, _manifest(), [], run.answers_table())
    return summary.model_dump_json()


def _graded(material: Material, answers: Sequence[Answer]) -> list[Score]:
    by_cell: defaultdict[tuple[str, str, str], list[Answer]] = defaultdict(list)
    for answer in answers:
        by_cell[answer.domain, answer.example_id, answer.model].append(answer)
    return [
        score
        for (domain, example_id, model), found in by_cell.items()
        for grader in material.graders[domain]
        for score in grader.grade(material.examples[domain][example_id], model, found)
    ]


def _manifest() -> Manifest:
    return Manifest(
        name="partitions",
        moe_ray_version="0",
        created_at=0.0,
        identity={},
        models={model: {} for model in MODELS},
        domains={domain: {} for domain in NUM_SAMPLES},
        prompts={},
        baseline="general",
        experts=dict.fromkeys(NUM_SAMPLES, "expert"),
    )


@pytest.fixture(scope="module", params=[TREACHEROUS, DENORMAL], ids=["treacherous", "denormal"])
def material(request: pytest.FixtureRequest) -> Material:
    return make_material(request.param)


@pytest.fixture(scope="module")
def expected(material: Material, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The summary of one shard and one score table, in the order in which they were made."""
    return summary_of(material, tmp_path_factory.mktemp("whole"), [material.answers], lambda scores: [scores])


@pytest.mark.parametrize("seed", range(5))
def test_any_partition_and_order_gives_the_same_summary_to_the_last_bit(
    material: Material, expected: str, seed: int, tmp_path: Path
) -> None:
    rng = random.Random(seed)
    answer_parts = random_parts(material.answers, rng, max_size=rng.choice([3, 20, len(material.answers)]))
    found = summary_of(material, tmp_path, answer_parts, lambda scores: random_parts(scores, rng, max_size=60))
    assert found == expected


def test_shards_of_one_answer_give_the_same_summary_to_the_last_bit(
    material: Material, expected: str, tmp_path: Path
) -> None:
    parts = [[answer] for answer in reversed(material.answers)]
    assert summary_of(material, tmp_path, parts, lambda scores: [scores[at::7] for at in range(7)]) == expected


def told_by_the_general_model(material: Material) -> list[float]:
    scores = _graded(material, material.answers)
    return [s.value for s in scores if (s.metric, s.model) == ("told", "general") and s.value is not None]


def test_the_value_is_that_of_exact_arithmetic(material: Material, expected: str) -> None:
    told = told_by_the_general_model(material)
    found = Summary.model_validate_json(expected).value("general", "often", "told")
    assert found is not None
    assert (found.value, found.n) == (float(sum(map(Fraction, told))) / len(told), len(told))


def test_plain_addition_would_tell_the_orders_apart() -> None:
    """Else the tests above would show nothing."""
    told = told_by_the_general_model(make_material(TREACHEROUS))
    assert len({sum(random.Random(seed).sample(told, len(told))) for seed in range(20)}) >= 3
