"""The public interface of the package: its names, their documentation, and what the functions accept and return."""

import inspect
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

import moe_ray
from moe_ray.errors import ConfigError, RunDirectoryError, UserError
from tests.runs.experiments import write
from tests.support.inline import Inline, inline

__all__ = ["inline"]

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reference" / "api.md"
NAMES = [
    "Answer", "BatchLimits", "DomainConfig", "Engine", "EngineMemory", "EngineSettings", "Example", "GenerateRequest",
    "Generation", "Grader", "Likelihood", "LikelihoodRequest", "LoadedExperiment", "Message", "Metric", "ModelConfig",
    "MoeRayError", "Prompt", "Route", "Router", "Run", "RunFailedError", "RunObserver", "Score", "Task", "Timing",
    "UpcycleRequest", "UserError", "__version__", "compare", "compare_systems", "evaluate", "finetune",
    "load_experiment", "merge", "open_run", "plan", "pretrain", "score", "train_gate", "upcycle", "verify",
    "write_report",
]  # fmt: skip
MODELS: Mapping[str, Mapping[str, Any]] = {
    "good": {"path": "scripted/good"},
    "bad": {"path": "scripted/bad", "engine_settings": {"text": "maybe"}},
}


def test_exactly_these_names_are_exported() -> None:
    assert moe_ray.__all__ == NAMES == sorted(NAMES)
    assert set(NAMES) <= set(dir(moe_ray))


@pytest.mark.parametrize("name", NAMES)
def test_each_name_resolves_and_is_documented(name: str) -> None:
    value = getattr(moe_ray, name)
    if name != "__version__":
        assert value.__name__ == name
        assert inspect.getdoc(value)
    assert re.search(rf"`{name}\b", PAGE.read_text(encoding="utf-8"))


def test_the_page_names_the_parameters_that_the_functions_have() -> None:
    told = {
        name: [part.partition("=")[0].strip() for part in parameters.split(",") if part.strip() != "*"]
        for name, parameters in re.findall(r"^\| `(\w+)\((.*)\)` \|", PAGE.read_text("utf-8"), re.MULTILINE)
        if name in NAMES
    }
    assert len(told) > 10
    assert told == {name: list(inspect.signature(getattr(moe_ray, name)).parameters) for name in told}


def test_no_name_is_also_a_module() -> None:
    """Importing the module would put it in the place of the function."""
    modules = {path.stem for path in (ROOT / "moe_ray").iterdir()}
    assert modules.isdisjoint(NAMES)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'evaluat'"):
        moe_ray.evaluat  # noqa: B018


@pytest.mark.parametrize(
    ("code", "heavy"),
    [
        ("import moe_ray", ["torch", "ray", "pyarrow", "pydantic", "numpy"]),
        ("import moe_ray; moe_ray.evaluate, moe_ray.open_run, moe_ray.merge", ["torch", "ray", "scipy", "sklearn"]),
        ("from moe_ray import Engine, EngineSettings, Grader, Task, Message", ["torch", "ray", "scipy", "sklearn"]),
    ],
)
def test_names_load_only_what_they_need(code: str, heavy: list[str]) -> None:
    program = f"import sys; {code}; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def values_of(folder: Path) -> dict[str, Any]:
    """The experiment of `write`, as a mapping, with a relative path for the data."""
    write(folder, MODELS, baseline="bad", experts={"first": "good", "second": "good"}, likelihood=False)
    values: dict[str, Any] = yaml.safe_load((folder / "experiment.yaml").read_text())
    return values


