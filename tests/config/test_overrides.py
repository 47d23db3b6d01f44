from pathlib import Path

import pytest

from moe_ray.config.load import load_experiment, override
from moe_ray.config.schema import ExperimentConfig
from moe_ray.errors import ConfigError

from .bad_configs import GOOD


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "experiment.yaml"
    graders = GOOD.replace("    task:", "    graders: [decision, rouge_l]\n    task:")
    path.write_text(graders.replace("  general:", "  qwen2.5-coder: {path: org/q}\n  general:") + "matrix: full\n")
    return path


def config(file: Path, *overrides: str) -> ExperimentConfig:
    return load_experiment(file, overrides).config


def refuse(file: Path, *overrides: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load_experiment(file, overrides)
    return caught.value


def test_a_value_is_read_as_yaml(file: Path) -> None:
    new = config(file, "decoding.max_new_tokens=64", "decoding.temperature=5e-1", "likelihood=false", "description=a b")
    assert (new.decoding.max_new_tokens, new.decoding.temperature) == (64, 0.5)
    assert (new.likelihood, new.description) == (False, "a b")
    assert config(file, "domains.biomedical.graders=[a, no]").domains["biomedical"].graders == ("a", "no")
    assert config(file, "runtime.sandbox={timeout_s: 9}").runtime.sandbox.timeout_s == 9


def test_sections_on_the_way_are_made_and_the_rest_stays(file: Path) -> None:
    new = config(file, "runtime.sandbox.memory_mib=64", "models.new.path=org/new", "models.new.dtype=float16")
    assert new.runtime.sandbox.memory_mib == 64
    assert (new.models["new"].path, new.models["new"].dtype) == ("org/new", "float16")
    assert new.models["mediphi"].dtype == "float32"


def test_the_last_of_two_overrides_wins(file: Path) -> None:
    assert config(file, "decoding.seed=1", "decoding.seed=2").decoding.seed == 2


def test_nothing_after_the_equals_sign_is_null(file: Path) -> None:
    assert config(file, "baseline=").baseline is None


def test_an_equals_sign_in_the_value_belongs_to_the_value(file: Path) -> None:
    assert config(file, "description=a=b").description == "a=b"


def test_names_with_dots_go_in_quotes_of_either_kind(file: Path) -> None:
    for name in ('"qwen2.5-coder"', "'qwen2.5-coder'"):
        assert config(file, f"models.{name}.dtype=float16").models["qwen2.5-coder"].dtype == "float16"


def test_a_name_with_dots_without_quotes_is_answered_with_the_quotes(file: Path) -> None:
    error = refuse(file, "models.qwen2.5-coder.dtype=float16")
    assert 'models."qwen2.5-coder"' in (error.remedy or "")


def test_an_item_of_a_list_is_named_by_its_place(file: Path) -> None:
    assert config(file, "domains.biomedical.graders.1=bleu").domains["biomedical"].graders == ("decision", "bleu")


def test_a_path_that_is_typed_is_relative_to_the_current_folder(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    typed = config(file, "models.mediphi.path=./typed", "domains.biomedical.data={source: ./rows.jsonl}")
    assert typed.models["mediphi"].path == str(tmp_path / "here" / "typed")
    assert typed.domains["biomedical"].data.source == str(tmp_path / "here" / "rows.jsonl")


@pytest.mark.parametrize(
    ("given", "where", "what"),
    [
        ("models.mediphi.dtyp=float32", "", "unknown key; did you mean dtype?"),
        ("modles.mediphi.dtype=float32", ": modles", "unknown key; did you mean models?"),
        ("models.medphi.dtype=float32", ": models.medphi.path", "the file has no models.medphi; did you mean mediphi?"),
        ("models.mediphi.dtype=float31", "", "not float31; did you mean float32?"),
        ("decoding.max_new_tokens=many", "", "must be a whole number, not many"),
        ("decoding={seed: x}", ": decoding.seed", "must be a whole number, not x"),
        ("max_new_tokens=3", "", "did you mean domains.NAME.max_new_tokens or decoding.max_new_tokens?"),
        (
            "domains.biomedical.graders.2=x",
            "",
            "graders is a list of 2, and 2 is not an index of it",
        ),
        ("domains.biomedical.graders.x=x", "", "is a list of 2, and x is not an index of it"),
        ("baseline.path=x", "", "baseline is a single value and has no key path"),
        ("baseline=generl", "", "no model is named generl; did you mean general?"),
        ("description=a: b: c", "", "a second `key: value`"),
        ("decoding.seed", "", "no KEY=VALUE"),
        ("=3", "", "no KEY=VALUE"),
        ("decoding..seed=3", "", "no KEY=VALUE"),
    ],
)
def test_a_wrong_override_is_refused_with_the_option_and_the_remedy(
    file: Path, given: str, where: str, what: str
) -> None:
    error = refuse(file, given)
    assert error.where == f"--set {given}{where}"
    assert what in error.what


def test_overrides_in_the_file_and_on_the_line_are_told_apart(file: Path) -> None:
    file.write_text(file.read_text() + "likelihood: 3\n")
    lines = refuse(file, "decoding.seed=x").what.splitlines()
    assert "--set decoding.seed=x: must be" in lines[1]
    assert f"{file}:16: likelihood: must be" in lines[2]


@pytest.mark.parametrize("value", ["./a b", "no", "1e3", "a: b", "{x}", "", "é", "a\nb", 3, 0.5, None, True])
def test_an_option_for_one_key_is_spelled_so_that_its_value_comes_back(file: Path, value: object) -> None:
    spelled = override(("models", "qwen2.5-coder", "engine_settings", "x"), value)
    read = config(file, spelled).models["qwen2.5-coder"].engine_settings["x"]
    assert read == value
    assert type(read) is type(value)
