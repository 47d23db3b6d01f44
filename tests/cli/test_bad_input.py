"""Bad input, as data: each case is one cause and one remedy in words, exit code 2, no traceback, nothing lost."""

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from moe_ray.cli.main import app
from moe_ray.cli.terminal import EXIT_USAGE, reported
from moe_ray.files import write_text_atomically
from tests.cli.experiments import ROWS, Change, data, experiment, rows


@dataclass(frozen=True)
class Case:
    name: str
    says: tuple[str, ...]
    change: Change = lambda config, folder: None
    command: tuple[str, ...] = ("evaluate",)
    options: tuple[str, ...] = ()
    text: str | None = None
    file: str = "experiment.yaml"


def model(**values: Any) -> Change:
    return lambda config, folder: config["models"]["base"].update(values)


def domain(**values: Any) -> Change:
    return lambda config, folder: config["domains"]["parity"].update(values)


def checkpoint(write: Callable[[Path], object]) -> Change:
    def change(config: dict[str, Any], folder: Path) -> None:
        (folder / "model").mkdir()
        write(folder / "model")
        config["models"]["base"] = {"path": "./model"}

    return change


def checkpoint_path(path: str) -> Change:
    return lambda config, folder: config["models"].update(base={"path": path})


def config_json(content: str) -> Change:
    return checkpoint(lambda folder: (folder / "config.json").write_text(content))


def damaged_weights(content: bytes) -> Change:
    def write(folder: Path) -> None:
        (folder / "config.json").write_text('{"model_type": "llama"}')
        (folder / "model.safetensors").write_bytes(content)

    return checkpoint(write)


def header(entry: dict[str, Any]) -> bytes:
    text = json.dumps({"weight": entry}).encode()
    return struct.pack("<Q", len(text)) + text


def run_directory(write: Callable[[Path], object]) -> Change:
    def change(config: dict[str, Any], folder: Path) -> None:
        directory = folder / "results" / "spoilt"
        directory.mkdir(parents=True)
        write(directory)

    return change


def blocked_results(config: dict[str, Any], folder: Path) -> None:
    (folder / "results").write_text("a file where a folder should be")


