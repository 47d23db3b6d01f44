"""Many slots on real Ray: how close a run comes to the ideal, and what its driver costs.

    python -m benchmarks.scale_run [--cells 200000 ...] [--slots 64] [--nodes 4] [--models 6] [--lose 1]
    python -m benchmarks.scale_run --pure [--cells 1000000] [--slots 1000]

Starts a Ray cluster of several nodes on this machine with pretended cores, and runs the scripted engine on it: models
that differ in speed up to ten times, answers of uneven length, and nodes that die in the middle and are replaced. The
work is waiting, so that the machine's own cores are not the limit. Exits with 1 when a cell is lost or there twice.

The ideal is what the slots that were there could have done: the pretended seconds of the committed shards, laid end
to end over all slots, each counted from when Ray knew its node to when the node was killed. The second ratio counts
as work too what no scheduler can save: each replica's start (its process, its imports, its load), as measured.

The driver's memory is told at the last commit and at the end, when the store has merged the shards' files.

`--pure` drives the scheduler alone, without Ray, to see what it costs by itself.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import yaml

from benchmarks.machine import machine_line
from benchmarks.scale_cluster import Nodes, available_slot_seconds, moment_of
from benchmarks.scale_pure import play
from benchmarks.tiny_experiment import private_environment
from moe_ray.store.run_directory import RunDirectory

NAME = "scale"
SHARD_SIZE = 32
MAX_TOKENS = 24
SLOWEST = 10.0
NUM_PROMPT_WORDS = 60
TARGET_SHARE = 0.95
MIB = 1 << 20
TARGET_BYTES = 1024 * MIB
# Nodes are lost between these parts of the work, each replaced a tenth of it later.
FIRST_LOSS, LAST_LOSS, REGAINED_AFTER = 0.25, 0.6, 0.1
# What the driver costs is taken from here on, when most processes are there.
WORKING_FROM = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One run's size. The pretended speed is such that all slots together answer `cells_per_s`."""

    num_cells: int
    num_slots: int
    num_nodes: int
    num_models: int
    num_losses: int
    cells_per_s: float
    is_warm: bool

    @property
    def shard_s(self) -> dict[str, float]:
        """Seconds that each model takes for a whole shard; the slowest is ten times as slow as the first."""
        last = max(1, self.num_models - 1)
        slowness = [SLOWEST ** (number / last) for number in range(self.num_models)]
        unit_s = self.num_slots * SHARD_SIZE / (self.cells_per_s * sum(slowness) / self.num_models)
        return {f"m{number}": unit_s * factor for number, factor in enumerate(slowness)}


def write_experiment(folder: Path, setting: Setting) -> Path:
    """Write the experiment and its examples. Half of a shard's time is its batch's, half its longest answer's."""
    num_examples = -(-setting.num_cells // setting.num_models)
    folder.mkdir(parents=True)
    with (folder / "tickets.jsonl").open("w") as file:
        for number in range(num_examples):
            words = " ".join(f"w{(number * 31 + i) % 997}" for i in range(NUM_PROMPT_WORDS))
            record = {"id": f"t{number}", "question": words, "label": "yes" if number % 2 else "no"}
            file.write(json.dumps(record) + "\n")
    models = {
        name: {
            "path": f"scripted/{name}",
            "engine": "scripted",
            "engine_settings": {"seconds_per_batch": shard_s / 2, "seconds_per_token": shard_s / 2 / MAX_TOKENS},
        }
        for name, shard_s in setting.shard_s.items()
    }
    domain = {
        "task": "decision",
        "data": {"source": "./tickets.jsonl"},
        "columns": {"id": "id", "question": "question", "label": "label"},
        "choices": ["yes", "no"],
        "prompt": {"template": "{question}"},
    }
    runtime = {
        "cpu_threads": 1,
        "cpu_slots": setting.num_slots // setting.num_nodes,
        "batch_size": SHARD_SIZE,
        "shard_size": SHARD_SIZE,
        "probe_examples": 0,
    }
    experiment: dict[str, Any] = {
        "name": NAME,
        "models": models,
        "matrix": "full",
        "likelihood": False,
        "domains": {"tickets": domain},
        "decoding": {"max_new_tokens": MAX_TOKENS},
        "runtime": runtime,
        "output": {"results_dir": str(folder / "results")},
    }
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump(experiment))
    return path


