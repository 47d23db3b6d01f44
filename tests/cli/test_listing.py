"""What helps to write an experiment: names, help, completion, the schema of the keys."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args
from urllib.parse import unquote, urlsplit

import jsonschema  # type: ignore[import-untyped]
import pytest
import typer.main
import yaml

from moe_ray.cli.main import app
from moe_ray.config.checks import ENGINES, OWN_TASKS, PUBLISHED_TASKS
from moe_ray.config.dump import SCHEMA_FILE, experiment_schema, schema_text
from moe_ray.config.schema import RouterConfig
from moe_ray.scoring.registry import GRADERS
from tests.support.commands import Command

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("tasks", {*PUBLISHED_TASKS, *OWN_TASKS}),
        ("graders", {*GRADERS.names, "evaluate:NAME"}),
        ("engines", set(ENGINES)),
        ("routers", set(get_args(RouterConfig.model_fields["kind"].annotation))),
    ],
)
def test_every_name_is_listed_with_what_it_does(kind: str, names: set[str], moe_ray: Command) -> None:
    code, shown = moe_ray("list", kind)
    assert code == 0, shown
    listed = [line.split()[0] for line in shown.splitlines() if not line.startswith(" ")]
    assert set(listed) == names
    entries = json.loads(moe_ray("list", kind, "--json")[1])
    assert {entry["name"] for entry in entries} == names
    assert all(len(entry["does"]) > 10 for entry in entries)


def test_a_listed_engine_names_its_settings_and_a_task_its_roles(moe_ray: Command) -> None:
    assert "NAME of the environment variable" in moe_ray("list", "engines")[1]
    tasks = {entry["name"]: entry for entry in json.loads(moe_ray("list", "tasks", "--json")[1])}
    assert {"question", "label"} <= set(tasks["decision"]["roles"])
    assert tasks["mbpp"]["settings"] == ["shots_file", "shots_split"]


def commands() -> list[list[str]]:
    """Every command and group of commands, by its words."""
    found: list[list[str]] = []

    def walk(command: Any, words: list[str]) -> None:
        found.append(words)
        for name, inner in getattr(command, "commands", {}).items():
            walk(inner, [*words, name])

    walk(typer.main.get_command(app), [])
    return found


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_each_command_explains_itself_with_the_short_option_too(words: list[str], moe_ray: Command) -> None:
    code, shown = moe_ray(*words, "-h")
    assert code == 0, shown
    assert "Usage:" in shown
    assert shown == moe_ray(*words, "--help")[1]


def test_each_command_stands_in_the_command_line_reference() -> None:
    reference = (ROOT / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")
    groups = {"", "data", "models", "router", "moe", "slurm", "specialise"}
    names = [" ".join(words) for words in commands() if " ".join(words) not in groups]
    assert [name for name in names if f"## moe-ray {name}\n" not in reference] == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_commands_without_loading_what_is_heavy(shell: str) -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "_MOE_RAY_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": "moe-ray pr",
        "COMP_CWORD": "1",
        "_TYPER_COMPLETE_ARGS": "moe-ray pr",
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    code = (
        "import sys; sys.argv = ['moe-ray']\n"
        "from moe_ray.cli.main import run\n"
        "try:\n    run()\nfinally:\n"
        "    sys.stderr.write(str([name for name in ('torch', 'ray', 'pyarrow') if name in sys.modules]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False, timeout=60
    )
    assert "prompts" in done.stdout, done.stderr
    assert "plan" not in done.stdout
    assert done.stderr == "[]"


def test_the_schema_that_ships_is_the_one_of_the_keys() -> None:
    """After a change of the keys: moe-ray schema > moe_ray/config/experiment.schema.json."""
    shipped = (ROOT / "moe_ray" / "config" / SCHEMA_FILE).read_text(encoding="utf-8")
    assert shipped == schema_text()


def test_the_schema_takes_the_experiments_of_this_repository_and_refuses_a_misspelt_key(moe_ray: Command) -> None:
    code, shown = moe_ray("schema")
    assert code == 0
    schema = json.loads(shown)
    assert schema == experiment_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    files = sorted((ROOT / "experiments").glob("*.yaml"))
    assert files
    for file in files:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        assert [error.message for error in validator.iter_errors(content)] == [], file.name
        assert not validator.is_valid({**content, "domain": {}})
        assert not validator.is_valid({**content, "decoding": {"max_new_tokens": 0}})


def test_an_experiment_that_init_writes_names_the_schema_on_this_machine(moe_ray: Command, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    assert moe_ray("init", file)[0] == 0
    first = file.read_text(encoding="utf-8").splitlines()[0]
    prefix = "# yaml-language-server: $schema="
    assert first.startswith(prefix)
    address = urlsplit(first.removeprefix(prefix))
    assert address.scheme == "file"
    assert json.loads(Path(unquote(address.path)).read_text(encoding="utf-8")) == experiment_schema()
