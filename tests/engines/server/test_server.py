"""The server engine, with a real program that serves, fails, breeds and must be gone in the end."""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from moe_ray.config.schema import ModelConfig
from moe_ray.engines.registry import text_settings, validate_engine
from moe_ray.engines.server.engine import ServerEngine
from moe_ray.engines.server.process import ServerProcess, filled_in
from moe_ray.errors import ConfigError, EngineLostError, ModelError
from moe_ray.execution.gpus import peak_resident_bytes
from tests.engines.asking import ROOMY, ask, completion, measure

ROOT = Path(__file__).parents[2]
SERVE = f"{shlex.quote(sys.executable)} -m tests.engines.tiny_server --port {{port}}"
OWNER = """
import sys, json
from moe_ray.config.schema import ModelConfig
from moe_ray.engines.server.engine import ServerEngine
engine = ServerEngine(ModelConfig.model_validate_json(sys.argv[1]), None)
print(json.dumps([engine._process._keeper_pid, *engine.memory().process_ids]), flush=True)
sys.stdin.readline()
"""

Start = Callable[..., ServerEngine]


def model(folder: Path, options: str = "", *, path: str = "tiny", **settings: Any) -> ModelConfig:
    """Return a served model, whose log is in `folder`."""
    settings = {
        "command": f"{SERVE} {options}",
        "log_dir": str(folder),
        "env": {"PYTHONPATH": str(ROOT)},
        "stop_timeout_s": 5.0,
        "max_retries": 2,
        **settings,
    }
    return ModelConfig(path=path, engine="server", prompt_style="completion", engine_settings=settings)


def test_the_keeper_imports_nothing_of_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("psutil", "selectors"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    monkeypatch.chdir(tmp_path)
    process = ServerProcess([sys.executable, "-I", "-c", "pass"], tmp_path / "log", {}, stop_timeout_s=1.0)
    assert process.exit_status(patience_s=20.0) == "0"
    process.stop()
    assert not (tmp_path / "ran").exists()


def wait_until_gone(pids: Iterable[int], timeout_s: float = 20.0) -> bool:
    """Wait until no process of `pids` runs; one that has ended and was not waited for is gone."""
    deadline = time.monotonic() + timeout_s
    while any(map(_runs, pids)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _runs(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Name a proxy that does not exist: the engine must not use it for its own server."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    made: list[ServerEngine] = []

    def started(options: str = "", **fields: Any) -> ServerEngine:
        made.append(ServerEngine(model(tmp_path, options, **fields), ROOMY))
        return made[-1]

    yield started
    for engine in made:
        engine.close()


def test_a_server_is_started_asked_and_stopped_and_its_log_is_kept(start: Start, tmp_path: Path) -> None:
    engine = start("--say 'ready to serve'")
    (answer,) = engine.generate([ask("one two", num=3)])
    assert (answer.text, answer.num_completion_tokens) == (" one two one", 3)
    (measured,) = engine.loglikelihoods([measure(completion("one two", choices=(" three",)))])
    assert measured.loglikelihoods == pytest.approx([-(2 + 6) / 100])
    pids = engine.memory().process_ids
    assert pids
    engine.close()
    assert not any(map(_runs, pids))
    (log,) = tmp_path.iterdir()
    assert log.name.startswith("tiny-")
    assert "ready to serve" in log.read_text()


def test_a_servers_processes_count_as_the_models_memory(start: Start) -> None:
    memory = start("--brood", stop_timeout_s=0.1).memory()
    assert len(memory.process_ids) == 2, "the server, and its child in another session"
    assert all(peak_resident_bytes(pid) > 5 << 20 for pid in memory.process_ids)
    assert memory.weights_bytes is None, "a server does not tell which part of it is weights"


@pytest.mark.parametrize("options", ["", "--brood", "--brood --ignore-sigterm"])
def test_nothing_is_left_of_a_server_that_is_stopped(start: Start, options: str) -> None:
    engine = start(options, stop_timeout_s=0.3)
    pids = engine.memory().process_ids
    assert len(pids) == (2 if options else 1)
    engine.close()
    assert not any(map(_runs, pids)), "close() returns when all of it is gone"


@pytest.mark.parametrize("how", ["SIGKILL", "return"])
def test_nothing_is_left_of_a_server_whose_owner_ends_in_any_way(tmp_path: Path, how: str) -> None:
    config = model(tmp_path, "--brood --ignore-sigterm", stop_timeout_s=0.3).model_dump_json()
    command = [sys.executable, "-c", OWNER, config]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as owner:
        assert owner.stdout is not None
        pids = [int(word) for word in owner.stdout.readline().decode().strip("[]\n").split(",")]
        assert len(pids) == 3
        assert all(map(_runs, pids))
        if how == "SIGKILL":
            owner.kill()
        owner.communicate(b"\n")
    assert wait_until_gone(pids)


def test_a_server_does_not_outlive_a_keeper_that_is_killed(start: Start) -> None:
    engine = start()
    (pid,) = engine.memory().process_ids
    os.kill(engine._process._keeper_pid, signal.SIGKILL)
    assert wait_until_gone([pid])
    assert engine.memory().process_ids == ()
    with pytest.raises(EngineLostError, match="its keeper was killed"):
        engine.generate([ask("one", num=1)])


def test_a_server_that_ends_before_it_is_ready_is_refused_with_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"exit status 1\) before it was ready.*ValueError: no such weights") as caught:
        ServerEngine(model(tmp_path, "--fail"), ROOMY)
    (log,) = tmp_path.iterdir()
    assert str(log) in str(caught.value)


def test_a_server_that_never_answers_is_refused_in_time_and_ended(tmp_path: Path) -> None:
    before = set(psutil.pids())
    with pytest.raises(ModelError, match=r"did not answer /health within 0\.5 s"):
        ServerEngine(model(tmp_path, "--never-listen", start_timeout_s=0.5), ROOMY)
    mine = [
        process for process in psutil.process_iter(["cmdline"]) if "--never-listen" in (process.info["cmdline"] or ())
    ]
    assert not [process for process in mine if process.pid not in before]


def test_a_server_that_ends_later_loses_its_replica_with_its_last_words(start: Start, tmp_path: Path) -> None:
    engine = start("--brood", stop_timeout_s=0.1)
    pids = engine.memory().process_ids
    with pytest.raises(EngineLostError, match=r"ended \(exit status 3\).*the weights fell out") as caught:
        engine.generate([ask("exit", num=1)])
    assert str(next(tmp_path.iterdir())) in str(caught.value)
    assert wait_until_gone(pids), "the children of a server that is gone are ended too"


def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="program no-such-server not found") as caught:
        ServerEngine(model(tmp_path, command="no-such-server {path} --port {port}"), ROOMY)
    assert "PATH" in (caught.value.remedy or "")


def test_a_program_beside_this_python_is_found_without_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    name = Path(sys.executable).name
    with pytest.raises(ModelError, match="before it was ready"):
        ServerEngine(model(tmp_path, command=f"{name} -c pass {{port}}"), ROOMY)


def test_a_program_that_cannot_be_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "broken").write_text("no program")
    (tmp_path / "broken").chmod(0o755)
    with pytest.raises(ModelError, match="the server cannot be started: Exec format error"):
        ServerEngine(model(tmp_path / "logs", command=f"{tmp_path / 'broken'} {{port}}"), ROOMY)


