"""Training, caching and the experiment file, on a micro-world that takes seconds."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from moe_ray.config.load import load_experiment
from moe_ray.config.schema import is_local_path
from moe_ray.domains.loading import load_domain
from moe_ray.microworld.build import (
    ARCHITECTURES,
    BASELINE,
    BUDGETS,
    SHAPES,
    build_microworld,
    domain_configs,
    training_specs,
)
from moe_ray.microworld.data import pair_of, read_pairs
from moe_ray.microworld.spec import Budget, TrainingResult, TrainingSpec, cached_result
from moe_ray.microworld.worlds import SYNTHETIC

MOST_PARAMETERS = 1_000_000
LARGEST_DIFFERENCE = 0.1

Train = Callable[[TrainingSpec], TrainingResult]


@dataclass(frozen=True, kw_only=True)
class Built:
    """A tiny micro-world that was built, with what was trained for it."""

    experiment: Path
    cache: Path
    results: dict[str, TrainingResult]
    specs: dict[str, TrainingSpec]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Built]:
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOE_RAY_CACHE", str(cache))
        results: dict[str, TrainingResult] = {}

        def train_here(train: Train, specs: Sequence[TrainingSpec]) -> Iterable[TrainingResult]:
            results.update({spec.name: train(spec) for spec in specs})
            return results.values()

        directory = tmp_path_factory.mktemp("microworld")
        experiment = build_microworld(directory, "tiny", train_here)
        yield Built(experiment=experiment, cache=cache, results=results, specs=training_specs(directory, "tiny"))


def refuse(train: Train, specs: Sequence[TrainingSpec]) -> Iterable[TrainingResult]:
    raise AssertionError(f"asked to train {[spec.name for spec in specs]}")


def test_training_lowers_the_loss_of_every_model(built: Built) -> None:
    assert set(built.results) == set(ARCHITECTURES)
    for result in built.results.values():
        assert result.losses[-1][1] < 0.5 * result.losses[0][1], result
        assert result.losses[-1][0] == BUDGETS["tiny"].num_steps


def test_what_was_trained_is_not_trained_again(built: Built, tmp_path: Path) -> None:
    assert build_microworld(tmp_path, "tiny", refuse).is_file()
    kept = cached_result(built.specs["code"])
    assert kept == replace(built.results["code"], cached=True)


def test_training_again_elsewhere_gives_the_same_weights(built: Built, tmp_path: Path) -> None:
    from moe_ray.microworld.training import train_model

    again = train_model(replace(built.specs["legal"], cache_dir=str(tmp_path)))
    weights = "model.safetensors"
    assert (again.checkpoint / weights).read_bytes() == (built.results["legal"].checkpoint / weights).read_bytes()


def test_an_unfinished_training_leaves_no_checkpoint(built: Built, tmp_path: Path) -> None:
    from moe_ray.microworld import training

    spec = replace(built.specs["legal"], cache_dir=str(tmp_path))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "RESULT_FILE", "no-such-folder/training.json")
        with pytest.raises(FileNotFoundError):
            training.train_model(spec)
    assert cached_result(spec) is None
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_content_names_a_training_and_its_place_does_not(built: Built, tmp_path: Path) -> None:
    spec = built.specs["code"]
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes(Path(spec.pairs_files[0]).read_bytes())
    assert replace(spec, pairs_files=(str(copy),), cache_dir="/elsewhere").fingerprint == spec.fingerprint
    changed = (
        replace(spec, seed=1),
        replace(spec, architecture="mistral"),
        replace(spec, budget=Budget(num_steps=1, batch_rows=1, learning_rate=1e-3)),
        replace(spec, pairs_files=(*spec.pairs_files, str(copy))),
    )
    assert len({spec.fingerprint, *(other.fingerprint for other in changed)}) == len(changed) + 1


def test_experts_and_baseline_are_of_the_real_architectures_and_of_one_size(built: Built) -> None:
    from transformers import AutoConfig

    classes = {
        name: AutoConfig.from_pretrained(result.checkpoint).architectures for name, result in built.results.items()
    }
    assert classes == {
        "biomedical": ["Phi3ForCausalLM"],
        "legal": ["MistralForCausalLM"],
        "code": ["Qwen2ForCausalLM"],
        BASELINE: ["MistralForCausalLM"],
    }
    counts = [result.num_parameters for result in built.results.values()]
    assert max(counts) <= (1 + LARGEST_DIFFERENCE) * min(counts)


def test_the_models_of_the_demo_have_equal_budgets_and_at_most_a_million_parameters(tmp_path: Path) -> None:
    from moe_ray.microworld.data import load_tokenizer, write_world
    from moe_ray.microworld.training import new_model

    write_world(tmp_path / "data", "demo")
    specs = training_specs(tmp_path, "demo")
    tokenizer = load_tokenizer(Path(next(iter(specs.values())).tokenizer_file))
    counts = {name: num_parameters(new_model(spec, tokenizer)) for name, spec in specs.items()}
    assert max(counts.values()) <= MOST_PARAMETERS
    assert max(counts.values()) <= (1 + LARGEST_DIFFERENCE) * min(counts.values())
    assert {spec.budget for spec in specs.values()} == {BUDGETS["demo"]}
    assert {spec.shape for spec in specs.values()} == {SHAPES["demo"]}


def num_parameters(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_every_checkpoint_reads_text_alike_and_gives_programs_back(built: Built) -> None:
    from transformers import AutoTokenizer

    text = read_pairs(Path(built.specs["code"].pairs_files[0]))[0].target
    tokenizers = [AutoTokenizer.from_pretrained(result.checkpoint) for result in built.results.values()]
    read = [tokenizer.encode(text, add_special_tokens=False) for tokenizer in tokenizers]
    assert all(ids == read[0] for ids in read)
    assert [tokenizer.decode(ids) for tokenizer, ids in zip(tokenizers, read, strict=True)] == [text] * len(read)
    ends = {(tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) for tokenizer in tokenizers}
    assert ends == {("<|bos|>", "<|eos|>", "<|pad|>")}


def test_generation_knows_where_an_answer_ends(built: Built) -> None:
    from transformers import AutoTokenizer, GenerationConfig

    for result in built.results.values():
        generation = GenerationConfig.from_pretrained(result.checkpoint)
        tokenizer = AutoTokenizer.from_pretrained(result.checkpoint)
        assert (generation.eos_token_id, generation.pad_token_id) == (tokenizer.eos_token_id, tokenizer.pad_token_id)


def test_models_are_trained_on_the_prompts_that_the_evaluation_asks(built: Built) -> None:
    directory = built.experiment.parent
    for name, config in domain_configs("tiny").items():
        source = config.data.model_copy(update={"source": config.data.source.replace("/test/", "/train/")})
        examples = load_domain(name, config.model_copy(update={"data": source}), directory).examples
        learned = read_pairs(directory / "training" / f"{name}.jsonl")
        assert {pair_of(example) for example in examples} == set(learned)


def test_the_first_word_of_a_biomedical_target_is_the_decision(built: Built) -> None:
    for pair in read_pairs(built.experiment.parent / "training" / "biomedical.jsonl"):
        assert pair.target.split(".")[0] in ("yes", "no", "maybe")


def test_the_experiment_file_is_valid_says_synthetic_and_names_existing_places(built: Built) -> None:
    config = load_experiment(built.experiment).config
    for model in config.models.values():
        assert is_local_path(model.path)
        assert (Path(model.path) / "model.safetensors").is_file()
        assert model.notes == (SYNTHETIC,)
    for domain in config.domains.values():
        assert is_local_path(domain.data.source)
        assert (built.experiment.parent / domain.data.source).is_file()
        assert domain.notes == (SYNTHETIC,)
    assert "SYNTHETIC" in config.description
    assert {config.domains[name].expert for name in config.domains} | {config.baseline} == set(config.models)