class Disturber:
    """Loses and regains nodes when so many cells are committed."""

    def __init__(self, nodes: Nodes, setting: Setting) -> None:
        step = (LAST_LOSS - FIRST_LOSS) / max(1, setting.num_losses - 1)
        losses = [FIRST_LOSS + step * number for number in range(setting.num_losses)]
        moments = [(at, nodes.lose) for at in losses] + [(at + REGAINED_AFTER, nodes.add) for at in losses]
        self._pending = sorted(moments, key=lambda moment: moment[0])
        self._num_cells = setting.num_cells

    def progress(self, num_committed: int) -> None:
        """Do what is due. A node that starts is waited for."""
        while self._pending and num_committed >= self._pending[0][0] * self._num_cells:
            _, action = self._pending.pop(0)
            action()


def drive(experiment: Path, nodes: Nodes, disturber: Disturber, profile: Path | None) -> dict[str, Any]:
    """Run the driver process to its end, disturb it meanwhile, and return what it measured."""
    measured = experiment.parent / "measured.json"
    program = [sys.executable, "-m", "benchmarks.scale_driver", str(experiment), str(measured)]
    options = [] if profile is None else ["--profile", str(profile)]
    environment = {**os.environ, "RAY_ADDRESS": nodes.address}
    with subprocess.Popen([*program, *options], env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip().isdigit():
                disturber.progress(int(line))
            else:
                print(line, end="", flush=True)
    if process.returncode:
        raise SystemExit(f"the driver ended with {process.returncode}")
    result: dict[str, Any] = json.loads(measured.read_text())
    return result


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What came out of one run."""

    num_cells: int
    num_once: int
    wall_s: float
    ideal_s: float
    share: float
    share_with_starts: float
    num_starts: int
    start_s: float
    num_lost: int
    prepare_cpu_s: float
    answer_cpu_s: float
    working_cpu_ms_per_cell: float
    working_peak_bytes: int
    peak_bytes: int

    @property
    def is_whole(self) -> bool:
        return self.num_once == self.num_cells


def work_seconds(run: RunDirectory, setting: Setting) -> float:
    """The pretended seconds of the committed shards, from what was answered: no overhead is in them."""
    answers = run.answers_table(["model", "shard", "num_completion_tokens"])
    shards = answers.group_by(["model", "shard"]).aggregate([("num_completion_tokens", "max")])
    tokens: list[int] = shards["num_completion_tokens_max"].to_pylist()
    half = {name: shard_s / 2 for name, shard_s in setting.shard_s.items()}
    models: list[str] = shards["model"].to_pylist()
    return sum(half[model] * (1 + num / MAX_TOKENS) for model, num in zip(models, tokens, strict=True))


def figures_of(
    run: RunDirectory, setting: Setting, measured: dict[str, Any], changes: list[tuple[float, int]]
) -> Figures:
    """Work out the figures from the run directory, the driver's measurements and the nodes' comings and goings."""
    stages = {stage["name"]: stage for stage in measured["stages"]}
    began, ended = stages["Answering"], stages["Grading answers"]
    keys = run.answers_table(["key"])["key"]
    work_s = work_seconds(run, setting)
    available = available_slot_seconds(changes, began["at"], measured["last_commit_at"])
    starts = [at - measured["starting"][name] for name, at in measured["ready"].items()]
    committed, cpu_s = next(
        (num, cpu) for num, cpu, _ in measured["costs"] if num >= WORKING_FROM * measured["num_cells"]
    )
    _, last_cpu_s, peak_bytes = measured["costs"][-1]
    return Figures(
        num_cells=setting.num_models * -(-setting.num_cells // setting.num_models),
        num_once=pc.count_distinct(keys).as_py() if len(keys) == pc.count_distinct(keys).as_py() else -1,
        wall_s=measured["last_commit_at"] - began["at"],
        ideal_s=moment_of(changes, began["at"], work_s) - began["at"],
        share=work_s / available,
        share_with_starts=(work_s + sum(starts)) / available,
        num_starts=len(measured["starting"]),
        start_s=sum(starts) / len(starts),
        num_lost=measured["num_lost"],
        prepare_cpu_s=began["cpu_s"] - stages["Reading data and checkpoints"]["cpu_s"],
        answer_cpu_s=last_cpu_s - began["cpu_s"],
        working_cpu_ms_per_cell=1000 * (last_cpu_s - cpu_s) / max(1, measured["num_cells"] - committed),
        working_peak_bytes=peak_bytes,
        peak_bytes=ended["peak_bytes"],
    )


def measure(setting: Setting, profile: Path | None) -> Figures:
    """Run one size on a cluster of its own."""
    with tempfile.TemporaryDirectory(prefix="sr-", dir="/tmp", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        # A cluster that has been up for a while has idle workers; here they start with their node.
        slots_per_node = setting.num_slots // setting.num_nodes
        warm = {"RAY_enable_worker_prestart": "1", "RAY_worker_maximum_startup_concurrency": str(slots_per_node)}
        os.environ.update(private_environment(folder / "home", RAY_AUTH_MODE="disabled", OMP_NUM_THREADS="1"))
        os.environ.update(warm if setting.is_warm else {})
        experiment = write_experiment(folder / "experiment", setting)
        nodes = Nodes(slots_per_node, folder / "ray")
        try:
            for _ in range(setting.num_nodes):
                nodes.add()
            if setting.is_warm:
                nodes.wait_for_idle_workers()
            measured = drive(experiment, nodes, Disturber(nodes, setting), profile)
            run = RunDirectory(experiment.parent / "results" / NAME)
            return figures_of(run, setting, measured, nodes.changes)
        finally:
            nodes.shut_down()


HEADER = (
    "   cells  once     wall s  ideal s  of ideal  with starts  starts  s each  lost  cells/s"
    "  CPU ms/cell  working  prepare s  peak MiB  at end"
)


def print_row(found: Figures) -> None:
    print(
        f"{found.num_cells:8,}  {'yes' if found.is_whole else 'NO':4} {found.wall_s:10.1f} {found.ideal_s:8.1f}"
        f"  {found.ideal_s / found.wall_s:8.3f}  {found.share_with_starts:11.3f}  {found.num_starts:6}"
        f"  {found.start_s:6.2f}  {found.num_lost:4}  {found.num_cells / found.wall_s:7.0f}"
        f"  {1000 * found.answer_cpu_s / found.num_cells:11.3f}  {found.working_cpu_ms_per_cell:7.3f}"
        f"  {found.prepare_cpu_s:9.2f}  {found.working_peak_bytes / MIB:8.0f}  {found.peak_bytes / MIB:6.0f}",
        flush=True,
    )


def print_targets(found: Sequence[Figures]) -> None:
    costs = [entry.working_cpu_ms_per_cell for entry in found]
    largest = found[-1]
    targets = [
        (f"of the ideal, at least {TARGET_SHARE}", largest.ideal_s / largest.wall_s >= TARGET_SHARE),
        (f"the same with process starts as work, at least {TARGET_SHARE}", largest.share_with_starts >= TARGET_SHARE),
        ("driver's memory under 1 GiB", max(entry.peak_bytes for entry in found) < TARGET_BYTES),
    ]
    if len(found) > 1:
        targets.append(
            (f"cost per cell flat: {max(costs) / min(costs):.2f}, at most 1.2", max(costs) <= 1.2 * min(costs))
        )
    for text, is_met in targets:
        print(f"{text}: {'met' if is_met else 'MISSED'}")


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure a run on many slots.")
    parser.add_argument("--cells", type=int, nargs="+", help="default: 200000; with --pure 1000000")
    parser.add_argument("--slots", type=int, help="default: 64; with --pure 1000")
    parser.add_argument("--nodes", type=int, default=4, help="nodes that share the slots")
    parser.add_argument("--models", type=int, default=6)
    parser.add_argument("--lose", type=int, default=1, help="nodes that die and are replaced")
    parser.add_argument("--cells-per-s", type=float, default=400.0, help="pretended speed of all slots together")
    parser.add_argument("--cold", action="store_true", help="nodes have no idle workers when the run begins")
    parser.add_argument("--profile", type=Path, help="write the driver's profile here; it slows the driver")
    parser.add_argument("--pure", action="store_true", help="the scheduler alone, without Ray")
    arguments = parser.parse_args()
    print(machine_line("ray", "pyarrow"))
    if arguments.pure:
        return play(arguments.cells or [1_000_000], arguments.slots or 1000, arguments.models)
    print(time.strftime("%Y-%m-%d"), f"{arguments.slots or 64} slots on {arguments.nodes} nodes\n{HEADER}", flush=True)
    found = []
    for num_cells in arguments.cells or [200_000]:
        setting = Setting(
            num_cells=num_cells,
            num_slots=arguments.slots or 64,
            num_nodes=arguments.nodes,
            num_models=arguments.models,
            num_losses=arguments.lose,
            cells_per_s=arguments.cells_per_s,
            is_warm=not arguments.cold,
        )
        found.append(measure(setting, arguments.profile))
        print_row(found[-1])
    print_targets(found)
    return 0 if all(entry.is_whole for entry in found) else 1


if __name__ == "__main__":
    sys.exit(main())
