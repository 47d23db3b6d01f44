"""Progress of a run on the terminal and in log.txt."""

import logging
import os
import stat
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TimeRemainingColumn

import moe_ray
from moe_ray.characters import indented, one_line
from moe_ray.cli.terminal import LineColumn, Terminal
from moe_ray.config.schema import ExperimentConfig
from moe_ray.engines.settings import secrets_of
from moe_ray.errors import RunFailedError, UserError
from moe_ray.execution.observer import RunObserver

LOG_FILE = "log.txt"
HIDDEN = "***"
# Shorter values (an empty variable, "1") are no keys, and would hide parts of other words.
MIN_SECRET_CHARACTERS = 8


class RunLog:
    """Appends lines to a run's log.txt, as soon as its directory is there.

    `secrets` are values that must not be written. A disk that takes no line ends the log, never the run. A link or
    anything else that is not a regular file is left alone.
    """

    def __init__(self, directory: Path, *, secrets: Collection[str] = (), now: Callable[[], float] = time.time) -> None:
        self._path = directory / LOG_FILE
        self._secrets = [secret for secret in secrets if len(secret) >= MIN_SECRET_CHARACTERS]
        self._now = now
        self._waiting: list[str] = []
        self._is_over = False

    def write(self, text: str) -> None:
        """Append `text` as one line with the time."""
        for secret in self._secrets:
            text = text.replace(secret, HIDDEN)
        moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._now()))
        self._waiting.append(f"{moment} {one_line(text)}\n")
        if self._path.parent.is_dir() and not self._is_over:
            self._flush()

    def _flush(self) -> None:
        try:
            _append(self._path, "".join(self._waiting))
        except OSError:
            self._is_over = True
        self._waiting.clear()


def _append(path: Path, text: str) -> None:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    opened = os.open(path, flags, 0o666)
    try:
        if not stat.S_ISREG(os.fstat(opened).st_mode):
            raise OSError(f"{path} is not a regular file")
        os.write(opened, text.encode("utf-8", "backslashreplace"))
    finally:
        os.close(opened)


ROUTER = "router"
EVENTS = {
    "lost": "lost its process; its unfinished answers are computed again",
    "failed": "could not load its model",
}


