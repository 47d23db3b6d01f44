"""How long a SLURM job takes from its start to its first shard, and what that time is spent on.

    python -m benchmarks.slurm_start [--nodes 3] [--repeat 3]

Brings up a real SLURM on this machine (`tests.support.slurm_lab`, as root), submits an experiment of scripted models
with a slot on each node, and prints the moments of each job in seconds after the start of its script: when the files
appeared through which the agents meet, and the first stored answers. Ends with 1 when a job fails. `--broken` measures
a job whose second node cannot start Ray instead: from the start of the script to its end.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.machine import machine_line
from moe_ray.store.run_directory import RunDirectory
from tests.support.slurm_jobs import Job, submit, write_scripted
from tests.support.slurm_lab import SlurmLab, slurm_lab, wait_until, why_not

TIMEOUT_S = 300.0
CPUS = ("--cpus-per-node", 2, "--memory-per-node", "3G")
BROKEN_RAY = "import sys\nsys.exit('planted: no object store')\n"


def started_job(lab: SlurmLab, folder: Path, num_nodes: int, *, broken: bool) -> tuple[Job, Path]:
    """Submit a job; return it, and the file that its script touches first."""
    experiment = write_scripted(folder)
    begin = folder / "script-started"
    python = folder / "python"
    fake = folder / "fake" / "ray" / "scripts"
    fake.mkdir(parents=True)
    (fake.parent / "__init__.py").touch()
    (fake / "__init__.py").touch()
    (fake / "scripts.py").write_text(BROKEN_RAY)
    planted = f'[ "$SLURMD_NODENAME" = node2 ] && export PYTHONPATH="{folder}/fake:$PYTHONPATH"\n' if broken else ""
    python.write_text(f'#!/bin/bash\n{planted}exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    site = folder / "site.yaml"
    site.write_text(f"prefix: ['touch {begin}']\npython: {python}\n")
    options = ("--nodes", num_nodes, "--gpus-per-node", 1, "--time", 10, "--site", site, *CPUS)
    return submit(lab, experiment, folder / "results", *options), begin


def moments(job: Job, num_nodes: int) -> dict[str, float]:
    """Return the Unix time of each step until the first shard; waits until that is stored."""
    answers = job.run / "answers"
    wait_until(lambda: any(answers.glob("*.parquet")), f"the first shard\n{job.log}", TIMEOUT_S)
    first_shard = min(path.stat().st_mtime for path in answers.glob("*.parquet"))
    job.wait()
    run, life = RunDirectory(job.run), job.run / "slurm" / f"{job.id}.0"

    def written(pattern: str) -> list[float]:
        return sorted((life / pattern.format(rank)).stat().st_mtime for rank in range(num_nodes))

    replicas = run.telemetry()
    return {
        "first agent runs": written("node-{}.json")[0],
        "agents met": written("node-{}.json")[-1],
        "head's server listens": (life / "head.json").stat().st_mtime,
        "Ray on the first node": written("ready-{}")[0],
        "Ray on all nodes": written("ready-{}")[-1],
        "command connects": run.manifest().sessions[0].started_at,
        "first actor requested": min(replica.started_at for replica in replicas),
        "first shard": first_shard,
    }


def measure_start(lab: SlurmLab, num_nodes: int, repeat: int) -> None:
    """Print the moments of `repeat` jobs, one column each."""
    columns: list[dict[str, float]] = []
    for number in range(repeat):
        job, begin = started_job(lab, lab.shared / f"start-{number}", num_nodes, broken=False)
        found = moments(job, num_nodes)
        columns.append({name: moment - begin.stat().st_mtime for name, moment in found.items()})
    for name in columns[0]:
        print(f"{name:24}" + "".join(f"{column[name]:8.1f}" for column in columns))


def measure_failure(lab: SlurmLab, num_nodes: int) -> None:
    """Print how long a job takes that cannot form its cluster, and what it says."""
    job, begin = started_job(lab, lab.shared / "broken", num_nodes, broken=True)
    job.wait("FAILED")
    print(f"a `ray start` that fails: job ended {time.time() - begin.stat().st_mtime:.1f} s after its start with exit")
    print(f"code {job.field('ExitCode')}; its log:\n{job.log}")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Measure the start of a SLURM job.")
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--broken", action="store_true", help="measure a job whose second node cannot start Ray")
    options = parser.parse_args(arguments)
    reason = why_not()
    if reason is not None:
        print(f"SLURM: {reason}")
        return 1
    print(machine_line("ray"))
    with slurm_lab(Path(f"/var/tmp/mr-slurm-{os.getpid()}"), options.nodes) as lab:
        if options.broken:
            measure_failure(lab, options.nodes)
        else:
            measure_start(lab, options.nodes, options.repeat)
    return 0


if __name__ == "__main__":
    sys.exit(main())
