"""The setting `intervention`: a mixture without some experts is one more model of an experiment."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from moe_ray.checkpoints.identity import FileHashes, inspect_checkpoint
from moe_ray.config.schema import ModelConfig
from moe_ray.engines.registry import require_checkpoint, text_settings, validate_engine
from moe_ray.engines.settings import TransformersSettings
from moe_ray.engines.transformers.intervened import sites_of
from moe_ray.engines.transformers.loading import load
from moe_ray.errors import ConfigError, ModelError, RunDirectoryError
from moe_ray.specialisation.ablation.measuring import AblationMeter, AblationOptions, RemovedUnit
from moe_ray.specialisation.ablation.scoring import scored_texts
from moe_ray.specialisation.prune_model import prune_checkpoint
from moe_ray.specialisation.texts import SourceText
from tests.engines.asking import ONE_ROW, ROOMY, ask_all, completion, engine, measure
from tests.runs.experiments import write
from tests.specialisation.families import make
from tests.support.inline import Inline, inline
from tests.support.plots import undrawn_plots
from tests.support.tiny_models import make_tiny_checkpoint, make_tokenizer

__all__ = ["inline", "undrawn_plots"]

MIXTRAL = {"model_type": "mixtral", "num_local_experts": 6}
WITHOUT_3 = {"operation": "zero", "layers": [1], "experts": [3]}
CHOICES = (" law", " cell", " no")


def saved(folder: Path, family: str = "mixtral", **changes: Any) -> Path:
    transformers.utils.logging.disable_progress_bar()
    tokenizer = make_tokenizer()
    model = make(family, vocab_size=len(tokenizer), **changes)
    model.generation_config = transformers.GenerationConfig(eos_token_id=tokenizer.eos_token_id)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("mixtral"))


def answers(folder: Path, limits: Any = ROOMY, **settings: Any) -> list[str]:
    return [one.text for one in engine(folder, limits, engine_settings=settings).generate(ask_all(num=8))]


def likelihoods(folder: Path, limits: Any = ROOMY, **settings: Any) -> list[Any]:
    return asked(engine(folder, limits, engine_settings=settings))


def asked(loaded: Any) -> list[Any]:
    requests = [measure(completion(text, choices=CHOICES), id=text) for text in ("the court is", "a drug and the")]
    return [one.loglikelihoods for one in loaded.loglikelihoods(requests)]


@pytest.mark.parametrize(
    "given",
    [WITHOUT_3, "zero:3@1", {"operation": "zero", "layers": 1, "experts": 3}, {**WITHOUT_3, "experts": [3, 3]}],
)
def test_each_spelling_is_one_setting_that_decides_the_text(given: object, mixture: Path) -> None:
    assert text_settings("transformers", {"intervention": given}) == {"intervention": "zero:3@1"}
    assert text_settings("transformers", {"intervention": given}, MIXTRAL) == {"intervention": "zero:3@1"}
    fingerprints = {
        inspect_checkpoint("m", ModelConfig(path=str(mixture), engine_settings=settings), FileHashes()).identity.key
        for settings in ({}, {"intervention": given}, {"intervention": "zero:3@0"}, {"intervention": "reroute:3@1"})
    }
    assert len(fingerprints) == 4


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("zap:3", "'zap:3' is not an intervention"),
        ({"operation": "zero"}, "is not an intervention"),
        ({**WITHOUT_3, "layer": 1}, "is not an intervention"),
        ({**WITHOUT_3, "experts": "3"}, "experts: '3' is not a list of numbers"),
        ({**WITHOUT_3, "experts": []}, "is not an intervention"),
        ({**WITHOUT_3, "experts": [True]}, "is not a list of numbers"),
        ({**WITHOUT_3, "layers": [-1]}, "is not a list of numbers"),
        ({**WITHOUT_3, "operation": ["zero"]}, "is not an intervention"),
        ("swap:3@1", "an engine does not offer swap, but zero, renormalise, reroute and prune"),
        (3, "3 is not an intervention"),
    ],
)
def test_what_is_no_intervention_is_refused_with_its_key(given: object, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        validate_engine(ModelConfig(path="./m", engine_settings={"intervention": given}))
    assert said in str(error.value)
    assert error.value.where == "engine_settings.intervention"


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"model_type": "llama"}, "llama has no experts"),
        ({"model_type": "gated_mixture", "num_experts": 6}, "its gate decides once for a whole text"),
        ({"model_type": "olmoe", "num_experts": 3}, "there is no expert 3"),
        ({"model_type": "dbrx", "ffn_config": {"moe_num_experts": 2}}, "there is no expert 3"),
    ],
)
def test_a_checkpoint_that_rules_it_out_is_refused_before_it_is_loaded(config: dict[str, Any], said: str) -> None:
    model = ModelConfig(path="./m", engine_settings={"intervention": WITHOUT_3})
    validate_engine(model)
    with pytest.raises(ConfigError, match=said):
        require_checkpoint(model, config)
    require_checkpoint(model, MIXTRAL)
    require_checkpoint(model, {"model_type": "longcat_flash", "n_routed_experts": 2, "zero_expert_num": 2})


def test_one_expert_alone_loses_no_other() -> None:
    with pytest.raises(ConfigError, match="intervention has no effect beside expert"):
        validate_engine(ModelConfig(path="./m", engine_settings={"intervention": "zero:1", "expert": 0}))


def test_what_only_the_loaded_model_shows_is_refused_when_it_is_loaded(mixture: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="layer 5 has no experts"):
        engine(mixture, engine_settings={"intervention": "zero:3@5"})
    with pytest.raises(ModelError, match="would keep 1 expert"):
        engine(mixture, engine_settings={"intervention": "prune:0,1,2,3,4"})
    with pytest.raises(ModelError, match="no experts found in LlamaForCausalLM"):
        engine(make_tiny_checkpoint(tmp_path / "dense", "llama"), engine_settings={"intervention": "zero:0"})
    with pytest.raises(ModelError, match="an intervention is not applied in recorded"):
        engine(mixture, engine_settings={"intervention": "zero:3", "batching": "continuous"})


def test_the_pruned_checkpoint_says_the_same_in_text_and_likelihoods(mixture: Path, tmp_path: Path) -> None:
    prune_checkpoint(str(mixture), [0, 3], tmp_path / "pruned")
    intact, pruned = answers(mixture), answers(tmp_path / "pruned")
    assert intact != pruned
    assert answers(mixture, intervention="prune:0,3") == pruned
    assert likelihoods(mixture, intervention="prune:0,3") == likelihoods(tmp_path / "pruned")


@pytest.mark.parametrize("operation", ["zero", "renormalise", "reroute", "prune"])
def test_an_answer_does_not_depend_on_what_else_is_in_the_batch(mixture: Path, operation: str) -> None:
    chosen = f"{operation}:3@1"
    assert answers(mixture, ONE_ROW, intervention=chosen) == answers(mixture, intervention=chosen)
    together, alone = likelihoods(mixture, intervention=chosen), likelihoods(mixture, ONE_ROW, intervention=chosen)
    assert np.allclose(together, alone, atol=1e-5)
    assert not np.allclose(alone, likelihoods(mixture, ONE_ROW), atol=1e-5)


def test_a_stream_has_the_text_of_a_batch_and_the_end_restores_the_model(mixture: Path) -> None:
    found = engine(mixture, engine_settings={"intervention": "zero:3"})
    requests = ask_all(num=8)
    assert [found.submit(one).result().text for one in requests] == [one.text for one in found.generate(requests)]
    intact = likelihoods(mixture)
    found.close()
    assert asked(found) == intact


@pytest.mark.parametrize("family", ["mixtral", "olmoe"])
@pytest.mark.parametrize("operation", ["zero", "renormalise", "reroute"])
def test_log_p_of_a_choice_changes_as_much_as_in_an_ablation(family: str, operation: Any, tmp_path: Path) -> None:
    folder = saved(tmp_path / family, family)
    config = ModelConfig(path=str(folder), prompt_style="completion")
    loaded = load(config, TransformersSettings())
    sites, options = sites_of(loaded, name="m"), AblationOptions(operation=operation, num_draws=20)
    meter = AblationMeter(loaded, sites, [RemovedUnit(expert=3, at=1)], options, name="m")
    queries = ["the court is", "a drug and the", "def sum of the list"]
    texts = [SourceText(text_id=one, label="law", text=one, choices=CHOICES, answer=0) for one in queries]
    intact, changed = (
        engine(folder, ONE_ROW, engine_settings=settings).loglikelihoods(
            [measure(completion(one, choices=CHOICES), id=one) for one in queries]
        )
        for settings in ({}, {"intervention": f"{operation}:3@1"})
    )
    for at, text in enumerate(scored_texts(texts, loaded, config, max_tokens=32)):
        assert text is not None
        ablated = meter.measure(text)
        logs = [torch.tensor(one[at].loglikelihoods).log_softmax(dim=0)[0].item() for one in (intact, changed)]
        assert ablated.intact == pytest.approx(logs[0], abs=1e-5)
        assert ablated.intact + ablated.removed[0] == pytest.approx(logs[1], abs=1e-5)


def test_an_intervened_model_is_one_more_row_of_an_experiment(mixture: Path, tmp_path: Path, inline: Inline) -> None:
    prune_checkpoint(str(mixture), [3], tmp_path / "pruned")
    row = {"engine": "transformers", "prompt_style": "completion", "path": str(mixture), "engine_settings": {}}
    removed = {"intervention": {"operation": "prune", "experts": [3]}}
    models = {
        "m": row,
        "m-without-3": {**row, "engine_settings": removed},
        "pruned": {**row, "path": str(tmp_path / "pruned")},
    }
    run = inline.evaluate(write(tmp_path, models, baseline="m", matrix="full")).run
    said: dict[str, dict[Any, Any]] = {name: {} for name in models}
    for one in run.answers():
        said[one.model][one.domain, one.example_id, one.kind] = (one.text, one.loglikelihoods)
    assert said["m-without-3"] == said["pruned"] != said["m"]
    num_computed = len(inline.computed)
    models["m-without-2"] = {**row, "engine_settings": {"intervention": "prune:2"}}
    inline.evaluate(write(tmp_path, models, baseline="m", matrix="full"))
    assert {cell.model for cell in inline.computed[num_computed:]} == {"m-without-2"}
    models["m-without-3"]["engine_settings"] = {"intervention": "prune:1"}
    with pytest.raises(RunDirectoryError, match="intervention: prune:3 -> prune:1"):
        inline.evaluate(write(tmp_path, models, baseline="m", matrix="full"))