class ProgressDisplay:
    """Draws bars on a terminal; elsewhere (a job's log) prints a line for each event and each tenth of the work."""

    def __init__(self, console: Terminal) -> None:
        self._console = console
        self._live = console.is_terminal
        self._progress = Progress(
            LineColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            LineColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            LineColumn("{task.fields[state]}"),
            console=console,
            disable=not self._live,
        )
        self._bars: dict[str, TaskID] = {}
        self._done: dict[str, tuple[int, int]] = {}
        self._tokens: dict[str, int] = {}
        self._since: dict[str, float] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def stage(self, text: str) -> None:
        self._say(text)

    def notice(self, text: str) -> None:
        self._say(text)

    def training(self, step: int, num_steps: int, detail: str, name: str = ROUTER) -> None:
        if name not in self._bars:
            self._bars[name] = self._progress.add_task(name, total=num_steps, rate="", state="")
        self._progress.update(self._bars[name], completed=step, total=num_steps, rate=detail)
        before, self._done[name] = self._done.get(name, (0, 0))[0], (step, num_steps)
        if not self._live and (10 * before // num_steps) != (10 * step // num_steps):
            self._say(f"{name}: step {step} of at most {num_steps}, {detail}")

    def work(self, totals: Mapping[str, tuple[int, int]]) -> None:
        width = max(map(len, totals), default=0)
        for model, (done, total) in totals.items():
            self._done[model] = (done, total)
            self._bars[model] = self._progress.add_task(
                model.ljust(width), completed=done, total=total, rate="", state=""
            )
            if done:
                self._say(f"{model}: {done} of {total} answers are already there")

    def replica(self, replica: str, model: str, state: str, detail: str) -> None:
        if model in self._bars:
            self._progress.update(self._bars[model], state=state)
        if not self._live or state in ("lost", "failed") or detail.endswith("errors"):
            self._say(f"{replica}: {EVENTS.get(state, state)}" + (f" ({detail})" if detail else ""))

    def committed(self, model: str, num_cells: int, num_tokens: int) -> None:
        done, total = self._done[model]
        self._done[model] = (done + num_cells, total)
        self._tokens[model] = self._tokens.get(model, 0) + num_tokens
        elapsed_s = time.monotonic() - self._since.setdefault(model, time.monotonic())
        rate = f"{self._tokens[model] / elapsed_s:,.0f} tokens/s" if elapsed_s > 0 else ""
        self._progress.update(self._bars[model], completed=done + num_cells, rate=rate)
        if not self._live and (10 * done // total) != (10 * (done + num_cells) // total):
            self._say(f"{model}: {done + num_cells} of {total} answers{', ' + rate if rate else ''}")

    def abandoned(self, model: str, num_cells: int, reason: str) -> None:
        self._say(f"{model}: {num_cells} answers given up: {reason}")

    def _say(self, text: str) -> None:
        self._console.print(indented(text), soft_wrap=True)


# Variables that hold keys whatever the experiment says.
SECRET_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "OPENAI_API_KEY", "ANTHROPIC_API_KEY")


def open_log(config: ExperimentConfig) -> RunLog:
    """Return the log of the experiment's run directory; keys that the experiment or the hub uses never enter it."""
    secrets = {os.environ[name] for name in SECRET_VARIABLES if name in os.environ}
    for model in config.models.values():
        secrets |= set(secrets_of(model).values())
    return RunLog(config.output.results_dir / config.name, secrets=secrets)


class LoggedObserver:
    """Shows events with another observer, and writes those that matter later to the log."""

    def __init__(self, shown: RunObserver, log: RunLog) -> None:
        self._shown = shown
        self._log = log

    def __getattr__(self, name: str) -> Any:
        return getattr(self._shown, name)

    def stage(self, text: str) -> None:
        self._log.write(text)
        self._shown.stage(text)

    def notice(self, text: str) -> None:
        self._log.write(text)
        self._shown.notice(text)

    def training(self, step: int, num_steps: int, detail: str) -> None:
        self._shown.training(step, num_steps, detail)

    def work(self, totals: Mapping[str, tuple[int, int]]) -> None:
        for model, (done, total) in totals.items():
            self._log.write(f"{model}: {done} of {total} answers are there")
        self._shown.work(totals)

    def replica(self, replica: str, model: str, state: str, detail: str) -> None:
        self._log.write(f"{replica}: {state}" + (f" ({detail})" if detail else ""))
        self._shown.replica(replica, model, state, detail)

    def committed(self, model: str, num_cells: int, num_tokens: int) -> None:
        self._shown.committed(model, num_cells, num_tokens)

    def abandoned(self, model: str, num_cells: int, reason: str) -> None:
        self._log.write(f"{model}: {num_cells} answers given up: {reason}")
        self._shown.abandoned(model, num_cells, reason)


@contextmanager
def session_log(log: RunLog) -> Iterator[None]:
    """Write how a session begins, what is warned of meanwhile, and how it ends."""
    log.write(f"session of moe-ray {moe_ray.__version__} begins, process {os.getpid()}")
    try:
        with _warnings_too(log):
            yield
    except KeyboardInterrupt:
        log.write("session interrupted")
        raise
    except (UserError, RunFailedError) as error:
        log.write(f"session ends: {error}")
        raise
    except BaseException as error:
        log.write(f"session ends with {type(error).__name__}: {error}")
        raise
    log.write("session ends")


@contextmanager
def _warnings_too(log: RunLog) -> Iterator[None]:
    handler = _LogHandler(log)
    show = warnings.showwarning

    def show_and_log(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        log.write(f"warning: {category.__name__}: {message}")
        show(message, category, *place, **more)

    logging.getLogger().addHandler(handler)
    warnings.showwarning = show_and_log
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        warnings.showwarning = show


class _LogHandler(logging.Handler):
    def __init__(self, log: RunLog) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        self._log.write(f"{record.levelname.lower()}: {record.name}: {record.getMessage()}")
