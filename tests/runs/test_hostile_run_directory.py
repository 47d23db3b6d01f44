"""A run directory from somebody else is data: reading it runs nothing of it and touches nothing outside it."""

import json
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from moe_ray.cli.terminal import EXIT_USAGE
from moe_ray.errors import RunDirectoryError
from moe_ray.runs import evaluate as pipeline
from moe_ray.runs.stored import load_run
from moe_ray.scoring.registry import GRADERS, is_own_code
from moe_ray.scoring.score import read_scores
from moe_ray.store.run_directory import RunDirectory
from tests.runs.experiments import write
from tests.support.commands import Command
from tests.support.graded import made_from
from tests.support.inline import Inline, inline

__all__ = ["inline"]

# A metric script, a module and a sitecustomize alike: whoever imports or runs it leaves a trace.
EVIL = "import pathlib\npathlib.Path({canary!r}).touch()\nclass Grader:\n    metrics = ()\n"


class Hostile:
    """A run directory with evil files in it, and a canary that they would make."""

    def __init__(self, run: RunDirectory, folder: Path) -> None:
        self.run = run
        self.path = run.path
        self.canary = folder / "canary"
        self.outside = folder / "outside"
        self.outside.mkdir()
        (self.outside / "precious.txt").write_text("precious")
        for name in ("evil.py", "bs4.py", "pandas.py", "evil_module.py"):
            (self.path / name).write_text(EVIL.format(canary=str(self.canary)))

    def change_manifest(self, change: Callable[[dict[str, Any]], None]) -> None:
        manifest = json.loads((self.path / "manifest.json").read_text())
        change(manifest)
        (self.path / "manifest.json").write_text(json.dumps(manifest))

    def grade_by(self, name: str) -> None:
        self.change_manifest(lambda manifest: manifest["domains"]["first"].update(graders=[name]))

    def is_untouched(self) -> bool:
        names = sorted(path.name for path in self.outside.iterdir())
        return (
            not self.canary.exists()
            and names == ["precious.txt"]
            and (self.outside / "precious.txt").read_text() == "precious"
        )

    def replace_by_link(self, name: str, target: Path) -> None:
        path = self.path / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        path.symlink_to(target)


@pytest.fixture
def hostile(tmp_path: Path, inline: Inline) -> Hostile:
    experiment = write(tmp_path / "made", {"m": {"path": "scripted/m"}}, matrix="full")
    made = inline.evaluate(experiment).run
    shutil.copytree(made.path, tmp_path / "got" / "run")
    return Hostile(RunDirectory(tmp_path / "got" / "run"), tmp_path)


OWN_CODE = ["evaluate:./evil.py", "evaluate:bertscore", "evil_module:Grader", "./evil.py", "evaluate:a/b"]


@pytest.mark.parametrize("name", OWN_CODE)
def test_a_grader_that_is_code_is_told_from_those_that_ship(name: str) -> None:
    assert is_own_code(name)
    assert not any(map(is_own_code, GRADERS.names))


@pytest.mark.parametrize("name", OWN_CODE)
def test_scoring_runs_no_code_that_the_run_directory_names(hostile: Hostile, moe_ray: Command, name: str) -> None:
    hostile.grade_by(name)
    scores = hostile.run.scores_path.read_bytes()
    code, shown = moe_ray("score", hostile.path)
    assert code == EXIT_USAGE
    assert f"code that is not part of moe_ray: {name} (first)" in shown
    assert "--trust" in shown
    assert hostile.is_untouched()
    assert hostile.run.scores_path.read_bytes() == scores
    for command in (("report", hostile.path), ("compare", hostile.path, hostile.path)):
        assert moe_ray(*command)[0] == 0
    assert hostile.is_untouched()


