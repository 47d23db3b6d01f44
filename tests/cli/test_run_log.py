"""log.txt of a run directory: what happened when, in lines that nobody can forge, and without keys."""

import logging
import os
import re
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from moe_ray.cli.main import app
from moe_ray.cli.progress import LOG_FILE, LoggedObserver, RunLog, open_log, session_log
from moe_ray.cli.terminal import EXIT_USAGE, reported
from moe_ray.config.load import load_experiment
from moe_ray.store.run_directory import RunDirectory

EXPERIMENT = Path(__file__).parents[2] / "experiments" / "custom-domain.yaml"
LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ \S.*")


def clock(*moments: float) -> Callable[[], float]:
    left = iter(moments)
    return lambda: next(left)


def lines(directory: Path) -> list[str]:
    return (directory / LOG_FILE).read_text(encoding="utf-8").splitlines()


def test_lines_bear_the_time_in_utc_and_wait_for_the_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    run = tmp_path / "run"
    log = RunLog(run, now=clock(0.0, 86_400.0))
    log.write("begins")
    assert not run.exists()
    run.mkdir()
    log.write("goes on")
    assert lines(run) == ["1970-01-01T00:00:00Z begins", "1970-01-02T00:00:00Z goes on"]


def test_later_sessions_append(tmp_path: Path) -> None:
    for session in ("first", "second"):
        RunLog(tmp_path).write(session)
    assert [line.split(" ", 1)[1] for line in lines(tmp_path)] == ["first", "second"]


def test_no_text_makes_a_line_of_its_own_or_steers_a_terminal(tmp_path: Path) -> None:
    RunLog(tmp_path).write("HTTP 500\n2026-01-01T00:00:00Z forged\r\x1b[2J\u2028\udc80")
    (line,) = lines(tmp_path)
    assert line.isprintable()
    assert "\\n2026-01-01T00:00:00Z forged\\r\\u001b[2J\\u2028\\udc80" in line


def test_a_key_is_never_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "sk-verysecret123")
    monkeypatch.setenv("HF_TOKEN", "hf_anothersecret")
    file = tmp_path / "experiment.yaml"
    file.write_text(
        "name: keyed\n"
        "models: {a: {path: m, engine: endpoint, engine_settings: {base_url: 'http://h/v1', api_key_env: MY_KEY}}}\n"
        "baseline: a\n"
        "domains: {d: {task: free_text, data: {source: ./x.jsonl}}}\n"
    )
    loaded = load_experiment(file, [f'output.results_dir="{tmp_path}"'])
    (tmp_path / "keyed").mkdir()
    open_log(loaded.config).write("401: Bearer sk-verysecret123 refused, token hf_anothersecret too")
    (line,) = lines(tmp_path / "keyed")
    assert "secret" not in line
    assert "Bearer *** refused, token *** too" in line


@pytest.mark.parametrize("hostile", ["link", "fifo", "directory"])
def test_what_is_no_regular_file_is_left_alone(hostile: str, tmp_path: Path) -> None:
    run, target = tmp_path / "run", tmp_path / "target"
    run.mkdir()
    target.write_text("mine")
    if hostile == "link":
        (run / LOG_FILE).symlink_to(target)
    elif hostile == "fifo":
        os.mkfifo(run / LOG_FILE)
    else:
        (run / LOG_FILE).mkdir()
    log = RunLog(run)
    log.write("one")
    log.write("two")
    assert target.read_text() == "mine"


def test_warnings_and_the_end_of_a_session_are_kept(tmp_path: Path) -> None:
    log = RunLog(tmp_path)

    def work() -> None:
        logging.getLogger("library").warning("slow %s", "disk")
        logging.getLogger("library").info("not this")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.warn("not this either", stacklevel=1)
        raise OSError("disk\ngone")

    with pytest.raises(OSError, match="disk"), session_log(log):
        work()
    told = [line.split(" ", 1)[1] for line in lines(tmp_path)]
    assert told[0].startswith("session of moe-ray")
    assert told[1:] == ["warning: library: slow disk", "session ends with OSError: disk\\ngone"]
    assert not any(type(handler).__name__ == "_LogHandler" for handler in logging.getLogger().handlers)


class Shown:
    """An observer that knows one event more than the log does."""

    def __init__(self) -> None:
        self.heard: list[tuple[object, ...]] = []

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *values: self.heard.append((name, *values))


def test_events_are_logged_and_shown_all_the_same(tmp_path: Path) -> None:
    shown = Shown()
    observer = LoggedObserver(shown, RunLog(tmp_path))
    observer.stage("Answering")
    observer.replica("m-1", "m", "lost", "node gone")
    observer.committed("m", 2, 10)
    observer.abandoned("m", 3, "3 failures in a row")
    observer.something_new("x")
    assert [name for name, *_ in shown.heard] == ["stage", "replica", "committed", "abandoned", "something_new"]
    told = [line.split(" ", 1)[1] for line in lines(tmp_path)]
    assert told == ["Answering", "m-1: lost (node gone)", "m: 3 answers given up: 3 failures in a row"]


@pytest.mark.usefixtures("local_ray")
def test_a_run_keeps_its_log_and_is_the_same_run_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def evaluate(*options: str) -> int:
        arguments = ["moe-ray", "evaluate", str(EXPERIMENT), "--results-dir", str(tmp_path), *options]
        monkeypatch.setattr("sys.argv", arguments)
        return reported(app)

    run = RunDirectory(tmp_path / "custom-domain")
    assert evaluate("--only", "baseline") == 0
    before = run.files_fingerprint()
    assert evaluate("--set", "decoding.temperature=0.5") == EXIT_USAGE
    capsys.readouterr()
    assert run.files_fingerprint() == before
    told = lines(run.path)
    assert all(LINE.fullmatch(line) for line in told)
    text = "\n".join(told)
    assert text.count("session of moe-ray") == 2
    assert "Grading answers" in text
    assert "ready" in text
    assert "all answers are there" in text
    assert "decoding.temperature: 0.0 -> 0.5" in told[-1]
