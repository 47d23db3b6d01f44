"""A server process that this process owns, run under the supervisor in `keeper.py`, and its command template."""

import contextlib
import os
import re
import selectors
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from moe_ray.errors import ConfigError, ModelError

# An error is one line; the end of a server's log says why it ended.
MAX_TAIL_CHARACTERS = 240
# From the end of the stop's own time limit to the keeper's exit.
KEEPER_PATIENCE_S = 10.0
KEEPER_START_TIMEOUT_S = 60.0


class ServerProcess:
    """A running server. Raises `ConfigError` when its program is not there, `ModelError` when it cannot be started.

    Args:
        command: the program, looked for on PATH and beside this Python, and its arguments.
        log_path: where its output goes.
        env: added to this process's environment.
        stop_timeout_s: from SIGTERM to SIGKILL.
    """

    def __init__(self, command: Sequence[str], log_path: Path, env: Mapping[str, str], stop_timeout_s: float) -> None:
        self.log_path = log_path
        self._stop_timeout_s = stop_timeout_s
        self._status: str | None = None
        self._lock = threading.Lock()
        environment = {**os.environ, **env}
        program = _found(command[0], environment.get("PATH", ""))
        log_path.parent.mkdir(parents=True, exist_ok=True)
        # By its path and with -P: neither the working directory nor this folder enters its import path.
        keeper = [sys.executable, "-P", str(Path(__file__).with_name("keeper.py")), str(log_path), str(stop_timeout_s)]
        self._keeper = subprocess.Popen(
            [*keeper, program, *command[1:]],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        self._keeper.wait()
        word, _, rest = (self._line(KEEPER_START_TIMEOUT_S) or "").partition(" ")
        if word != "keeper":
            self._close_pipes()
            raise ModelError(
                f"the server cannot be started: {rest or 'its keeper ended'}",
                where=program,
                remedy="check engine_settings.command",
            )
        self._keeper_pid = int(rest)

    def exit_status(self, patience_s: float = 0.0) -> str | None:
        """Return how the server ended, None while it runs. Waits up to `patience_s` for it to end. Thread-safe."""
        with self._lock:
            if self._status is None and (line := self._line(patience_s)) is not None:
                self._status = line.removeprefix("exited ") or "unknown: its keeper was killed, and the server with it"
            return self._status

    def process_ids(self) -> tuple[int, ...]:
        """Return the server's processes that run now, its children's too."""
        try:
            return tuple(process.pid for process in psutil.Process(self._keeper_pid).children(recursive=True))
        except psutil.NoSuchProcess:
            return ()

    def log_tail(self) -> str:
        """Return where the log is, and its last lines."""
        with contextlib.suppress(OSError), self.log_path.open("rb") as log:
            log.seek(max(0, self.log_path.stat().st_size - 4 * MAX_TAIL_CHARACTERS))
            lines = [line.strip() for line in log.read().decode(errors="replace").splitlines()]
            said = " | ".join(line for line in lines if line)
            return f"its log, {self.log_path}, ends: {said[-MAX_TAIL_CHARACTERS:] or '(empty)'}"
        return f"its log is {self.log_path}"

    def stop(self) -> None:
        """Stop the server, and wait until all its processes have ended."""
        if self._keeper.stdin is None or self._keeper.stdin.closed:
            return
        self._keeper.stdin.close()
        deadline = time.monotonic() + self._stop_timeout_s + KEEPER_PATIENCE_S
        while self._line(max(0.0, deadline - time.monotonic())):
            pass
        self._close_pipes()

    def _line(self, timeout_s: float) -> str | None:
        """Return the keeper's next line, None when none came in time, and an empty one when the keeper is gone."""
        assert self._keeper.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._keeper.stdout, selectors.EVENT_READ)
            if not selector.select(timeout_s):
                return None
        line: bytes = self._keeper.stdout.readline()
        return line.decode().strip()

    def _close_pipes(self) -> None:
        for pipe in (self._keeper.stdin, self._keeper.stdout):
            if pipe is not None:
                pipe.close()


def _found(program: str, path: str) -> str:
    beside = str(Path(sys.executable).parent)
    found = shutil.which(program, path=os.pathsep.join([path, beside]))
    if found is None:
        raise ConfigError(
            f"program {program} not found",
            where="engine_settings.command",
            remedy=f"install it on every node, put it on PATH or beside {sys.executable}, or write its whole path",
        )
    return found


PLACEHOLDERS = ("path", "port", "host", "model", "dtype", "revision", "tokenizer", "num_gpus")

_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")


def require_template(template: str) -> None:
    """Raise `ValueError` unless `template` can be split as a shell would, and has {port} and no unknown placeholder."""
    words = shlex.split(template)
    if not words:
        raise ValueError("the command is empty")
    unknown = [name for name in _PLACEHOLDER.findall(template) if name not in PLACEHOLDERS]
    if unknown:
        known = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
        raise ValueError(f"{{{unknown[0]}}} is not a placeholder; the placeholders are {known}")
    if not names("port", template):
        raise ValueError("the command must pass the port to the server: {port}")
    if words[0].startswith("."):
        raise ValueError("a program is named by a name on PATH, or by its whole path: it starts on any node")


def names(placeholder: str, template: str) -> bool:
    """Say whether `template` has a place for `placeholder`."""
    return placeholder in _PLACEHOLDER.findall(template)


def filled_in(template: str, values: Mapping[str, str]) -> list[str]:
    """Return the words of the command. Values are filled in after splitting, so that they may hold anything."""
    return [_PLACEHOLDER.sub(lambda match: values[match[1]], word) for word in shlex.split(template)]
