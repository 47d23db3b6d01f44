"""Kill anything: whatever dies at whatever moment, the resumed run says the same as the undisturbed one.

    python -m benchmarks.kill_anything [--trials 20] [--seed 0]

Each trial runs one experiment (tiny real transformers models, greedy, generated and measured cells) in a fresh run
directory on a Ray cluster of two worker nodes, and strikes at a random moment one of

    model    the process of a model, killed
    node     a worker node (its raylet and all its processes), killed
    driver   the command, killed
    gcs      the head's GCS, killed
    stopped  the head's GCS, stopped (SIGSTOP) and never continued

The last three end the command; a new one resumes the run, after "gcs" and "stopped" on a new cluster. These two must
end by themselves, with exit code 1 and one message. Prints a table; exits with 1 when a row is lost, there twice, or
differs in a byte of its content columns, or when a command ended otherwise.
"""

import argparse
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.tiny_experiment import (
    NAME,
    Difference,
    difference,
    evaluate_command,
    private_environment,
    write_tiny_experiment,
)
from moe_ray.store.run_directory import RunDirectory

VICTIMS = ("model", "node", "driver", "gcs", "stopped")
NUM_WORKER_NODES = 2
POLL_S = 0.02
RUN_TIMEOUT_S = 300.0
RAY_TIMEOUT_S = 15
RAY_LOST = "incomplete: Ray does not answer any more: "
FAST_HEALTH_CHECK = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_failure_threshold": "3",
    "RAY_health_check_timeout_ms": "1000",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One disturbed run."""

    victim: str
    moment_s: float
    num_done_then: int
    wall_s: float
    exit_code: int
    found: Difference


class Machine:
    """A Ray cluster on this machine: a head without CPUs, and worker nodes that can be killed."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        from ray.cluster_utils import Cluster

        self._cluster: Any = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        self._workers: list[Any] = []
        self.complete()

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def complete(self) -> None:
        """Bring the number of worker nodes back to what it was."""
        while len(self._workers) < NUM_WORKER_NODES:
            self._workers.append(self._cluster.add_node(num_cpus=1))

    def model_processes(self) -> list[psutil.Process]:
        """The processes that hold models, on all nodes."""
        return [process for node in self._workers for process in _replicas_below(_raylet(node))]

    def kill_node(self, index: int) -> None:
        """End a worker node as a power loss would: the raylet and everything below it, at once."""
        node = self._workers.pop(index)
        raylet = _raylet(node)
        doomed = [raylet, *raylet.children(recursive=True)]
        for process in doomed:
            _kill(process)
        self._cluster.remove_node(node, allow_graceful=False)

    def strike_gcs(self, number: signal.Signals) -> None:
        """Send a signal to the head's GCS."""
        self._cluster.head_node.all_processes["gcs_server"][0].process.send_signal(number)

    def start_again(self) -> None:
        """End every process of the cluster, whatever state it is in, and start a new cluster."""
        for node in (self._cluster.head_node, *self._workers):
            for started in [entry.process for entries in node.all_processes.values() for entry in entries]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process = psutil.Process(started.pid)
                    for doomed in (*process.children(recursive=True), process):
                        _kill(doomed)
                started.wait()
        self._start()

    def shut_down(self) -> None:
        self._cluster.shutdown()


def _raylet(node: Any) -> psutil.Process:
    return psutil.Process(node.all_processes["raylet"][0].process.pid)


