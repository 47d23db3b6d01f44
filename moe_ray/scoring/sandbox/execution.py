"""One program in one box: start it, wait for its verdict, leave nothing behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from typing import Any, get_args

from moe_ray.scoring.sandbox.boxes import Box, guest_code
from moe_ray.scoring.sandbox.groups import Seat
from moe_ray.scoring.sandbox.guest import confine, wire
from moe_ray.scoring.sandbox.guest.clock import MAX_WALL_FACTOR
from moe_ray.scoring.sandbox.program import Program, ProgramOutcome, ProgramVerdict

START_GRACE_S = 10.0
OUTPUT_BYTES = 1 << 20
MAX_STDERR_CHARS = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Handover:
    """`settings` names the descriptors for the warden; None where this machine has no such thing."""

    settings: dict[str, int | None]
    seat: Seat | None

    @property
    def descriptors(self) -> list[int]:
        """Return those that are open."""
        return [fd for fd in self.settings.values() if fd is not None]

    def ran_out_of_memory(self) -> bool:
        """Say whether the kernel killed a process of the box for its memory."""
        return self.seat is not None and self.seat.ran_out()


@contextmanager
def handed_over(box: Box, worker: int) -> Iterator[Handover]:
    """Yield what the box of one program of `worker` is handed."""
    with ExitStack() as stack:
        proc_fd = _open_proc()
        if proc_fd is not None:
            stack.callback(os.close, proc_fd)
        seat = None
        if box.groups is not None:
            with suppress(OSError):  # the group was removed; the warden still counts
                seat = stack.enter_context(box.groups.seat(worker, box.settings["memory_bytes"]))
        group_fd = None if seat is None else seat.procs_fd
        yield Handover(settings={"proc_fd": proc_fd, "group_fd": group_fd, "rules_fd": _rules_fd(box)}, seat=seat)


def _open_proc() -> int | None:
    """Open /proc, in which the warden finds how much memory its children take."""
    if sys.platform != "linux" or not os.path.lexists("/proc/self/status"):
        return None
    return os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)


def _rules_fd(box: Box) -> int | None:
    """Return the file rules of a box that sees the host's own files: they are the same for every program.

    Boxes with a root of their own make theirs inside.
    """
    if box.shared_rules is None or not box.settings["filters"]:
        return None
    return _made_rules(*box.shared_rules)


@cache
def _made_rules(read: tuple[str, ...], listed: tuple[str, ...], write: tuple[str, ...]) -> int | None:
    """Make rules that stay open as long as this process lives. Some hundred rules take milliseconds."""
    return confine.file_rules({"filters": True, "read_paths": read, "list_paths": listed, "write_paths": write})


class BoxError(Exception):
    """A box ended without a verdict. Its text says what the box printed."""


def run_once(box: Box, program: Program, *, timeout_s: float, worker: int) -> ProgramVerdict:
    """Run `program` in a fresh box. Raises `BoxError` when no verdict came out of it."""
    settings: dict[str, Any] = {
        **box.settings,
        **box.users(worker),
        "timeout_s": program.timeout_s or timeout_s,
        "output_bytes": OUTPUT_BYTES,
    }
    job = {"code": program.code, "setup": program.setup, "tests": list(program.tests)}
    started = time.monotonic()
    patience_s = MAX_WALL_FACTOR * settings["timeout_s"] + START_GRACE_S
    with handed_over(box, worker) as handover:
        sent = guest_code() + wire.frames([settings | handover.settings, job])
        try:
            output = _communicate(box, sent, patience_s, handover.descriptors)
        except BoxError:
            if not handover.ran_out_of_memory():
                raise
            output = b""
        ran_out = handover.ran_out_of_memory()
    if ran_out:
        detail = f"took more than {settings['memory_bytes'] >> 20} MiB in all"
        return ProgramVerdict(outcome="memory", detail=detail, wall_s=time.monotonic() - started)
    try:
        outcome, detail, wall_s = wire.decode(output[wire.LENGTH.size :], _no_object)
    except (wire.WireError, ValueError) as error:
        raise BoxError("no verdict") from error
    if outcome == "idle":
        return ProgramVerdict(outcome="timeout", detail=printable(detail), wall_s=wall_s, idle=True)
    if outcome not in get_args(ProgramOutcome):
        raise BoxError(f"{detail} after {time.monotonic() - started:.1f} s")
    return ProgramVerdict(outcome=outcome, detail=printable(detail), wall_s=wall_s)


def printable(text: str) -> str:
    """Return `text` as one line that any file and any terminal takes: other characters become escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _no_object(number: int) -> object:
    raise wire.WireError(f"object {number} outside a program")


def _communicate(box: Box, sent: bytes, timeout_s: float, descriptors: Sequence[int]) -> bytes:
    try:
        process = subprocess.Popen(
            box.argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=box.environment,
            cwd="/",
            pass_fds=descriptors,
            start_new_session=True,
        )
    except OSError as error:
        raise BoxError(str(error)) from error
    try:
        output, errors = process.communicate(sent, timeout=timeout_s)
    except subprocess.TimeoutExpired as error:
        raise BoxError(f"no verdict after {timeout_s:g} s") from error
    finally:
        _end(process)
    if not output:
        text = errors.decode(errors="replace").strip()
        raise BoxError(printable(text[-MAX_STDERR_CHARS:]) or f"ended with status {process.returncode} and no output")
    return output


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left of the box's session and release its pipes."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            with suppress(BrokenPipeError):
                pipe.close()
