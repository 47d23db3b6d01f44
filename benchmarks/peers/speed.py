"""Whole processes in turn, from their start to their results: `moe-ray evaluate` and `lm_eval run --model hf`."""

import itertools
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.peers import ours, theirs
from benchmarks.peers.agreement import asked_of
from benchmarks.peers.comparing import answer_length
from benchmarks.peers.environment import Setting
from benchmarks.peers.models import Materials
from benchmarks.peers.ours import OurRun
from benchmarks.peers.theirs import TheirRun

TARGET_THROUGHPUT = 1.3
TARGET_WALL = 1.0
NUM_WARM_UP_EXAMPLES = 4
# What the run says it is doing, and what is being waited for until it says the next of these.
STAGES = (
    ("", "interpreter, command line"),
    ("Reading data", "data, checkpoints, examples"),
    ("Joining Ray", "Ray's start, its node's agent"),
    ("Answering", "placing the actor"),
    (": starting", "the actor's process, its imports"),
    (": loading", "transformers, the model"),
    (": ready", "answering, committing"),
    (": gone", "Ray's end"),
    ("Grading", "grading"),
    ("Writing the report", "report, tables"),
    ("Report:", "interpreter's end"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One side of a pair: seconds of the whole process and of answering, and tokens answered."""

    wall_s: float
    answering_s: float
    num_tokens: int

    @property
    def tokens_per_s(self) -> float:
        return self.num_tokens / self.answering_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Both sides on the same work, one after the other, and where our seconds went, by stage."""

    ours: Side
    theirs: Side
    our_stages: tuple[tuple[str, float], ...]
    their_stages: tuple[tuple[str, float], ...]

    @property
    def wall_ratio(self) -> float:
        return self.ours.wall_s / self.theirs.wall_s

    @property
    def throughput_ratio(self) -> float:
        return self.ours.tokens_per_s / self.theirs.tokens_per_s


def stage_seconds(lines: Sequence[tuple[float, str]], wall_s: float) -> list[tuple[str, float]]:
    """Return each stage's seconds from the lines of a run's output, (seconds since the start, text), in order."""
    begins: list[tuple[str, float]] = [(STAGES[0][1], 0.0)]
    remaining = list(STAGES[1:])
    for moment, text in lines:
        place = next((at for at, (mark, _) in enumerate(remaining) if mark in text), None)
        if place is not None:
            begins.append((remaining[place][1], moment))
            remaining = remaining[place + 1 :]
    ends = [moment for _, moment in begins[1:]] + [wall_s]
    return [(name, end - begin) for (name, begin), end in zip(begins, ends, strict=True)]


def measure(setting: Setting, materials: Materials, domain: str, num_pairs: int) -> Iterator[Pair]:
    """Yield pairs that take turns in going first. One pair before them, of four examples, only fills the caches."""
    file = ours.speed_experiment(setting, materials, domain)

    def once(name: str, num_examples: int | None, *, ours_first: bool) -> Pair:
        out = setting.folder / f"{domain}-{name}"
        ((model, asked),) = asked_of(ours.loaded(file, num_examples)).items()
        tasks = theirs.write_tasks(out / "tasks", asked)
        checkpoint = materials.checkpoints[model]

        def our_side() -> OurRun:
            return ours.evaluate(setting, file, out / "ours", num_examples)

        def their_side() -> TheirRun:
            return theirs.evaluate(setting, checkpoint, out / "tasks", tasks, out / "theirs", is_chat=False)

        if ours_first:
            our_run, their_run = our_side(), their_side()
        else:
            their_run, our_run = their_side(), our_side()
        return _pair(our_run, their_run, materials.end_token_id)

    once("warm-up", NUM_WARM_UP_EXAMPLES, ours_first=True)
    for number in range(num_pairs):
        yield once(f"pair-{number + 1}", setting.max_examples, ours_first=number % 2 == 0)


def _pair(our_run: OurRun, their_run: TheirRun, end_token_id: int) -> Pair:
    record = their_run.record
    lengths = (answer_length(row["token_ids"], frozenset({end_token_id})) for row in record["rows"])
    known = (("loading the model", record["load_s"]), ("generating", record["generate_s"]))
    rest_s = their_run.wall_s - sum(seconds for _, seconds in known)
    return Pair(
        ours=Side(wall_s=our_run.wall_s, answering_s=our_run.engine_s, num_tokens=our_run.num_tokens),
        theirs=Side(wall_s=their_run.wall_s, answering_s=record["generate_s"], num_tokens=sum(lengths)),
        our_stages=tuple(stage_seconds(our_run.lines, our_run.wall_s)),
        their_stages=(*known, ("imports, tasks, results", rest_s)),
    )


def median_stages(profiles: Sequence[Sequence[tuple[str, float]]]) -> list[tuple[str, float]]:
    """Return the median seconds of each stage that any of `profiles` has, in the order of their first appearance."""
    names = dict.fromkeys(name for name, _ in itertools.chain.from_iterable(profiles))
    return [(name, statistics.median(dict(profile).get(name, 0.0) for profile in profiles)) for name in names]
