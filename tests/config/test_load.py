import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from moe_ray.config.dump import dump_experiment
from moe_ray.config.load import LoadedExperiment, load_experiment
from moe_ray.config.paths import resolve
from moe_ray.config.schema import ExperimentConfig
from moe_ray.errors import ConfigError

from .bad_configs import GOOD

DECISION = """\
name: labels
models: {a: {path: ./a}}
baseline: a
domains:
  d:
    task: decision
    data: {source: ./d.jsonl}
    choices: %s
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "experiment.yaml"


def load(file: Path, text: str) -> LoadedExperiment:
    file.write_text(text)
    return load_experiment(file)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("[yes, no, maybe]", ("yes", "no", "maybe")),
        ("[true, False]", ("true", "False")),
        ("[on, off, ~x]", ("on", "off", "~x")),
        ("[1, 2.50, 007]", ("1", "2.50", "007")),
        ("[2024-01-01, 1:30, 0x10, 1e3]", ("2024-01-01", "1:30", "0x10", "1e3")),
        ("\n    - 'yes'\n    - y", ("yes", "y")),
    ],
)
def test_labels_are_the_text_that_is_written(file: Path, written: str, read: tuple[str, ...]) -> None:
    assert load(file, DECISION % written).config.domains["d"].choices == read


def test_a_commit_of_digits_stays_the_commit_it_is(file: Path) -> None:
    text = GOOD.replace("dtype: float32", "revision: 0123e10")
    assert load(file, text).config.models["mediphi"].revision == "0123e10"


def test_a_switch_takes_the_words_that_yaml_once_knew(file: Path) -> None:
    for word, value in (("yes", True), ("no", False), ("off", False), ("true", True)):
        assert load(file, GOOD + f"likelihood: {word}\n").config.likelihood is value


def test_numbers_with_an_exponent_are_numbers(file: Path) -> None:
    assert load(file, GOOD + "decoding: {temperature: 1e-3}\n").config.decoding.temperature == 0.001


def test_a_section_with_all_its_keys_commented_out_keeps_its_defaults(file: Path) -> None:
    config = load(file, GOOD + "runtime:\n  # batch_size: 4\ndecoding:\n").config
    assert config == load(file, GOOD).config


def test_anchors_and_merge_keys_work_and_own_keys_win(file: Path) -> None:
    text = """\
name: merged
models:
  a: &common {path: org/a, dtype: float32, notes: [one]}
  b:
    dtype: bfloat16
    <<: *common
matrix: full
domains:
  d: {task: mbpp, data: {source: org/d}}
"""
    models = load(file, text).config.models
    assert (models["b"].path, models["b"].dtype, models["b"].notes) == ("org/a", "bfloat16", ("one",))


def test_plain_values_agree_with_pyyaml_on_what_both_read_alike(file: Path) -> None:
    text = GOOD + "decoding: {seed: 3, temperature: 0.5, top_p: 0.25}\nlikelihood: false\n"
    assert load(file, text).config == ExperimentConfig.model_validate(yaml.safe_load(text))


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())
    assert load_experiment(file).config.name == "good"


def test_local_paths_are_relative_to_the_file_and_hub_ids_stay(tmp_path: Path) -> None:
    text = """\
name: paths
models:
  here: {path: ./m/../here, tokenizer: ../tok, engine: scripted, engine_settings: {replies: ./r.jsonl, text: "~ a b"}}
  hub: {path: org/hub}
  home: {path: ~/home}
matrix: full
domains:
  d: {task: mbpp, data: {source: rows.jsonl, ids_file: ids.txt}}
