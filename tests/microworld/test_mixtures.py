"""A micro-world with two mixtures more: what they are made of, and that they are models like any other."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

from moe_ray import architectures
from moe_ray.checkpoints.identity import FileHashes, inspect_checkpoint
from moe_ray.config.load import load_experiment
from moe_ray.config.schema import ModelConfig
from moe_ray.domains.loading import load_domain
from moe_ray.errors import ConfigError
from moe_ray.microworld import build
from moe_ray.microworld.data import DOMAIN_FILES
from moe_ray.microworld.spec import Budget, TrainingResult, TrainingSpec
from moe_ray.microworld.worlds import SYNTHETIC
from moe_ray.moe.certificate import read_certificate
from moe_ray.planning.fleet import simulated_fleet
from moe_ray.prompts.encoder import chat_text
from moe_ray.runs.evaluate import plan
from tests.engines.asking import ask, completion, engine, measure

MIXTURES = ("merged-mixture", "upcycled-mixture")
ALONE = "merged-code-alone"


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The experiment file of a tiny world whose models have barely learned."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOE_RAY_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setitem(build.BUDGETS, "tiny", Budget(num_steps=8, batch_rows=8, learning_rate=1e-2))
        yield build.build_microworld(tmp_path_factory.mktemp("world"), "tiny", train_here, mixtures=True)


def train_here(train: Any, specs: Sequence[TrainingSpec]) -> Iterable[TrainingResult]:
    return [train(spec) for spec in specs]


def models_of(experiment: Path) -> dict[str, ModelConfig]:
    return dict(load_experiment(experiment).config.models)


def sources_of(experiment: Path) -> dict[str, Path]:
    certificate = read_certificate(Path(models_of(experiment)["merged-mixture"].path))
    return {source.name: Path(source.path) for source in certificate.sources}


def test_the_experiment_has_the_mixtures_beside_baseline_and_experts(experiment: Path) -> None:
    config = load_experiment(experiment).config
    experts = {domain.expert for domain in config.domains.values()}
    assert set(config.models) == {config.baseline, *experts, *MIXTURES, ALONE}
    assert all(model.notes == (SYNTHETIC,) for model in config.models.values())
    assert config.name == "microworld-tiny-mixtures"
    assert all(set(config.models_of(domain)) == set(config.models) for domain in config.domains)


def test_the_fine_tunes_differ_from_the_baseline_in_their_feed_forwards_alone(experiment: Path) -> None:
    baseline = load_file(Path(models_of(experiment)["baseline"].path) / "model.safetensors")
    assert set(sources_of(experiment)) == set(DOMAIN_FILES)
    for directory in sources_of(experiment).values():
        tuned = load_file(directory / "model.safetensors")
        changed = {name for name, tensor in tuned.items() if not torch.equal(tensor, baseline[name])}
        assert changed == {name for name in tuned if ".mlp." in name}


def test_both_mixtures_hold_the_same_three_networks_of_each_layer(experiment: Path) -> None:
    models = models_of(experiment)
    tensors = {name: load_file(Path(models[name].path) / "model.safetensors") for name in MIXTURES}
    for expert, directory in enumerate(sources_of(experiment).values()):
        down = load_file(directory / "model.safetensors")["model.layers.1.mlp.down_proj.weight"]
        merged = tensors["merged-mixture"][f"language_model.model.layers.1.mlp.experts.{expert}.down_proj.weight"]
        upcycled = tensors["upcycled-mixture"][f"model.layers.1.block_sparse_moe.experts.{expert}.w2.weight"]
        assert torch.equal(merged, down)
        assert torch.equal(upcycled, down)


def test_certificates_say_that_the_mixtures_are_exact(experiment: Path) -> None:
    models = models_of(experiment)
    merged, upcycled = (read_certificate(Path(models[name].path)) for name in MIXTURES)
    assert (merged.kind, upcycled.kind) == ("merged", "upcycled")
    assert all(one.max_logit_difference <= 1e-5 and one.reload_equal for one in merged.exactness)
    assert all(layer.measured["exact_layer_difference"] <= 1e-5 for layer in upcycled.layers)
    assert {layer.state for layer in upcycled.layers} == {"converted"}


def test_the_merged_gate_knows_the_domain_of_questions_that_it_has_not_seen(experiment: Path) -> None:
    architectures.register()
    directory = Path(models_of(experiment)["merged-mixture"].path)
    model = transformers.AutoModelForCausalLM.from_pretrained(directory)
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    for place, domain in enumerate(model.config.expert_names):
        config = load_experiment(experiment).config.domains[domain]
        examples = load_domain(domain, config, experiment.parent).examples
        questions = [chat_text(tokenizer, example.prompts["chat"].messages) for example in examples]
        chosen = model.get_gating_probs(questions).argmax(dim=1)
        assert (chosen == place).float().mean() >= 0.9


@pytest.mark.parametrize("name", MIXTURES)
def test_a_mixture_is_planned_and_answers_as_any_model(name: str, experiment: Path, tmp_path: Path) -> None:
    model = models_of(experiment)[name]
    checkpoint = inspect_checkpoint(name, model, FileHashes(tmp_path / "hashes"))
    tensors = load_file(Path(model.path) / "model.safetensors")
    assert checkpoint.num_parameters == sum(tensor.numel() for tensor in tensors.values())
    answers = engine(Path(model.path)).generate([ask(completion(text)) for text in ("does it", "a much longer text")])
    assert [answer.error for answer in answers] == [None, None]


def test_an_expert_of_the_merged_mixture_alone_is_a_row_that_answers_as_its_fine_tune(
    experiment: Path, tmp_path: Path
) -> None:
    models, hashes = models_of(experiment), FileHashes(tmp_path / "hashes")
    alone, merged = models[ALONE], models["merged-mixture"]
    assert alone.path == merged.path
    rows = [inspect_checkpoint("m", model, hashes) for model in (alone, merged)]
    assert rows[0].files_sha256 == rows[1].files_sha256
    assert rows[0].identity.key != rows[1].identity.key
    config = load_experiment(experiment).config.domains["code"]
    prompts = [one.prompts["chat"] for one in load_domain("code", config, experiment.parent).examples[:6]]
    asked = [measure(prompt, id=str(number)) for number, prompt in enumerate(prompts)]

    def measured(directory: str | Path, **settings: Any) -> list[tuple[float | None, ...]]:
        loaded = engine(Path(directory), engine_settings=settings, prompt_style="chat")
        return [found.loglikelihoods for found in loaded.loglikelihoods(asked)]

    row = measured(alone.path, **alone.engine_settings)
    assert row == measured(sources_of(experiment)["code"])
    assert row != measured(merged.path, expert="legal")
    assert row != measured(merged.path)


def test_an_expert_that_the_mixture_does_not_have_is_refused_by_the_plan(experiment: Path) -> None:
    found = load_experiment(experiment, [f"models.{ALONE}.engine_settings.expert=poetry"])
    with pytest.raises(ConfigError) as error:
        plan(found, simulated_fleet("1x80GiB"))
    assert f"models.{ALONE}.engine_settings.expert" in str(error.value)
    assert "experts are 0 to 2, or biomedical, legal, code" in str(error.value)


def test_mixtures_that_are_there_are_not_made_again(experiment: Path, tmp_path: Path) -> None:
    def refuse(train: Any, specs: Sequence[TrainingSpec]) -> Iterable[TrainingResult]:
        raise AssertionError(f"asked to train {[spec.name for spec in specs]}")

    again = build.build_microworld(tmp_path, "tiny", refuse, mixtures=True)
    assert models_of(again) == models_of(experiment)


def test_what_a_training_starts_from_names_it_and_leaves_other_names_as_they_were(experiment: Path) -> None:
    spec = build.training_specs(experiment.parent, "tiny")[build.BASELINE]
    started = replace(spec, start_from="/somewhere/baseline-0123")
    assert started.fingerprint != spec.fingerprint
    assert replace(started, start_from="/elsewhere/baseline-0123").fingerprint == started.fingerprint
    assert replace(started, start_from="/somewhere/baseline-4567").fingerprint != started.fingerprint
