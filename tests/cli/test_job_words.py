"""The command that a job runs, `-- COMMAND ...`: which ones may, how they are read, what is refused at once."""

import json
import random
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from moe_ray.cli.job_words import job_command
from moe_ray.cli.main import app
from moe_ray.clusters.job_commands import JOB_COMMANDS, ON_RAY
from tests.cli.experiments import experiment, rows
from tests.support.commands import Command

APP: Any = typer.main.get_command(app)
# Parameters that hold a path and need no role: commands on an experiment handle them themselves.
OF_THE_EXPERIMENT = {"results_dir", "out"}


def found(name: tuple[str, ...]) -> Any:
    command = APP
    for part in name:
        command = command.commands[part]
    return command


def values(name: tuple[str, ...], words: list[str]) -> dict[str, Any]:
    """What the command itself would be called with."""
    return dict(found(name).make_context("x", words).params)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text(rows(), encoding="utf-8")
    (tmp_path / "experiment.yaml").write_text(yaml.safe_dump(experiment()), encoding="utf-8")
    return tmp_path


def example_of(parameter: Any) -> list[str]:
    """Return words that set a parameter, whatever its type."""
    is_option = parameter.opts[0].startswith("-")
    if getattr(parameter, "is_flag", False):
        return [parameter.opts[0]]
    known = {
        "file": "experiment.yaml", "out": "results/it/part", "run": "results/it", "layers": "3,7", "models": "a=./m",
        "set_": "likelihood=false", "results_dir": "elsewhere", "experiment": "experiment.yaml", "gate": "random",
    }  # fmt: skip
    literals = {"dtype": "float32", "mode": "select_one", "operation": "swap"}
    value = known.get(parameter.name) or literals.get(parameter.name) or "21"
    repeated = [value, f"{value}2"] if parameter.multiple and parameter.name != "set_" else [value]
    return [word for one in repeated for word in ([parameter.opts[0], one] if is_option else [one])]


@pytest.mark.parametrize("name", sorted(JOB_COMMANDS), ids=" ".join)
def test_the_words_of_a_job_mean_to_the_command_what_the_users_meant(name: tuple[str, ...]) -> None:
    """All options at once, in any order, spelled again: the command is called with equal values."""
    parameters = [one for one in found(name).params if one.name != "out" or name != ("router", "train")]
    groups = [example_of(one) for one in parameters]
    expected = values(name, [word for group in groups for word in group])
    for seed in range(5):
        random.Random(seed).shuffle(groups)
        job = job_command(APP, [*name, *(word for group in groups for word in group)])
        assert job.name == name
        assert values(name, [word for one in job.words for word in one.plain]) == expected


@pytest.mark.parametrize("name", sorted(JOB_COMMANDS), ids=" ".join)
def test_every_path_of_a_command_has_a_role_and_every_role_a_parameter(name: tuple[str, ...]) -> None:
    roles = JOB_COMMANDS[name]
    parameters = {one.name for one in found(name).params}
    assert roles.keys() <= parameters
    hints = {one.name: str(one.get_runtime_param().annotation) for one in found(name).params}
    paths = {parameter for parameter, hint in hints.items() if "Path" in hint}
    unnamed = paths - roles.keys()
    assert unnamed <= (OF_THE_EXPERIMENT if "experiment" in roles.values() else set())


def test_one_parameter_of_a_command_names_the_run_directory() -> None:
    for roles in JOB_COMMANDS.values():
        assert sum(role in ("experiment", "out", "run") for role in roles.values()) == 1
    assert JOB_COMMANDS.keys() >= ON_RAY


REFUSED = {
    "a command that serves": ("serve experiment.yaml", "`serve` does not run as a job"),
    "a doctor": ("doctor", "`doctor` does not run as a job"),
    "another submission": ("submit experiment.yaml --address x", "`submit` does not run as a job"),
    "a group alone": ("specialise", "`specialise` does not run as a job"),
    "a misspelt command": ("specialise abblate m", "did you mean ablate?"),
    "options first": ("--brief evaluate experiment.yaml", "options of the job go before --"),
    "a misspelt option": ("specialise trace m --text x --out a/b", "No such option: --text"),
    "no --out": ("specialise trace m --texts x", "Missing option"),
    "a value out of range": ("specialise trace m --texts x --out a/b --max-tokens 0", "--max-tokens"),
    "an --out without a run directory": ("specialise trace m --texts x --out trace", "write --out results/NAME/PART"),
    "an --out in the root": ("specialise trace m --texts x --out /trace", "write --out results/NAME/PART"),
    "an --out above": ("specialise trace m --texts x --out ../trace", "write --out results/NAME/PART"),
    "a blank in a name": ("score 'results/my run'", "does not name a run directory"),
    "a copy of a router": ("router train experiment.yaml --out copy", "leave --out out"),
    "a dash": ("specialise trace --texts x --out a/b -- -m", "write ./-m"),
    "the word of the run": ("moe merge @run/x b --gate g --out a/b", "write ./@run/x"),
    "no such experiment": ("evaluate nothing.yaml", "nothing.yaml"),
}


SUBMIT = ("submit", "--address", "http://localhost:1", "--results-dir", "/shared", "--dry-run")


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("job", [SUBMIT, ("slurm", "--dry-run")], ids=["submit", "slurm"])
def test_what_cannot_be_a_job_is_refused_in_words(moe_ray: Command, job: tuple[str, ...], case: str) -> None:
    line, words = REFUSED[case]
    code, shown = moe_ray(*job, "--", *shlex.split(line))
    assert code == 2, shown
    assert words in " ".join(shown.split())
    assert "remedy" in shown


def test_a_folder_with_other_things_is_not_taken_for_a_run_directory(moe_ray: Command, folder: Path) -> None:
    (folder / "papers").mkdir()
    (folder / "papers" / "draft.txt").write_text("mine")
    (folder / "texts.txt").write_text("a text")
    (folder / "m").mkdir()
    job = ("slurm", "--dry-run", "--", "specialise", "trace", "./m", "--texts", "texts.txt", "--out")
    code, shown = moe_ray(*job, "papers/trace")
    assert code == 2
    assert "is not a run directory" in shown
    assert "papers/NAME/trace" in shown
    assert moe_ray(*job, "papers/new/trace")[0] == 0
    (folder / "papers" / "submission.json").write_text(json.dumps({}))
    assert moe_ray(*job, "papers/trace")[0] == 0


def test_options_of_evaluate_stand_behind_the_other_command(moe_ray: Command) -> None:
    for option in (("--max-examples", "3"), ("--brief",), ("--results-dir", "/x")):
        code, shown = moe_ray("slurm", "--dry-run", *option, "--", "score", "results/it")
        assert code == 2
        assert "write them after --" in shown


@pytest.mark.parametrize("command", ["submit", "slurm submit"])
def test_the_two_dashes_that_were_left_out_are_the_remedy(moe_ray: Command, command: str) -> None:
    code, shown = moe_ray(*command.split(), "specialise", "trace", "m", "--texts", "x", "--out", "a/b")
    assert code == 2
    assert f"moe-ray {command} --help lists options; those of another command go last: ... -- COMMAND ..." in shown


def test_a_file_that_is_called_like_a_command_is_a_file(moe_ray: Command, folder: Path) -> None:
    code, shown = moe_ray("slurm", "--dry-run", "score")
    assert code == 2
    assert "Missing argument" in shown
    (folder / "score").write_text((folder / "experiment.yaml").read_text())
    code, shown = moe_ray("slurm", "--dry-run", "score")
    assert code == 0, shown
    assert f"evaluate {folder}/score" in shown
