"""What of a mixture answers, read from config.json alone: which rows of an experiment can name an expert."""

import json
from pathlib import Path
from typing import Any

import pytest

from moe_ray.checkpoints.identity import FileHashes, inspect_checkpoint
from moe_ray.config.schema import ModelConfig
from moe_ray.engines.registry import require_checkpoint, text_settings, validate_engine
from moe_ray.engines.transformers.mixture import MAX_EXPERTS, forward_choice, mixture_facts
from moe_ray.errors import ConfigError

GATED = {"model_type": "gated_mixture", "num_experts": 2, "expert_names": ["legal", "code"]}
BY_TOKEN = {"model_type": "gpt2_moe", "num_experts": 3, "num_experts_per_tok": 2}
MIXTRAL = {"model_type": "mixtral", "num_local_experts": 8}
DENSE = {"model_type": "llama"}


def refusal(config: dict[str, Any], **settings: Any) -> ConfigError:
    model = ModelConfig(path="./m", engine_settings=settings)
    validate_engine(model)
    with pytest.raises(ConfigError) as error:
        require_checkpoint(model, config)
    return error.value


@pytest.mark.parametrize(
    ("config", "expert", "place"),
    [(GATED, "legal", 0), (GATED, "code", 1), (GATED, 1, 1), (GATED, "1", 1), (BY_TOKEN, 2, 2), (BY_TOKEN, "0", 0)],
)
def test_an_expert_is_named_by_name_or_place(config: dict[str, Any], expert: str | int, place: int) -> None:
    assert forward_choice(config, expert=expert, mode=None) == {"forced_expert": place}


def test_a_mode_is_passed_on_and_nothing_where_nothing_is_set() -> None:
    assert forward_choice(GATED, expert=None, mode="select_one") == {"mixture_mode": "select_one"}
    for config in (GATED, BY_TOKEN, MIXTRAL, DENSE, {}):
        assert forward_choice(config, expert=None, mode=None) == {}


@pytest.mark.parametrize(
    ("config", "settings", "key", "said"),
    [
        (GATED, {"expert": "medical"}, "expert", "experts are 0 to 1, or legal, code"),
        (GATED, {"expert": 2}, "expert", "experts are 0 to 1, or legal, code"),
        (BY_TOKEN, {"expert": "code"}, "expert", "experts are 0 to 2"),
        (BY_TOKEN, {"mode": "select_one"}, "mode", "mixes experts for each token"),
        (MIXTRAL, {"expert": 0}, "expert", "no way to let one expert answer alone"),
        (MIXTRAL, {"expert": 8}, "expert", "experts are 0 to 7"),
        (DENSE, {"expert": 0}, "expert", "llama has no experts"),
        (DENSE, {"mode": "select_one"}, "mode", "llama has no experts"),
    ],
)
def test_a_choice_that_a_checkpoint_does_not_have_names_its_key_and_a_remedy(
    config: dict[str, Any], settings: dict[str, Any], key: str, said: str
) -> None:
    error = refusal(config, **settings)
    assert error.where == f"engine_settings.{key}"
    assert said in f"{error.what}; {error.remedy}"
    assert error.remedy


def test_what_is_not_at_hand_is_left_to_the_engine() -> None:
    require_checkpoint(ModelConfig(path="owner/name", engine_settings={"expert": "code"}), None)


@pytest.mark.parametrize("expert", [True, -1, "", 1.5])
def test_an_expert_is_a_name_or_a_place(expert: object) -> None:
    with pytest.raises(ConfigError, match=r"engine_settings\.expert"):
        validate_engine(ModelConfig(path="./m", engine_settings={"expert": expert}))


def test_both_settings_decide_the_text_and_batching_does_not() -> None:
    given = {"expert": "code", "mode": "select_one", "batching": "static"}
    assert text_settings("transformers", given) == {"expert": "code", "mode": "select_one"}
    assert text_settings("transformers", {}) == {}


@pytest.mark.parametrize(
    ("config", "expert", "spelled"),
    [(GATED, "code", "code"), (GATED, 1, "code"), (GATED, "1", "code"), (BY_TOKEN, 2, 2), (BY_TOKEN, "2", 2)],
)
def test_a_name_and_a_place_of_one_expert_have_one_fingerprint(
    config: dict[str, Any], expert: str | int, spelled: str | int
) -> None:
    assert text_settings("transformers", {"expert": expert}, config) == {"expert": spelled}


@pytest.mark.parametrize(("config", "expert"), [(GATED, "medical"), (GATED, 7), (DENSE, 0)])
def test_an_expert_that_does_not_exist_is_left_to_the_check_of_the_checkpoint(
    config: dict[str, Any], expert: str | int
) -> None:
    assert text_settings("transformers", {"expert": expert}, config) == {"expert": expert}


def test_two_spellings_of_one_expert_are_one_model_to_the_store(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(GATED))
    hashes = FileHashes(tmp_path / "hashes")
    models = [ModelConfig(path=str(tmp_path), engine_settings={"expert": expert}) for expert in (1, "code", "legal")]
    by_place, code, legal = (inspect_checkpoint("m", model, hashes).identity.key for model in models)
    assert by_place == code != legal


def test_a_claim_of_a_billion_experts_is_no_mixture() -> None:
    for number in (MAX_EXPERTS + 1, 10**12, -1, "many"):
        assert mixture_facts({"model_type": "x", "num_experts": number}).expert_names == ()
