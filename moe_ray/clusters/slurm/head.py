"""The agent of the first node: the head of the Ray cluster, the command itself, and the end of the job."""

import contextlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import moe_ray
from moe_ray.clusters.job_commands import is_on_experiment
from moe_ray.clusters.slurm.deadline import Deadline
from moe_ray.clusters.slurm.life import (
    WATCH_S,
    FailedNode,
    Life,
    LifeEnd,
    LifeRecord,
    LifeState,
    NodeFailedError,
    NodeRecord,
    Phase,
    finished_path,
    state_path,
    stopped_path,
    wait_for,
)
from moe_ray.clusters.slurm.limits import NodeLimits
from moe_ray.clusters.slurm.network import head_address, reaches
from moe_ray.clusters.slurm.node import Agent
from moe_ray.clusters.slurm.processes import PreparedProgram, start_child
from moe_ray.clusters.slurm.requeue import EXIT_NODES_FAILED, Budgets, Decision, decide
from moe_ray.clusters.slurm.saved import saved_work
from moe_ray.clusters.submission import EXIT_TRY_AGAIN
from moe_ray.files import write_text_atomically

HEARTBEAT_S = 10.0
PROGRAM = Path(moe_ray.__file__).with_name("__main__.py")
# What `moe-ray evaluate` imports before it joins the cluster.
COMMAND_MODULES = ("moe_ray.entry", "moe_ray.cli.main", "moe_ray.cli.runs", "moe_ray.execution.executor")
COMMAND_INTERRUPTED = 130
# SLURM signals all processes of a step, so that the command may know already that it must end.
SIGNAL_PATIENCE_S = 2.0


class StateFile:
    """Writes what the job does now, and renews it, so that readers need no scheduler."""

    def __init__(self, life: Life) -> None:
        self._life = life
        self._state = LifeState(job_id=life.job_id, restart=life.restart, phase="starting")
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="heartbeat", daemon=True)

    def set(self, phase: Phase, message: str = "", *, exit_code: int | None = None, will_requeue: bool = False) -> None:
        """Write a new state."""
        with self._lock:
            self._state = LifeState(
                job_id=self._life.job_id, restart=self._life.restart, phase=phase, message=message,
                exit_code=exit_code, will_requeue=will_requeue,
            )  # fmt: skip
            self._write()

    @contextmanager
    def renewed(self) -> Iterator[None]:
        """Renew the file within this context."""
        self._thread.start()
        try:
            yield
        finally:
            self._done.set()
            self._thread.join()

    def _renew(self) -> None:
        while not self._done.wait(HEARTBEAT_S):
            with self._lock:
                self._write()

    def _write(self) -> None:
        with contextlib.suppress(OSError):  # a full disk: the end of the life is written to the room that it keeps
            path = state_path(self._life.run, self._life.job_id)
            write_text_atomically(path, self._state.model_dump_json(indent=2) + "\n")


def lead(agent: Agent) -> int:
    """Start the cluster, run the command on it, end it, and write the exit code of the job. Returns that code."""
    life = agent.life
    token = life.make_token()
    state = StateFile(life)
    before = saved_work(life.run, agent.options.command)
    begun = LifeRecord(job_id=life.job_id, restart=life.restart, started_at=time.time(), saved_before=before.amount)
    life.write("record.json", begun)
    life.reserve()
    with state.renewed():
        try:
            with agent:
                try:
                    state.set("starting", f"starting Ray on {agent.num_nodes} nodes")
                    end, code = _run(agent, state)
                finally:
                    full = life.release()
                    life.mark("ended")
        except NodeFailedError as error:
            agent.say(f"error: {error}")
            end, code = "failed", EXIT_NODES_FAILED
        token.unlink(missing_ok=True)
        _conclude(agent, state, begun, end, code, full)
    return code


def _run(agent: Agent, state: StateFile) -> tuple[LifeEnd, int]:
    deadline = Deadline.of_environment()
    started = time.monotonic()
    try:
        limits = agent.prepare()
        program = PreparedProgram(COMMAND_MODULES, agent.environment)
        address = _form_cluster(agent, limits)
    except NodeFailedError as error:
        raise NodeFailedError(_explained(agent, error)) from error
    agent.say(f"{agent.num_nodes} nodes are ready after {time.monotonic() - started:.1f} s: Ray at {address}")
    if agent.signals.must_end:
        return "interrupted", EXIT_TRY_AGAIN
    state.set("running", f"running on {agent.num_nodes} nodes")
    command = [str(PROGRAM), *agent.options.command]
    # The other commands take the cluster's address from the environment.
    command += ["--set", f"runtime.address={address}"] if is_on_experiment(agent.options.command) else []
    process = program.run(command, RAY_ADDRESS=address)
    if process is None:
        process = start_child([sys.executable, *command], {**agent.environment, "RAY_ADDRESS": address})
    was_interrupted = _supervise(agent, process, deadline, lambda text: state.set("saving", text))
    code = process.wait()
    if code == COMMAND_INTERRUPTED or (was_interrupted and code != 0):
        return "interrupted", EXIT_TRY_AGAIN
    return ("finished", 0) if code == 0 else ("failed", code if code > 0 else 128 - code)


