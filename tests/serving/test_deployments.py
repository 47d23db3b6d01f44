"""The files in deployments/ are what Ray Serve's own schema takes, and build the application that they name."""

import contextlib
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import yaml
from ray import serve
from ray.serve.schema import ServeDeploySchema

from moe_ray.execution import cluster
from moe_ray.microworld.build import ARCHITECTURES, _experiment_text
from moe_ray.planning.fleet import Fleet, Node
from moe_ray.serving.rescue import PROXY_ENVIRONMENT

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "deployments").glob("*.yaml"))


def application_of(file: Path) -> Any:
    (found,) = ServeDeploySchema.model_validate(yaml.safe_load(file.read_text(encoding="utf-8"))).applications
    return found


def builder_of(found: Any) -> Any:
    module, _, name = found.import_path.partition(":")
    return getattr(importlib.import_module(module), name)


@pytest.fixture
def joined(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster of two CPU slots, without Ray."""

    @contextlib.contextmanager
    def connect(_runtime: Any) -> Iterator[None]:
        yield None

    fleet = Fleet((Node(id="n", name="n", num_cpus=2, cpu_slots=2),))
    monkeypatch.setattr(cluster, "connect", connect)
    monkeypatch.setattr(cluster, "fleet_of", lambda _cluster: fleet)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_file_builds_its_application(file: Path, joined: None) -> None:
    found = application_of(file)
    build = builder_of(found)
    arguments = get_type_hints(build)["args"]
    experiment = ROOT / "experiments" / "custom-domain.yaml"
    app = build(arguments.model_validate({**found.args, "target": str(experiment)}))
    assert isinstance(app, serve.Application)
    arguments.model_validate(found.args)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_file_answers_for_http_processes_that_die(file: Path) -> None:
    options = ServeDeploySchema.model_validate(yaml.safe_load(file.read_text(encoding="utf-8"))).controller_options
    assert options is not None
    assert options.runtime_env == {"env_vars": dict(PROXY_ENVIRONMENT)}


def test_the_demo_names_the_run_directory_that_the_demo_writes() -> None:
    found = application_of(ROOT / "deployments" / "demo.yaml")
    name = yaml.safe_load(_experiment_text("demo", dict.fromkeys(ARCHITECTURES, ".")))["name"]
    assert found.args == {"target": f"results/{name}"}
    assert (ROOT / "docs" / "how-to" / "serve.md").read_text(encoding="utf-8").count(f"results/{name}") > 0


def test_an_argument_that_is_unknown_is_refused() -> None:
    arguments = get_type_hints(builder_of(application_of(FILES[0])))["args"]
    with pytest.raises(ValueError, match="targte"):
        arguments.model_validate({"target": "a", "targte": "b"})