def test_scoring_imports_nothing_that_lies_in_the_run_directory(
    hostile: Hostile, moe_ray: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = yaml.safe_load(hostile.run.config_path.read_text())
    config["domains"]["first"]["task"] = "evil_module:Grader"
    config["models"]["m"]["engine"] = "evil_module:Grader"
    hostile.run.write_config(yaml.safe_dump(config))
    hostile.change_manifest(lambda manifest: manifest["models"]["m"].update(engine="evil_module:Grader"))
    paths = list(sys.path)
    assert moe_ray("score", hostile.path)[0] == 0
    assert hostile.is_untouched()
    assert sys.path == paths


def test_a_run_that_the_user_trusts_may_bring_a_metric(hostile: Hostile, moe_ray: Command) -> None:
    hostile.grade_by("evaluate:./evil.py")
    with suppress(TypeError):  # it is no metric, in the end
        moe_ray("score", hostile.path, "--trust")
    assert hostile.canary.exists()


def test_the_users_experiment_says_which_graders_run(
    hostile: Hostile, moe_ray: Command, tmp_path: Path, inline: Inline
) -> None:
    hostile.grade_by("evaluate:./evil.py")
    code, shown = moe_ray("score", hostile.path, "--experiment", tmp_path / "made" / "experiment.yaml")
    assert code == 0, shown
    assert hostile.is_untouched()
    assert hostile.run.manifest().domains["first"]["graders"] == hostile.run.manifest().domains["second"]["graders"]
    _, metrics = read_scores(hostile.run.scores_path)
    assert "accuracy" in metrics
    assert hostile.run.graded == made_from(hostile.run)


def test_an_experiment_of_other_domains_is_refused(hostile: Hostile, moe_ray: Command, tmp_path: Path) -> None:
    experiment = yaml.safe_load((tmp_path / "made" / "experiment.yaml").read_text())
    del experiment["domains"]["second"]
    (tmp_path / "made" / "other.yaml").write_text(yaml.safe_dump(experiment))
    code, shown = moe_ray("score", hostile.path, "--experiment", tmp_path / "made" / "other.yaml")
    assert code == EXIT_USAGE
    assert "has no domain second" in shown


def test_a_run_directory_cannot_give_up_the_sandbox(hostile: Hostile, tmp_path: Path) -> None:
    config = yaml.safe_load(hostile.run.config_path.read_text())
    config["runtime"]["sandbox"] = {"allow_weak": True, "num_workers": 100_000}
    hostile.run.write_config(yaml.safe_dump(config))
    sandbox = load_run(hostile.run).config.runtime.sandbox
    assert (sandbox.allow_weak, sandbox.num_workers) == (False, "auto")
    assert not load_run(hostile.run, trust=True).config.runtime.sandbox.allow_weak
    assert load_run(hostile.run, allow_weak_sandbox=True).config.runtime.sandbox.allow_weak
    config["runtime"]["sandbox"] = {"memory_mib": 10**6}
    hostile.run.write_config(yaml.safe_dump(config))
    with pytest.raises(RunDirectoryError, match="1000000 MiB of memory"):
        load_run(hostile.run)


# What a command has no need to open.
UNREAD = {
    "score": {".writable"},
    "report": {".writable", ".lock", "config.yaml", "scores/graded.txt", "routes.parquet"},
    "compare": {
        ".writable", ".lock", "config.yaml", "scores/graded.txt", "routes.parquet", "summary.json", "report.html",
        "examples", "examples/first.jsonl",
    },
}  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [
        ".lock", ".writable", "config.yaml", "manifest.json", "summary.json", "report.html", "answers", "examples",
        "scores", "telemetry", "examples/first.jsonl", "scores/scores.parquet", "scores/graded.txt", "routes.parquet",
        "answers/x.parquet", "telemetry/x.json",
    ],
)  # fmt: skip
@pytest.mark.parametrize("command", ["score", "report", "compare"])
def test_nothing_is_read_or_written_through_a_link_that_leads_outside(
    hostile: Hostile, moe_ray: Command, name: str, command: str
) -> None:
    copy = hostile.outside.parent / "copy"
    shutil.copytree(hostile.path, copy)
    is_folder = (hostile.path / name).is_dir()
    hostile.replace_by_link(name, hostile.outside if is_folder else hostile.outside / "precious.txt")
    code, shown = moe_ray(command, hostile.path, *([copy] if command == "compare" else []))
    assert hostile.is_untouched()
    assert "Traceback" not in shown
    assert "precious" not in shown.replace("precious.txt", "")
    assert code == (0 if name in UNREAD[command] else EXIT_USAGE), shown
    assert code == 0 or name in shown