def _form_cluster(agent: Agent, limits: NodeLimits) -> str:
    """Start the head here, wait for the other nodes, and return the address."""
    peers = _peers(agent)
    own = agent.life.read("node-0.json", NodeRecord)
    host = head_address(own.addresses if own is not None else [], peers)
    record = agent.start_ray(host, limits, None)
    # The other nodes start as soon as the head's server listens, while the head's own node still starts.
    agent.await_ray(lambda: _another_failed(agent) or reaches(record.host, record.port))
    agent.life.write("head.json", record)
    agent.await_ray(lambda: _another_failed(agent))
    agent.say_ready()
    _wait_for_ranks(agent, "ready-{}", "did not join the Ray cluster")
    return record.address


def _peers(agent: Agent) -> list[str]:
    """Wait for the records of the other nodes; return their names, then their addresses."""
    _wait_for_ranks(agent, "node-{}.json", "wrote no record: check that all nodes see the run directory")
    records = [agent.life.read(f"node-{rank}.json", NodeRecord) for rank in range(1, agent.num_nodes)]
    found = [record for record in records if record is not None]
    return [record.name for record in found] + [address for record in found for address in record.addresses]


def _wait_for_ranks(agent: Agent, pattern: str, complaint: str) -> None:
    """Return when every node has its file, or the job must end. Raises `NodeFailedError` when one failed or is late."""
    wanted = {pattern.format(rank): rank for rank in range(agent.num_nodes)}

    def is_complete() -> bool:
        return _another_failed(agent) or agent.signals.must_end or wanted.keys() <= agent.life.names()

    timeout_s = agent.options.ready_timeout_s
    if not wait_for(is_complete, timeout_s):
        missing = [str(rank) for name, rank in wanted.items() if name not in agent.life.names()]
        raise NodeFailedError(f"node number {', '.join(missing)} of the job {complaint} (waited {timeout_s:g} s)")


def _another_failed(agent: Agent) -> bool:
    """False; raises `NodeFailedError` as soon as a node says that it cannot take part."""
    if any(name.startswith("failed-") for name in agent.life.names()):
        raise NodeFailedError("a node cannot take part")
    return False


def _explained(agent: Agent, error: NodeFailedError) -> str:
    """The reasons of all nodes that failed, each with the last lines of its own log."""
    failed = [agent.life.read(name, FailedNode) for name in agent.life.names() if name.startswith("failed-")]
    shown = [f"{one.name}: {one.reason}" + "".join(f"\n    {line}" for line in one.log) for one in failed if one]
    if not shown:
        log = agent.ray.log() if agent.ray is not None else []
        shown = [f"{agent.name}: {error}" + "".join(f"\n    {line}" for line in log)]
    return "\n  ".join(("the Ray cluster could not be formed", *shown))


def _supervise(
    agent: Agent, process: "subprocess.Popen[bytes]", deadline: Deadline, on_interrupt: Callable[[str], object]
) -> bool:
    """Wait for the end of the command. Interrupts it before the time is over, and says whether that was so."""
    while not _has_ended(process):
        reason = _reason_to_interrupt(agent, deadline)
        if reason is None:
            continue
        agent.say(f"{reason}: the run is interrupted and saves")
        on_interrupt(reason)
        if not (agent.signals.must_end and _has_ended(process, SIGNAL_PATIENCE_S)):
            process.send_signal(signal.SIGTERM)
        if not _has_ended(process, deadline.save_timeout_s):
            process.kill()
        return True
    return agent.signals.must_end


def _has_ended(process: "subprocess.Popen[bytes]", timeout_s: float = WATCH_S) -> bool:
    """Wait for the end of a process, and say whether it came in time."""
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        return False
    return True


def _reason_to_interrupt(agent: Agent, deadline: Deadline) -> str | None:
    if agent.signals.must_end:
        return "SLURM ends the job"
    if deadline.is_near():
        return "the time limit is near"
    if "warned" in agent.life.names() and not deadline.explains_signal():
        return "SLURM warned that the job will be preempted"
    return None


def _conclude(agent: Agent, state: StateFile, begun: LifeRecord, end: LifeEnd, code: int, full: str | None) -> None:
    """Decide whether the job is requeued, and write how this life ended: the exit code last.

    `full` is the error where the disk is full.
    """
    life, options = agent.life, agent.options
    saved = saved_work(life.run, options.command)
    decision = decide(life.earlier(), end, code, saved, Budgets(options.max_failures, options.max_interruptions))
    if (options.chain and not decision.requeue) or (options.shares and code == 0):
        write_text_atomically(finished_path(life.run), "")
    if agent.signals.must_end:
        decision = Decision(False, "SLURM ended the job; a preempted job is requeued by SLURM itself")
    elif stopped_path(life.run).exists():
        decision = Decision(False, "stopped by moe-ray stop")
    elif code and full is not None:
        decision = Decision(False, f"the disk is full ({full}): free space at {life.run}, and submit the run again")
    what_next = f"; {'the job resumes' if decision.requeue else 'not resumed'}: {decision.reason}" if code else ""
    agent.say(f"ended with exit code {code}{what_next}")
    life.write("record.json", begun.model_copy(update={"end": end, "exit_code": code, "saved_after": saved.amount}))
    state.set("ended", decision.reason, exit_code=code, will_requeue=decision.requeue)
    if decision.requeue and not options.chain:
        life.mark("requeue")
    life.mark("exit_code", f"{code}\n")