"""
    (tmp_path / "sub").mkdir()
    config = load(tmp_path / "sub" / "e.yaml", text).config
    here = config.models["here"]
    assert here.path == str(tmp_path / "sub" / "here")
    assert here.tokenizer == str(tmp_path / "tok")
    assert here.engine_settings == {"replies": str(tmp_path / "sub" / "r.jsonl"), "text": "~ a b"}
    assert config.models["hub"].path == "org/hub"
    assert config.models["home"].path == str(Path.home() / "home")
    assert config.domains["d"].data.source == str(tmp_path / "sub" / "rows.jsonl")
    assert config.domains["d"].data.ids_file == str(tmp_path / "sub" / "ids.txt")
    assert config.output.results_dir == Path("results")
    assert resolve(config, lambda _: Path("/elsewhere")) == config


def test_a_file_named_from_another_folder_means_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    direct = load(tmp_path / "e.yaml", GOOD.replace("org/mediphi", "./m"))
    monkeypatch.chdir(tmp_path.parent)
    relative = load_experiment(Path(tmp_path.name) / "e.yaml")
    assert relative.config == direct.config
    assert relative.base_dir == tmp_path
    assert relative.text == direct.text


def test_a_key_is_found_again_for_later_messages(file: Path) -> None:
    loaded = load(file, GOOD)
    assert loaded.where("models.mediphi.dtype") == f"{file}:6: models.mediphi.dtype"
    assert loaded.where("domains.biomedical.columns.label") == f"{file}:9: domains.biomedical.columns.label"
    assert loaded.where("unheard.of") == "unheard.of"


AWKWARD = {
    "name": "1e3",
    "description": "two\nlines: {a} # b\n  and \u00e9 \U0001f9ec 'quoted' \"twice\"\t.",
    "models": {
        "true": {
            "path": "org/on",
            "revision": "0123",
            "engine_settings": {"a": "1e3", "b": "no", "c": None, "d": [1, 2.5, "2", True, "true", "~", ""], "e": 1e-9},
            "notes": ["2024-01-01", "- a", "&b", "null", " space "],
        }
    },
    "baseline": "true",
    "domains": {
        "007": {
            "task": "decision",
            "data": {"source": "org/d"},
            "choices": ["yes", "No", "1", "0x1", "1:30"],
            "prompt": {"template": "\n{x}\n\n\ttab\n", "stop": ["\n\n", " "]},
            "settings": {"x": "1.", "y": 1.0, "z": None, "w": False},
        }
    },
}


def test_a_dumped_experiment_loads_again_to_an_equal_one_anywhere(tmp_path: Path) -> None:
    config = ExperimentConfig.model_validate(AWKWARD)
    (tmp_path / "dump.yaml").write_text(dump_experiment(config), encoding="utf-8")
    again = load_experiment(tmp_path / "dump.yaml").config
    assert again == config
    assert dump_experiment(again) == dump_experiment(config)


def test_a_dump_of_resolved_paths_means_the_same_in_another_folder(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    config = load(tmp_path / "e.yaml", GOOD.replace("org/mediphi", "./m").replace("org/data", "./d.jsonl")).config
    assert load(tmp_path / "run" / "config.yaml", dump_experiment(config)).config == config


def test_other_yaml_readers_see_the_labels_of_a_dump_as_texts() -> None:
    config = ExperimentConfig.model_validate(AWKWARD)
    assert yaml.safe_load(dump_experiment(config)) == config.model_dump(mode="json")


def test_loading_is_fast_and_imports_nothing_heavy(file: Path) -> None:
    file.write_text(GOOD)
    code = f"""
import sys
from pathlib import Path
from moe_ray.config.load import load_experiment
from moe_ray.config import dump, identity
load_experiment(Path({str(file)!r}), ["decoding.seed=1"])
heavy = {{"torch", "transformers", "ray", "datasets", "evaluate", "numpy", "scipy", "pyarrow", "matplotlib", "bs4"}}
print(sorted(heavy & set(sys.modules)))
"""
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    assert done.stdout.strip() == "[]"
    assert time.perf_counter() - started < 10


def test_an_experiment_nested_beyond_reading_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "deep.yaml"
    file.write_text(f"name: x\nmodels: {'[' * 300}{']' * 300}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="nested more than 64 levels deep"):
        load_experiment(file)