@pytest.mark.parametrize("command", ["score", "report", "compare"])
def test_a_domain_whose_name_leads_outside_is_refused(hostile: Hostile, moe_ray: Command, command: str) -> None:
    (hostile.path.parent / "x.jsonl").write_text('{"precious": 1}\n')

    def rename(manifest: dict[str, Any]) -> None:
        manifest["domains"] = {"../../x" if name == "first" else name: d for name, d in manifest["domains"].items()}

    hostile.change_manifest(rename)
    _, shown = moe_ray(command, *([hostile.path] * (2 if command == "compare" else 1)))
    assert "Traceback" not in shown
    assert "precious" not in shown
    assert hostile.is_untouched()


def test_examples_of_a_domain_outside_are_never_opened(hostile: Hostile) -> None:
    for name in ("../../x", "/etc/passwd", "a/../../../x"):
        with pytest.raises(RunDirectoryError, match="leads out of the run directory"):
            hostile.run.examples(name)


@pytest.mark.parametrize(
    "name", ["answers/pipe.parquet", "telemetry/pipe.json", "summary.json", "examples/first.jsonl"]
)
def test_a_pipe_in_the_place_of_a_file_is_refused_and_never_waited_for(
    hostile: Hostile, moe_ray: Command, name: str
) -> None:
    (hostile.path / name).unlink(missing_ok=True)
    os.mkfifo(hostile.path / name)
    code, shown = moe_ray("report", hostile.path)
    assert (code, "is neither a file nor a folder" in shown) == (EXIT_USAGE, True)


def test_a_lock_that_is_another_file_too_is_not_written(hostile: Hostile, moe_ray: Command) -> None:
    (hostile.path / ".lock").unlink(missing_ok=True)
    (hostile.path / ".lock").hardlink_to(hostile.outside / "precious.txt")
    code, shown = moe_ray("score", hostile.path)
    assert (code, ".lock" in shown) == (EXIT_USAGE, True)
    assert hostile.is_untouched()


def test_a_link_inside_the_run_directory_is_followed(hostile: Hostile) -> None:
    (hostile.path / "kept").mkdir()
    for path in (hostile.path / "answers").iterdir():
        path.rename(hostile.path / "kept" / path.name)
        path.symlink_to(hostile.path / "kept" / path.name)
    assert pipeline.report(hostile.run).run.num_cells_done == 24


def test_links_that_wait_under_the_names_of_temporary_files_are_not_followed(
    hostile: Hostile, moe_ray: Command
) -> None:
    for name in ("summary.json", "report.html", "manifest.json"):
        (hostile.path / f".{name}.{os.getpid()}.tmp").symlink_to(hostile.outside / "precious.txt")
    (hostile.path / "scores" / f".scores.parquet.{os.getpid()}.tmp").symlink_to(hostile.outside / "precious.txt")
    assert moe_ray("score", hostile.path)[0] == 0
    assert hostile.is_untouched()


@pytest.mark.parametrize("path", ["../../outside", "/etc", "routers/linked"])
def test_a_router_outside_the_run_directory_is_not_loaded_for_it(hostile: Hostile, moe_ray: Command, path: str) -> None:
    (hostile.path / "routers" / "linked").mkdir(parents=True)
    (hostile.path / "routers" / "linked" / "router.json").symlink_to(hostile.outside / "precious.txt")
    hostile.change_manifest(lambda manifest: manifest.update(router={"path": path}))
    code, shown = moe_ray("route", "a text", "--router", hostile.path)
    assert (code, "Traceback" in shown) == (EXIT_USAGE, False)
    assert "leads out of the run directory" in shown or "took its router from elsewhere: /etc" in shown
