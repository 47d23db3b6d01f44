from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
from pydantic import BaseModel

from moe_ray.config.dump import starter_text
from moe_ray.config.load import load_experiment
from moe_ray.config.schema import ExperimentConfig, is_local_path
from moe_ray.moe.btx.request import load_pretrain_config

ROOT = Path(__file__).parents[2]
EXPERIMENTS = sorted((ROOT / "experiments").glob("*.yaml"))


def schema_keys(kind: Any = ExperimentConfig) -> set[str]:
    """Return all keys that an experiment file may hold, at any depth."""
    if get_origin(kind) is not None:
        return set().union(*(schema_keys(part) for part in get_args(kind)))
    if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
        return set()
    return set(kind.model_fields).union(*(schema_keys(field.annotation) for field in kind.model_fields.values()))


def test_the_starter_file_loads_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "starter.yaml").write_text(starter_text(), encoding="utf-8")
    config = load_experiment(tmp_path / "starter.yaml").config
    assert config.baseline in config.models
    assert all(config.models_of(domain) for domain in config.domains)


def test_the_starter_file_shows_the_defaults_that_it_comments_out(tmp_path: Path) -> None:
    lines = [line.replace("# ", "", 1) if _is_default(line) else line for line in starter_text().splitlines()]
    (tmp_path / "full.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (tmp_path / "starter.yaml").write_text(starter_text(), encoding="utf-8")
    assert load_experiment(tmp_path / "full.yaml").config == load_experiment(tmp_path / "starter.yaml").config


def _is_default(line: str) -> bool:
    """Say whether a line is `# key: value`, and not prose or an example of another value."""
    word = line.strip().removeprefix("# ").split(":")[0]
    examples = ("revision", "ids_file", "system", "template", "completion_template", "stop", "prompt", "max_new_tokens")
    return line.strip().startswith("# ") and word in schema_keys() - set(examples) and not _is_own_domain(line)


def _is_own_domain(line: str) -> bool:
    return line.startswith("  #   ")


def test_the_starter_file_and_the_documentation_name_every_key() -> None:
    reference = (ROOT / "docs" / "reference" / "config.md").read_text(encoding="utf-8")
    for key in schema_keys():
        assert f"{key}:" in starter_text(), f"starter.yaml does not mention {key}"
        assert f"`{key}`" in reference, f"docs/reference/config.md does not mention {key}"


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_experiment_loads_and_its_local_files_are_there(path: Path) -> None:
    config = load_experiment(path).config
    assert config.name == path.stem
    sources = [domain.data.source for domain in config.domains.values()]
    replies = [str(model.engine_settings.get("replies", "")) for model in config.models.values()]
    for source in (*sources, *replies):
        assert not is_local_path(source) or Path(source).is_file()


def test_the_experts_that_are_trained_apart_are_those_of_their_experiment() -> None:
    training = load_pretrain_config(ROOT / "experiments" / "experts-apart" / "pretrain.yaml")
    domains = load_experiment(ROOT / "experiments" / "experts-apart.yaml").config.domains
    assert set(domains) <= set(training.experts)
    assert training.base_model == str(ROOT / "models" / "gpt-neo-125m")


def test_the_experiment_that_was_asked_for_is_there() -> None:
    config = load_experiment(ROOT / "experiments" / "three-experts.yaml").config
    experts = {name: config.models[domain.expert or ""].path for name, domain in config.domains.items()}
    assert experts == {
        "biomedical": "microsoft/MediPhi-Instruct",
        "legal": "Equall/Saul-7B-Instruct-v1",
        "code": "Qwen/Qwen2.5-Coder-3B",
    }
    assert config.models[config.baseline or ""].path == "mistralai/Mistral-7B-Instruct-v0.3"
    assert config.decoding.max_new_tokens == 256
    assert config.models[config.domains["code"].expert or ""].prompt_style == "completion"
    assert any("Law Stack Exchange" in note for model in config.models.values() for note in model.notes)


def test_the_small_version_asks_for_the_same_with_fewer_examples() -> None:
    full = load_experiment(ROOT / "experiments" / "three-experts.yaml").config
    small = load_experiment(ROOT / "experiments" / "three-experts-small.yaml").config
    assert {name: model.path for name, model in small.models.items()} == {
        name: model.path for name, model in full.models.items()
    }
    assert {domain.max_examples for domain in small.domains.values()} == {50}
