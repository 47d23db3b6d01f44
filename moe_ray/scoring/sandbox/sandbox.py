"""The sandbox: many programs, each in a box of its own."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from functools import cache
from queue import SimpleQueue
from typing import Any

from moe_ray.config.schema import SandboxConfig
from moe_ray.errors import SandboxError
from moe_ray.scoring.sandbox.boxes import Box, candidates
from moe_ray.scoring.sandbox.execution import BoxError, run_once
from moe_ray.scoring.sandbox.groups import open_groups
from moe_ray.scoring.sandbox.probing import PROBE_TIMEOUT_S, probe
from moe_ray.scoring.sandbox.program import BackendName, Program, ProgramVerdict, Protections

CONTROL = Program(code="def f(): return 1", tests=("assert f() == 1",))
MAX_REPEATED_IN_VAIN = 4
BUSY_LOAD = 1.5
REMEDY = "install bubblewrap, or accept the risk with --allow-weak-sandbox (runtime.sandbox.allow_weak: true)"


class Sandbox:
    """Runs generated programs in isolation. `protections` says what this machine can isolate."""

    def __init__(self, box: Box, protections: Protections, config: SandboxConfig) -> None:
        self.protections = protections
        self._box = box
        self._config = config
        self._num_workers = _num_workers(config)

    @classmethod
    def open(cls, config: SandboxConfig, *, backend: BackendName | None = None) -> "Sandbox":
        """Return a sandbox in the strongest kind of box that works here (or in `backend`, for tests).

        Raises `SandboxError` when a protection cannot be had and the config does not allow that.
        """
        return cls(*_strongest(config, backend), config)

    def describe(self) -> dict[str, Any]:
        """Return what holds, what does not ("missing"), and the limits, for the manifest."""
        limits = {"timeout_s": self._config.timeout_s, "memory_mib": self._config.memory_mib}
        return {**self.protections.describe(), "control_group": self._box.groups is not None, **limits}

    def run_all(
        self, programs: Sequence[Program], on_done: Callable[[int], None] | None = None
    ) -> list[ProgramVerdict]:
        """Run every program, several at once, and return their verdicts in order.

        `on_done` is called in this thread with a program's position as it ends, in any order. What ran out of time
        without using it, on a busy machine, is run again alone.
        """
        workers: SimpleQueue[int] = SimpleQueue()
        for worker in range(self._num_workers):
            workers.put(worker)
        verdicts: dict[int, ProgramVerdict] = {}
        with ThreadPoolExecutor(self._num_workers, thread_name_prefix="sandbox") as pool:
            runs = {pool.submit(self._run, program, workers): index for index, program in enumerate(programs)}
            try:
                for run in as_completed(runs):
                    verdicts[runs[run]] = run.result()
                    if on_done is not None:
                        on_done(runs[run])
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise
        self._repeat_idle(programs, verdicts)
        return [verdicts[index] for index in range(len(programs))]

    def _repeat_idle(self, programs: Sequence[Program], verdicts: dict[int, ProgramVerdict]) -> None:
        """Run idle programs of a busy machine again, one after the other, as long as that gives other verdicts.

        Programs that sleep are idle too. So many of them in a row cost their time once more, then no further ones do.
        """
        idle = [index for index in range(len(programs)) if verdicts[index].idle]
        num_in_vain = 0
        for index in idle if idle and _is_busy() else ():
            verdicts[index] = self._judge(programs[index], worker=0)
            num_in_vain = num_in_vain + 1 if verdicts[index].idle else 0
            if num_in_vain == MAX_REPEATED_IN_VAIN:
                return

    def _run(self, program: Program, workers: "SimpleQueue[int]") -> ProgramVerdict:
        worker = workers.get()
        try:
            return self._judge(program, worker)
        finally:
            workers.put(worker)

    def _judge(self, program: Program, worker: int) -> ProgramVerdict:
        """Run a program, once more when its box broke. When both broke and a program that does nothing passes, it was
        the program that broke them: that is its error, and not the sandbox's."""
        for _ in range(2):
            try:
                return run_once(self._box, program, timeout_s=self._config.timeout_s, worker=worker)
            except BoxError as error:
                broken = str(error)
        try:
            verdict = run_once(self._box, CONTROL, timeout_s=PROBE_TIMEOUT_S, worker=worker)
        except BoxError as error:
            return ProgramVerdict(outcome="sandbox_failed", detail=str(error), wall_s=0.0)
        if not verdict.passed:
            return ProgramVerdict(outcome="sandbox_failed", detail=f"a trivial program: {verdict.detail}", wall_s=0.0)
        return ProgramVerdict(outcome="error", detail=f"the program broke its box twice: {broken}", wall_s=0.0)


@cache
def shared_sandbox(config: SandboxConfig) -> Sandbox:
    """Return this process's sandbox for `config`: what it protects is tried once. Raises what `Sandbox.open` raises."""
    return Sandbox.open(config)


def _is_busy() -> bool:
    """Say whether more wants to run here, or waits for a disk, than the sandbox's own programs on all cores."""
    return os.getloadavg()[0] > BUSY_LOAD * (os.cpu_count() or 1)


def _num_workers(config: SandboxConfig) -> int:
    if config.num_workers != "auto":
        return config.num_workers
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _strongest(config: SandboxConfig, backend: BackendName | None) -> tuple[Box, Protections]:
    """Return the first box without a gap; else, if allowed, the one with the fewest."""
    usable: list[tuple[Box, Protections]] = []
    reasons: list[str] = []
    for box in _with_groups(candidates(config.memory_mib << 20), backend):
        try:
            protections = probe(box, _num_workers(config))
        except BoxError as error:
            reasons.append(f"{box.backend}: {error}")
            continue
        if not protections.missing:
            return box, protections
        usable.append((box, protections))
        reasons.append(f"{box.backend}: no protection of {protections.explain_missing()}")
    if not usable:
        raise SandboxError(f"no kind of sandbox works here ({'; '.join(reasons)})", remedy=REMEDY)
    if not config.allow_weak:
        raise SandboxError(f"generated code cannot be run safely here ({'; '.join(reasons)})", remedy=REMEDY)
    return min(usable, key=lambda pair: len(pair[1].missing))


def _with_groups(boxes: Iterable[Box], backend: BackendName | None) -> Iterator[Box]:
    """Yield each box with control groups, where some can be had, then without.

    Never with groups where the box does not filter: a program that may write files could move to another group.
    """
    groups = open_groups()
    for box in boxes:
        if backend in (None, box.backend):
            if groups is not None and box.settings["filters"]:
                yield replace(box, groups=groups)
            yield box