def _replicas_below(raylet: psutil.Process) -> list[psutil.Process]:
    found = []
    for process in raylet.children(recursive=True):
        try:
            if any("ray::Replica" in part for part in process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def _kill(process: psutil.Process) -> None:
    try:
        process.send_signal(signal.SIGKILL)
    except psutil.NoSuchProcess:
        return


@contextmanager
def driver(command: list[str], environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A running driver, in a process group of its own, that is gone at the end."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()


def _strike(victim: str, machine: Machine, process: subprocess.Popen[bytes], rng: random.Random) -> bool:
    """Kill one `victim`, as soon as there is one; False when the run ended before."""
    while process.poll() is None:
        if victim == "driver":
            process.kill()
            return True
        if victim == "node":
            machine.kill_node(rng.randrange(NUM_WORKER_NODES))
            return True
        if victim in ("gcs", "stopped"):
            machine.strike_gcs(signal.SIGKILL if victim == "gcs" else signal.SIGSTOP)
            return True
        if models := machine.model_processes():
            _kill(rng.choice(models))
            return True
        time.sleep(POLL_S)
    return False


def _wait_for_cells(process: subprocess.Popen[bytes], run: RunDirectory, num_cells: int, delay_s: float) -> None:
    """Wait until so many cells are committed and then `delay_s`, or until the driver ended."""
    while process.poll() is None and len(run.done_keys()) < num_cells:
        time.sleep(POLL_S)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(delay_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What all trials share."""

    folder: Path
    experiment: Path
    machine: Machine
    rng: random.Random

    @contextmanager
    def command(self, results: Path) -> Iterator[subprocess.Popen[bytes]]:
        """The command that runs the experiment, or resumes it, on the cluster that is there now."""
        arguments = evaluate_command(self.experiment, results, ray_timeout_s=RAY_TIMEOUT_S)
        environment = {**os.environ, "RAY_ADDRESS": self.machine.address}
        with driver(arguments, environment, self.folder / "log") as process:
            yield process

    def run(self, results: Path) -> int:
        """Run the experiment, or resume it, to its end; return the exit code."""
        with self.command(results) as process:
            return process.wait(RUN_TIMEOUT_S)

    def lost_ray(self, code: int, log_start: int) -> bool:
        """Whether the command that wrote the log from `log_start` ended as it should when Ray is lost."""
        told = (self.folder / "log").read_text()[log_start:]
        return code == 1 and told.count(RAY_LOST) == 1 and "Traceback" not in told

    def trial(self, victim: str, undisturbed: RunDirectory, usual_s: float) -> Trial:
        """Run with one death, at a moment that is drawn anew until it falls into the run.

        In one trial of five it comes before the first commit; else when a number of cells is there that is drawn,
        so that the moments spread over the work however slow the machine is.
        """
        num_cells = len(undisturbed.done_keys())
        while True:
            results = self.folder / "trial"
            shutil.rmtree(results, ignore_errors=True)
            self.machine.complete()
            num_wanted = self.rng.randrange(-num_cells // 4, num_cells)
            delay_s = self.rng.uniform(0, 0.3) if num_wanted > 0 else self.rng.uniform(0.1, 0.6) * usual_s
            started = time.monotonic()
            log_start = len((self.folder / "log").read_text())
            with self.command(results) as process:
                _wait_for_cells(process, RunDirectory(results / NAME), num_wanted, delay_s)
                hit = _strike(victim, self.machine, process, self.rng)
                num_done = len(RunDirectory(results / NAME).done_keys())
                moment_s = time.monotonic() - started
                code = process.wait(RUN_TIMEOUT_S)
            if victim in ("gcs", "stopped"):
                self.machine.start_again()
            if not hit:
                continue
            if victim == "driver" or (victim in ("gcs", "stopped") and self.lost_ray(code, log_start)):
                code = self.run(results)
            return Trial(
                victim=victim,
                moment_s=moment_s,
                num_done_then=num_done,
                wall_s=time.monotonic() - started,
                exit_code=code,
                found=difference(undisturbed, RunDirectory(results / NAME)),
            )


def run_trials(bench: Bench, num_trials: int) -> bool:
    """Run all trials and print their table; True when none differs."""
    started = time.monotonic()
    if code := bench.run(bench.folder / "undisturbed"):
        print((bench.folder / "log").read_text())
        raise SystemExit(f"the undisturbed run ended with {code}")
    usual_s = time.monotonic() - started
    undisturbed = RunDirectory(bench.folder / "undisturbed" / NAME)
    print(f"undisturbed: {undisturbed.answers_table(['key']).num_rows} cells in {usual_s:.1f} s\n")
    print("trial  struck   at s   cells then  wall s  exit  lost  twice  other  bytes")
    all_same = True
    for number in range(num_trials):
        trial = bench.trial(VICTIMS[number % len(VICTIMS)], undisturbed, usual_s)
        found = trial.found
        sound = found.is_none and trial.exit_code == 0
        all_same &= sound
        print(
            f"{number + 1:5}  {trial.victim:7}  {trial.moment_s:5.1f}  {trial.num_done_then:4} of {found.num_cells}"
            f"  {trial.wall_s:6.1f}  {trial.exit_code:4}  {found.num_lost:4}  {found.num_twice:5}  {found.num_other:5}"
            f"  {'same' if found.same_bytes else 'DIFFER'}",
            flush=True,
        )
        if not sound:
            print((bench.folder / "log").read_text()[-4000:])
    return all_same


def main() -> int:
    parser = argparse.ArgumentParser(description="Kill or stop parts of a run; compare with the undisturbed one.")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kill-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        environment = private_environment(folder / "home", RAY_AUTH_MODE="disabled", **FAST_HEALTH_CHECK)
        os.environ.clear()
        os.environ.update(environment)
        experiment = write_tiny_experiment(
            folder / "experiment", num_examples=32, max_new_tokens=40, models=("llama", "qwen2")
        )
        machine = Machine()
        bench = Bench(folder=folder, experiment=experiment, machine=machine, rng=random.Random(arguments.seed))
        try:
            all_same = run_trials(bench, arguments.trials)
        finally:
            machine.shut_down()
    print("\nEvery run ended with the same bytes." if all_same else "\nSome runs differ.")
    return 0 if all_same else 1


if __name__ == "__main__":
    sys.exit(main())