CASES = [
    Case("no such file", ("nothing.yaml", "remedy"), file="nothing.yaml"),
    Case("empty file", ("empty", "remedy"), text=""),
    Case("malformed YAML", ("experiment.yaml:3", "remedy"), text="name: x\nmodels: [\n"),
    Case("a list instead of keys", ("experiment.yaml", "remedy"), text="- a\n- b\n"),
    Case("a key twice", ("experiment.yaml:2", "name", "remedy"), text="name: x\nname: y\n"),
    Case("unknown key", ("models.base.dtyp", "dtype"), model(dtyp="float32")),
    Case("wrong value", ("models.base.quantization", "2bit"), model(quantization="2bit")),
    Case("wrong type", ("decoding.max_new_tokens", "many"), options=("--set", "decoding.max_new_tokens=many")),
    Case("negative number", ("decoding.temperature",), options=("--set", "decoding.temperature=-1")),
    Case("samples without temperature", ("temperature",), options=("--set", "decoding.samples_per_example=4")),
    Case("override of nothing", ("--set", "did you mean max_new_tokens"), options=("--set", "decoding.max_tokens=3")),
    Case("override without a value", ("--set",), options=("--set", "decoding.max_new_tokens")),
    Case("baseline that is no model", ("baseline", "base"), lambda config, folder: config.update(baseline="bass")),
    Case("expert that is no model", ("expert", "base"), domain(expert="bose")),
    Case("unknown engine", ("models.base.engine", "transformers", "remedy"), model(engine="transformer")),
    Case(
        "unknown engine setting", ("models.base.engine_settings.txt", "remedy"), model(engine_settings={"txt": "yes"})
    ),
    Case("engine class that is not there", ("no_such_module", "remedy"), model(engine="no_such_module:Engine")),
    Case("unknown task", ("domains.parity.task", "decision", "remedy"), domain(task="decisions")),
    Case("unknown grader", ("domains.parity.graders", "rouge_l", "remedy"), domain(graders=["rouge"])),
    Case("missing data file", ("absent.jsonl", "remedy"), domain(data={"source": "./absent.jsonl"})),
    Case("empty data set", ("rows.jsonl", "remedy"), data("")),
    Case("malformed data line", ("rows.jsonl:9", "remedy"), data(rows() + "{not json\n")),
    Case("missing column", ("label", "remedy"), data(rows({"id": "t9", "question": "Is 9 even?"}))),
    Case(
        "label that is no choice", ("perhaps", "remedy"), data(rows({"id": "x", "question": "q", "label": "perhaps"}))
    ),
    Case("an id twice", ("t1", "remedy"), data(rows(ROWS[1]))),
    Case("template with an unknown column", ("colour", "remedy"), domain(prompt={"template": "Which {colour}?"})),
    Case(
        "a list of ids that match nothing",
        ("ids", "remedy"),
        domain(data={"source": "./rows.jsonl", "ids_file": "./i"}),
    ),
    Case("checkpoint folder that is not there", ("models.base.path", "remedy"), checkpoint_path("./nowhere")),
    Case("checkpoint without config.json", ("config.json", "remedy"), checkpoint(Path.is_dir)),
    Case("config.json that is no JSON", ("config.json", "remedy"), config_json("{")),
    Case(
        "weights that end early",
        ("model.safetensors", "remedy"),
        damaged_weights(header({"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}) + b"12345678"),
    ),
    Case("weights that are noise", ("model.safetensors", "remedy"), damaged_weights(b"\xff" * 64)),
    Case("GPUs where there are none", ("models.base.gpus", "remedy"), model(gpus=1), command=("plan",)),
    Case("hardware that cannot be read", ("--simulate", "remedy"), command=("plan",), options=("--simulate", "many")),
    Case("only of nothing", ("--only", "parity"), options=("--only", "chemistry")),
    Case("results folder that is a file", ("results", "remedy"), blocked_results),
    Case(
        "manifest that is half-written",
        ("manifest.json", "remedy"),
        run_directory(lambda directory: (directory / "manifest.json").write_text('{"format": 1, "na')),
    ),
    Case(
        "answers that are damaged",
        ("answers", "remedy"),
        run_directory(lambda directory: write_text_atomically(directory / "answers" / "a.parquet", "PAR1")),
    ),
    Case("report of no run", ("manifest.json", "remedy"), command=("report",), file="."),
    Case("score of no run", ("manifest.json", "remedy"), command=("score",), file="."),
    Case(
        "a temporary folder with too long a name",
        ("runtime.temp_dir", "remedy"),
        options=("--set", "runtime.temp_dir=" + "/t" * 60),
    ),
    Case("an unknown command", ("evaluat", "remedy"), command=("evaluat",)),
    Case("an unknown option", ("--fast", "remedy"), options=("--fast",)),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bad_input_is_explained(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rows.jsonl").write_text(rows(), encoding="utf-8")
    (tmp_path / "i").write_text("elsewhere\n")
    config = experiment()
    case.change(config, tmp_path)
    text = yaml.safe_dump(config, sort_keys=False) if case.text is None else case.text
    (tmp_path / "experiment.yaml").write_text(text, encoding="utf-8")
    before = contents(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["moe-ray", *case.command, case.file, *case.options])
    assert reported(app) == EXIT_USAGE
    shown = capsys.readouterr()
    assert "Traceback" not in shown.err + shown.out
    for fragment in case.says:
        assert fragment in shown.err, shown.err
    assert contents(tmp_path).items() >= before.items(), "something that was there is gone or changed"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_changed_setting_is_refused_on_resume_and_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run directory of an earlier command is made by the pipeline's own steps, without Ray."""
    from moe_ray.config.load import load_experiment
    from moe_ray.runs.manifest import begin
    from moe_ray.runs.work import prepare

    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text(rows(), encoding="utf-8")
    (tmp_path / "experiment.yaml").write_text(yaml.safe_dump(experiment()), encoding="utf-8")
    loaded = load_experiment(Path("experiment.yaml"))
    prepared = prepare(loaded)
    prepared.run.prepare()
    begin(prepared)
    monkeypatch.setattr("sys.argv", ["moe-ray", "evaluate", "experiment.yaml", "--set", "decoding.temperature=0.5"])
    assert reported(app) == EXIT_USAGE
    assert "decoding.temperature: 0.0 -> 0.5" in capsys.readouterr().err
