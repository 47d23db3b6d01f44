"""The warden: the first process of the box. It starts the player before it has read a single test, then the judge;
keeps the clock, counts memory and what the program prints, ends both, and alone may report."""

from __future__ import annotations

import os
import select
import sys
import time

from moe_ray.scoring.sandbox.guest import confine, kernel, wire
from moe_ray.scoring.sandbox.guest.clock import Clock
from moe_ray.scoring.sandbox.guest.judge import Link, judge
from moe_ray.scoring.sandbox.guest.meter import Meter
from moe_ray.scoring.sandbox.guest.player import play

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

STDIN, STDOUT = 0, 1
READ_BYTES = 1 << 16
DRAIN_S = 1.0
LAST_BREATH_S = 0.1
METER_S = 0.01

GuestVerdict = tuple[str, str]


class Children:
    """The player and the judge, and the pipes between all three."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.requests = os.pipe()
        self.replies = os.pipe()
        self.output = os.pipe()
        self.result = os.pipe()
        self.warden = os.getpid()
        self.meter = Meter(settings)
        self.ruleset = confine.file_rules(settings)
        self.player = _fork(self._be_player, settings)
        self.judge = _fork(self._be_judge, settings)
        for fd in (*self.requests, *self.replies, self.output[1], self.result[1], STDIN):
            os.close(fd)
        self.meter.open(2)

    def _be_player(self, settings: dict[str, Any]) -> None:
        self.meter.admit()
        null = os.open("/dev/null", os.O_RDONLY)
        for source, target in ((null, 0), (self.output[1], 1), (self.output[1], 2)):
            os.dup2(source, target)
        confine.close_all_but(self.requests[0], self.replies[1], self.ruleset)
        os.chdir(settings["scratch"])
        confine.confine(settings, settings["player_uid"], self.warden, self.ruleset)
        play(self.requests[0], self.replies[1])

    def _be_judge(self, settings: dict[str, Any]) -> None:
        self.meter.admit()
        job_fd = os.dup(STDIN)
        null = os.open("/dev/null", os.O_RDWR)
        for target in (0, 1, 2):
            os.dup2(null, target)
        confine.close_all_but(job_fd, self.requests[1], self.replies[0], self.result[1], self.ruleset)
        os.chdir(settings["scratch"])
        confine.confine(settings, settings["judge_uid"], self.warden, self.ruleset)
        job = wire.decode(wire.receive(job_fd), _no_object)
        os.close(job_fd)
        wire.send(self.result[1], wire.encode(judge(job, Link(self.requests[1], self.replies[0]))))


def _no_object(number: int) -> object:
    raise wire.WireError(f"object {number} outside a program")


def _fork(body: Any, settings: dict[str, Any]) -> int:
    pid = os.fork()
    if pid:
        return pid
    status = 70
    try:
        os.setsid()
        body(settings)
        status = 0
    finally:
        os._exit(status)


def watch(children: Children, settings: dict[str, Any]) -> GuestVerdict:
    """Wait for the judge's result, the end of the time, too much output or too much memory, whichever comes first.

    Raises `BrokenPipeError` when the host has closed the pipe.
    """
    clock = Clock(settings["timeout_s"], (children.player, children.judge))
    metered = 0.0
    output, result = children.output[0], children.result[0]
    poll = select.poll()
    poll.register(STDOUT, 0)  # of a pipe without a reader the kernel tells an error, asked or not
    poll.register(output, select.POLLIN)
    poll.register(result, select.POLLIN)
    num_output_bytes = 0
    while True:
        ready = [fd for fd, _ in poll.poll(min(clock.left_s(), METER_S) * 1000)]
        if STDOUT in ready:
            raise BrokenPipeError
        if output in ready:
            chunk = os.read(output, READ_BYTES)
            num_output_bytes += len(chunk)
            if not chunk:
                poll.unregister(output)
            if num_output_bytes > settings["output_bytes"]:
                return "output_limit", f"printed more than {settings['output_bytes']} bytes"
        if result in ready:
            return _read_result(result)
        if time.monotonic() >= metered + METER_S:
            if children.meter.total_bytes() > settings["memory_bytes"]:
                return "memory", f"took more than {settings['memory_bytes'] >> 20} MiB in all"
            metered = time.monotonic()
        over = clock.over()
        if over is not None:
            return over


def _read_result(fd: int) -> GuestVerdict:
    try:
        outcome, detail = wire.decode(wire.receive(fd), _no_object)
    except (EOFError, wire.WireError, ValueError):
        return "judge_lost", "the tests' process ended without a verdict"
    return str(outcome), str(detail)


def end(children: Children, settings: dict[str, Any], verdict: GuestVerdict) -> GuestVerdict:
    """Kill both, reap all, and put into the verdict how the player died where that decides it."""
    grace_s = LAST_BREATH_S if verdict[0] == "lost" else 0.0
    usage = {pid: _reap(pid, grace_s) for pid in (children.player, children.judge)}
    _kill_orphans()
    status, cpu_s = usage[children.player]
    if verdict[0] not in ("lost", "judge_lost"):
        return verdict
    if max(cpu_s, usage[children.judge][1]) >= settings["timeout_s"]:
        return "timeout", f"not done after {settings['timeout_s']:g} s of CPU time"
    if verdict[0] == "judge_lost":
        return verdict
    how = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"status {os.waitstatus_to_exitcode(status)}"
    return "error", f"the program's process ended early ({how})"


def _reap(pid: int, grace_s: float) -> tuple[int, float]:
    """Kill a child that has not ended by itself within `grace_s`; return its status and its CPU seconds."""
    until = time.monotonic() + grace_s
    while True:
        ended, status, usage = os.wait4(pid, os.WNOHANG)
        if ended:
            return status, usage.ru_utime + usage.ru_stime
        if time.monotonic() >= until:
            _kill(pid)
            _, status, usage = os.wait4(pid, 0)
            return status, usage.ru_utime + usage.ru_stime
        time.sleep(0.001)


def _kill(pid: int) -> None:
    try:
        os.kill(pid, kernel.SIGKILL)
    except ProcessLookupError:
        return


def _kill_orphans() -> None:
    """Kill what the player left behind: it became a child of this process, the nearest subreaper."""
    until = time.monotonic() + DRAIN_S
    path = f"/proc/self/task/{os.getpid()}/children"
    while os.access(path, os.R_OK) and time.monotonic() < until:
        with open(path) as file:  # noqa: PTH123  (pathlib is a slow import for a process this short)
            pids = [int(pid) for pid in file.read().split()]
        if not pids:
            return
        for pid in pids:
            _kill(pid)
            os.waitpid(pid, 0)


def main() -> NoReturn:
    """Read the settings and a job from stdin; write one verdict to stdout."""
    settings = wire.decode(wire.receive(STDIN), _no_object)
    if settings["group_fd"] is not None:
        os.write(settings["group_fd"], b"0")  # this process and all that it starts
        os.close(settings["group_fd"])
    if settings["new_root"] is not None:
        from moe_ray.scoring.sandbox.guest import namespaces

        namespaces.enter(settings)
    if sys.platform == "linux":
        kernel.prctl(kernel.PR_SET_PDEATHSIG, kernel.SIGKILL)
        kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
        confine.hide_from_siblings()
    started = time.monotonic()
    children = Children(settings)
    try:
        verdict = watch(children, settings)
    except BrokenPipeError:
        verdict = "host_lost", "the process that asked is gone"
    wall_s = time.monotonic() - started
    outcome, detail = end(children, settings, verdict)
    wire.send(STDOUT, wire.encode((outcome, detail, wall_s)))
    os._exit(0)