def test_the_only_model_that_a_server_has_is_asked_where_it_does_not_know_the_path(start: Start) -> None:
    assert start("--model another").generate([ask("one", num=1)])[0].text == " one"


def test_of_several_models_that_a_server_has_one_must_be_named(start: Start, tmp_path: Path) -> None:
    env = {"PYTHONPATH": str(ROOT), "MORE_MODELS": "small"}
    with pytest.raises(ModelError, match="its models: another, small"):
        ServerEngine(model(tmp_path, "--model another", env=env), ROOMY)
    assert start("--model another", env=env, model="small").generate([ask("one", num=1)])[0].text == " one"


def test_values_are_filled_into_words_whatever_they_hold() -> None:
    values = {"path": "/my models/a; rm -rf", "port": "8000"}
    assert filled_in("""serve {path} --port={port} --json '{"a": 1}'""", values) == [
        "serve", "/my models/a; rm -rf", "--port=8000", "--json", '{"a": 1}',
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("", "empty"),
        ("serve {path}", r"must pass the port to the server: \{port\}"),
        ("serve {paht} {port}", r"\{paht\} is not a placeholder; the placeholders are \{path\}"),
        ("serve '{path} {port}", "No closing quotation"),
        ("./serve {port}", "whole path"),
    ],
)
def test_a_wrong_command_is_refused_before_anything_starts(command: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        validate_engine(ModelConfig(path="tiny", engine="server", engine_settings={"command": command}))
    assert caught.value.where == "engine_settings.command"


@pytest.mark.parametrize(
    ("field", "value", "option", "carries"),
    [
        ("dtype", "float16", "--dtype {dtype}", True),
        ("revision", "abc", "--revision {revision}", True),
        ("tokenizer", "other", "--tokenizer {tokenizer}", True),
        ("dtype", "float16", "", False),
        ("revision", "abc", "", False),
        ("tokenizer", "other", "", False),
        ("quantization", "4bit", "", False),
        ("overflow", "truncate_left", "", False),
        ("trust_remote_code", True, "", False),
    ],
)
def test_a_key_of_the_model_must_reach_the_server(field: str, value: Any, option: str, carries: bool) -> None:
    settings = {"command": f"serve {{path}} --port {{port}} {option}"}
    config = ModelConfig(path="tiny", engine="server", engine_settings=settings, **{field: value})
    if carries:
        validate_engine(config)
        return
    with pytest.raises(ConfigError, match=f"{field} has no effect") as caught:
        validate_engine(config)
    assert caught.value.where == field


def test_the_command_is_an_identity_until_a_name_stands_in_its_place() -> None:
    one = {"command": "serve {path} {port}", "env": {"A": "1"}, "log_dir": "/logs", "stop_timeout_s": 3}
    other = {"command": "serve {path} {port} --gpus 8", "start_timeout_s": 9, "health": "/ready"}
    assert text_settings("server", one) == {"command": one["command"], "env": one["env"]}
    assert text_settings("server", one | {"identity": "x"}) == text_settings("server", other | {"identity": "x"})
    assert text_settings("server", one | {"model": "lora"}) != text_settings("server", one)