def test_an_experiment_may_be_a_path_a_mapping_or_loaded(
    inline: Inline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = values_of(tmp_path)
    monkeypatch.chdir(tmp_path)
    from_mapping = moe_ray.load_experiment(values | {"output": {"results_dir": tmp_path / "results"}})
    from_file = moe_ray.load_experiment("experiment.yaml")
    assert from_mapping.config == from_file.config
    assert moe_ray.load_experiment(from_file) is from_file
    num_computed = []
    for experiment in (values, "experiment.yaml", from_file):
        run = moe_ray.evaluate(experiment)
        assert run.summary.run.complete
        num_computed.append(len(inline.computed))
    assert num_computed == [24, 24, 24], "one experiment, computed once"


def test_overrides_apply_to_a_mapping_and_not_to_what_is_loaded(tmp_path: Path) -> None:
    values = values_of(tmp_path)
    loaded = moe_ray.load_experiment(values, ["decoding.max_new_tokens=3"])
    assert loaded.config.decoding.max_new_tokens == 3
    with pytest.raises(ConfigError, match="overrides of an experiment that is loaded"):
        moe_ray.load_experiment(loaded, ["decoding.max_new_tokens=4"])


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"name": "x"}, "models"),
        ({"name": object()}, "holds what a file cannot"),
        ({}, "problems"),
    ],
)
def test_a_wrong_mapping_is_refused_like_a_file(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        moe_ray.load_experiment(values)


def test_a_mistake_in_a_mapping_is_placed_by_its_key(tmp_path: Path) -> None:
    values = values_of(tmp_path)
    values["models"]["good"]["dtyp"] = "float32"
    with pytest.raises(ConfigError) as caught:
        moe_ray.load_experiment(values)
    assert caught.value.where == "experiment: models.good.dtyp"


def test_a_run_gives_its_rows_as_frames_and_as_tables(inline: Inline, tmp_path: Path) -> None:
    values_of(tmp_path)
    run = moe_ray.open_run(moe_ray.evaluate(tmp_path / "experiment.yaml").path)
    assert run.domains == ("first", "second")
    assert sorted(example.id for example in run.examples("first")) == [f"t{at}" for at in range(6)]
    answers, scores = run.answers(), run.scores()
    assert len(answers) == run.answers_table().num_rows == 24
    good = answers[(answers.model == "good") & (answers.domain == "first")].set_index("example_id")["text"]
    assert good[["t0", "t1", "t2"]].tolist() == ["yes", "no", "no"]
    assert set(answers[answers.model == "bad"]["text"]) == {"maybe"}
    accuracy = scores[(scores.metric == "accuracy") & (scores.model == "good") & (scores.domain == "first")]
    assert accuracy.set_index("example_id")["value"].dropna().to_dict() == {"t0": 1.0, "t1": 1.0, "t2": 0.0}
    assert sorted(run.telemetry()["model"]) == ["bad", "good"]
    assert run.telemetry()["num_answers"].sum() == 24
    assert run.routes().empty
    assert run.report_path.is_file()
    assert run.manifest.models.keys() == MODELS.keys()


def test_a_model_with_two_names_has_its_answers_under_both(inline: Inline, tmp_path: Path) -> None:
    models = {"one": {"path": "scripted/same"}, "other": {"path": "scripted/same"}}
    experts = dict.fromkeys(("first", "second"), "other")
    run = moe_ray.evaluate(write(tmp_path, models, baseline="one", experts=experts, likelihood=False))
    assert len(inline.computed) == 12
    frame = run.answers(["model", "text", "example_id", "domain"])
    assert list(frame.columns) == ["model", "text", "example_id", "domain"]
    pairs = {name: rows.drop(columns="model").to_dict("list") for name, rows in frame.groupby("model")}
    assert pairs["one"] == pairs["other"]


def test_scoring_and_comparing_take_runs_and_paths(
    inline: Inline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = values_of(tmp_path)
    monkeypatch.chdir(tmp_path)
    first = moe_ray.evaluate(values, overrides=["output.results_dir=a"])
    second = moe_ray.evaluate(tmp_path / "experiment.yaml", overrides=["output.results_dir=b"], reuse=[first])
    assert len(inline.computed) == 24, "the second took its answers from the first"
    compared = moe_ray.compare(first, second.path)
    assert compared.changes == []
    found = moe_ray.compare_systems(str(first.path), "good", "bad")
    assert {item.system_a for item in found.comparisons} == {"good"}
    first.report_path.unlink()
    assert moe_ray.score(first).report_path.is_file()
    assert moe_ray.write_report(first.path) == first.summary


def test_what_is_no_run_or_not_finished_says_so(tmp_path: Path, inline: Inline) -> None:
    with pytest.raises(RunDirectoryError, match="no run here"):
        moe_ray.open_run(tmp_path)
    values_of(tmp_path)
    run = moe_ray.evaluate(tmp_path / "experiment.yaml")
    with pytest.raises(RunDirectoryError, match="no domain 'third'") as caught:
        run.examples("third")
    assert caught.value.remedy == "choose one of first, second"
    with pytest.raises(UserError, match="no column 'txt'"):
        run.answers(["txt"])
    (run.path / "summary.json").write_text("{}")
    with pytest.raises(RunDirectoryError, match="cannot be read"):
        run.summary  # noqa: B018
    (run.path / "summary.json").unlink()
    with pytest.raises(RunDirectoryError, match="no summary yet"):
        run.summary  # noqa: B018


def test_without_pandas_the_error_names_the_table(
    inline: Inline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values_of(tmp_path)
    run = moe_ray.evaluate(tmp_path / "experiment.yaml")
    assert isinstance(run.scores(), pd.DataFrame)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UserError, match="pandas is not installed") as caught:
        run.scores()
    assert "scores_table()" in str(caught.value.remedy)
    assert run.scores_table().num_rows


def test_planning_for_other_hardware_starts_nothing(tmp_path: Path) -> None:
    values_of(tmp_path)
    planned = moe_ray.plan(tmp_path / "experiment.yaml", hardware="2x24GiB")
    assert planned.work.num_to_do == 24
    assert not (tmp_path / "results").exists()
