"""A model in a process of its own, which is ended to unload it: only that surely returns all of a GPU's memory."""

import contextlib
import os
import queue
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self

import moe_ray
from moe_ray.config.schema import ModelConfig
from moe_ray.engines.base import BatchLimits, Delta, GenerateRequest, Stream
from moe_ray.errors import MoeRayError, UserError, first_line
from moe_ray.execution import interruption

# How often a wait for the process looks whether a signal has arrived that native code swallowed.
LOOK_EVERY_S = 0.2
CANCEL_PATIENCE_S = 10.0
CLOSE_PATIENCE_S = 30.0
MAX_TAIL_BYTES = 2000
_PROGRAM = "import sys; sys.path[:] = sys.argv[2:]; from moe_ray.runs.chat_process import main; main(int(sys.argv[1]))"
_CANCEL, _LEAVE, _END = "cancel", "leave", "end"


class ModelGoneError(MoeRayError):
    """The model could not be loaded, or its process has ended. The next use needs a new process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """What a process loads."""

    model: ModelConfig
    limits: BatchLimits
    cpu_threads: int


class ModelProcess:
    """A model that is loaded in a child process. The constructor returns when it is ready.

    The child has its own session, so that Ctrl-C in a terminal does not reach it, and ends when this process does.
    Raises `ModelGoneError` when the model cannot be loaded.
    """

    def __init__(self, spec: ModelSpec) -> None:
        ours, theirs = socket.socketpair()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._pipe = Connection(ours.detach())
        with theirs:
            # With -P and this process's import path, so that the working directory is not on it.
            self._child = subprocess.Popen(
                [sys.executable, "-P", "-c", _PROGRAM, str(theirs.fileno()), *_import_path()],
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        try:
            self._send(spec)
            failure = self._receive()
        except BaseException:
            self._kill()
            raise
        if failure is not None:
            self._kill()
            raise ModelGoneError(failure)

    @property
    def is_alive(self) -> bool:
        """Whether it can be asked."""
        return not self._pipe.closed and self._child.poll() is None

    def stream(self, request: GenerateRequest) -> Iterator[Delta]:
        """Yield the answer's pieces; the last has a finish reason. Closing the iterator stops the answer.

        Raises `ModelGoneError` when the process has ended.
        """
        self._send(request)
        has_ended = False
        try:
            while (said := self._receive()) != _END:
                yield said
            has_ended = True
        finally:
            if not has_ended:
                self._cancel()

    def close(self) -> None:
        """End the process, and wait until it is gone."""
        with contextlib.suppress(ModelGoneError):
            self._send(_LEAVE)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(CLOSE_PATIENCE_S)
        self._kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _cancel(self) -> None:
        """Stop the answer that is being read; a process that does not react is ended."""
        has_ended = False
        try:
            self._send(_CANCEL)
            while not has_ended and self._pipe.poll(CANCEL_PATIENCE_S):
                has_ended = self._pipe.recv() == _END
        except (ModelGoneError, OSError, EOFError):
            pass
        finally:
            # Also after a second Ctrl-C: what the process still says belongs to no later answer.
            if not has_ended:
                self._kill()

    def _send(self, message: Any) -> None:
        try:
            self._pipe.send(message)
        except OSError as error:
            raise self._gone() from error

    def _receive(self) -> Any:
        try:
            while not self._pipe.poll(LOOK_EVERY_S):
                interruption.check()
            return self._pipe.recv()
        except (OSError, EOFError) as error:
            raise self._gone() from error

    def _gone(self) -> ModelGoneError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(1)
        said = "" if self._log.closed else _last_line(self._log)
        status = self._child.poll()
        self._kill()
        return ModelGoneError(f"the model's process has ended (exit status {status}){said and ': '}{said}")

    def _kill(self) -> None:
        self._pipe.close()
        self._child.kill()
        self._child.wait()
        self._log.close()


def _import_path() -> list[str]:
    """This process's path, with the checkout that this package was imported from in front, if it is not installed."""
    package = str(Path(moe_ray.__file__).parents[1])
    return sys.path if package in sys.path else [package, *sys.path]


def _last_line(log: Any) -> str:
    size = log.seek(0, os.SEEK_END)
    log.seek(max(0, size - MAX_TAIL_BYTES))
    lines = log.read().decode(errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else ""


def main(descriptor: int) -> None:
    """Load the model that the parent names, answer what it asks, and leave when it says so or is gone."""
    _Child(Connection(descriptor)).run()


class _Child:
    """The other end: one thread reads what the parent says, another answers."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._wanted: queue.SimpleQueue[GenerateRequest | None] = queue.SimpleQueue()
        self._stream: Stream | None = None
        self._state = threading.Lock()
        self._is_loaded = self._is_cancelled = False

    def run(self) -> None:
        spec = self._pipe.recv()
        threading.Thread(target=self._listen, daemon=True).start()
        os.environ["OMP_NUM_THREADS"] = str(spec.cpu_threads)
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        from moe_ray.engines.registry import make_engine
        from moe_ray.engines.streams import streaming

        try:
            engine = streaming(make_engine(spec.model, spec.limits))
        except Exception as error:  # noqa: BLE001 - told to the parent, whatever a checkpoint or an engine raises
            self._pipe.send(str(error) if isinstance(error, UserError) else first_line(error))
            return
        self._is_loaded = True
        self._pipe.send(None)
        try:
            while (request := self._wanted.get()) is not None:
                self._answer(engine.submit(request))
        finally:
            engine.close()

    def _answer(self, stream: Stream) -> None:
        with self._state:
            self._stream = stream
            if self._is_cancelled:
                stream.cancel()
        for delta in stream:
            self._pipe.send(delta)
        with self._state:
            self._stream, self._is_cancelled = None, False
        self._pipe.send(_END)

    def _listen(self) -> None:
        """Take requests; a parent that is gone ends the process, also while it loads."""
        while True:
            try:
                said = self._pipe.recv()
            except (OSError, EOFError):
                said = _LEAVE
            if said == _LEAVE and not self._is_loaded:
                os._exit(1)
            with self._state:
                if said in (_LEAVE, _CANCEL):
                    self._is_cancelled = True
                    if self._stream is not None:
                        self._stream.cancel()
            if said == _LEAVE:
                self._wanted.put(None)
                return
            if isinstance(said, GenerateRequest):
                with self._state:
                    self._is_cancelled = False
                self._wanted.put(said)
