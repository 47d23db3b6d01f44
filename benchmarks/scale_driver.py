"""The driver process of benchmarks.scale_run: runs one experiment, and measures itself.

    python -m benchmarks.scale_driver EXPERIMENT MEASURED.json [--profile PROFILE]

Prints the number of committed cells now and then, for whoever disturbs the run. Ends where grading would begin, which
benchmarks.scale_store measures.
"""

import argparse
import cProfile
import json
import pstats
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.machine import peak_memory_bytes
from moe_ray.config.load import load_experiment
from moe_ray.runs import evaluate as pipeline

REPORTS_EVERY_S = 0.5
NUM_PROFILE_LINES = 45


class AnswersAreThere(Exception):  # noqa: N818
    """All cells are committed: what follows is not measured here."""


@dataclass
class Stage:
    """A stage's beginning: Unix time, and what the driver had used by then."""

    name: str
    at: float
    cpu_s: float
    peak_bytes: int


@dataclass
class Measured:
    """An observer that keeps when things happened (Unix times). `costs`: cells committed, CPU s, peak bytes."""

    stages: list[Stage] = field(default_factory=list)
    starting: dict[str, float] = field(default_factory=dict)
    ready: dict[str, float] = field(default_factory=dict)
    num_lost: int = 0
    num_given_up: int = 0
    num_cells: int = 0
    last_commit_at: float = 0.0
    costs: list[tuple[int, float, int]] = field(default_factory=list)
    told_at: float = 0.0

    def stage(self, text: str) -> None:
        self.stages.append(Stage(name=text, at=time.time(), cpu_s=time.process_time(), peak_bytes=peak_memory_bytes()))
        if text == "Grading answers":
            raise AnswersAreThere

    def notice(self, text: str) -> None: ...

    def training(self, step: int, num_steps: int, detail: str) -> None: ...

    def work(self, totals: Mapping[str, tuple[int, int]]) -> None: ...

    def replica(self, replica: str, model: str, state: str, detail: str) -> None:  # noqa: ARG002
        moments = {"starting": self.starting, "ready": self.ready}.get(state)
        if moments is not None:
            moments.setdefault(replica, time.time())
        self.num_lost += state == "lost"

    def committed(self, model: str, num_cells: int, num_tokens: int) -> None:  # noqa: ARG002
        self.num_cells += num_cells
        self.last_commit_at = time.time()
        self.costs.append((self.num_cells, time.process_time(), peak_memory_bytes()))
        if self.last_commit_at > self.told_at + REPORTS_EVERY_S:
            self.told_at = self.last_commit_at
            print(self.num_cells, flush=True)

    def abandoned(self, model: str, num_cells: int, reason: str) -> None:
        self.num_given_up += num_cells
        print(f"given up: {num_cells} cells of {model}: {reason}", flush=True)


def run(experiment: Path, measured: Measured) -> None:
    """Compute all answers of `experiment`, on the cluster that RAY_ADDRESS names."""
    try:
        pipeline.evaluate(load_experiment(experiment), measured)
    except AnswersAreThere:
        return


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("experiment", type=Path)
    parser.add_argument("measured", type=Path)
    parser.add_argument("--profile", type=Path)
    arguments = parser.parse_args()
    measured = Measured()
    if arguments.profile is None:
        run(arguments.experiment, measured)
    else:
        with cProfile.Profile() as profile:
            run(arguments.experiment, measured)
        with arguments.profile.open("w") as file:
            pstats.Stats(profile, stream=file).sort_stats("tottime").print_stats(NUM_PROFILE_LINES)
    arguments.measured.write_text(json.dumps(asdict(measured)))


if __name__ == "__main__":
    main()
