"""The demo's experiment as a SLURM job: the answers of one to three nodes, compared with those of `moe-ray demo`.

    python -m benchmarks.slurm_demo [--nodes 1 2 3] [--gpus-per-node 1] [--keep FOLDER]

Runs `moe-ray demo` on this machine, brings up a real SLURM (`tests.support.slurm_lab`, as root), submits the demo's
experiment with `moe-ray slurm` for each number of nodes, and compares the content columns byte by byte. Prints a table;
exits with 1 when a job does not complete or an answer differs. The demo takes a few minutes.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.machine import machine_line
from benchmarks.tiny_experiment import difference
from moe_ray.store.run_directory import RunDirectory
from tests.support.slurm_jobs import Job, submit
from tests.support.slurm_lab import SlurmLab, lab_environment, slurm_lab, why_not

JOB_TIMEOUT_S = 1800.0
OPTIONS = ("--cpus-per-node", 2, "--memory-per-node", "4G", "--time", 60)


def run_demo(results: Path) -> tuple[Path, RunDirectory, float]:
    """Run `moe-ray demo`; return its experiment, its run and the seconds that it took with the training."""
    started = time.monotonic()
    command = [sys.executable, "-m", "moe_ray", "demo", "--results-dir", str(results)]
    done = subprocess.run(command, env=lab_environment({}), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"moe-ray demo ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    run = next(path.parent for path in results.glob("*/manifest.json"))
    return results / "microworld" / "experiment.yaml", RunDirectory(run), time.monotonic() - started


def submitted(lab: SlurmLab, experiment: Path, num_nodes: int, num_gpus: int) -> tuple[Job, float]:
    """Run the experiment as a job of `num_nodes` nodes; return it and the seconds from its submission to its end."""
    started = time.monotonic()
    results = lab.shared / f"results-{num_nodes}"
    job = submit(lab, experiment, results, "--nodes", num_nodes, "--gpus-per-node", num_gpus, *OPTIONS)
    job.wait(timeout_s=JOB_TIMEOUT_S)
    return job, time.monotonic() - started


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Run the demo's experiment on SLURM and compare its answers.")
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--gpus-per-node", type=int, default=1, help="GPUs that SLURM counts; the models run on CPU")
    parser.add_argument("--keep", type=Path, help="folder with the demo's results, which is made once; default: none")
    options = parser.parse_args(arguments)
    reason = why_not()
    if reason is not None:
        print(f"SLURM: {reason}")
        return 1
    print(machine_line("ray", "torch"))
    with tempfile.TemporaryDirectory(prefix="demo-", ignore_cleanup_errors=True) as name:
        results = (options.keep or Path(name)).absolute()
        experiment, laptop, wall_s = run_demo(results)
        print("run        cells  wall s  lost  twice  other  bytes")
        print(f"laptop     {len(laptop.done_keys()):5}  {wall_s:6.0f}  (with the training of the models)")
        all_same = True
        with slurm_lab(Path(f"/var/tmp/mr-slurm-{os.getpid()}"), max(options.nodes)) as lab:
            for num_nodes in options.nodes:
                job, wall_s = submitted(lab, experiment, num_nodes, options.gpus_per_node)
                found = difference(laptop, RunDirectory(job.run))
                all_same &= found.is_none
                print(
                    f"{num_nodes} node(s)  {found.num_cells:5}  {wall_s:6.0f}  {found.num_lost:4}  {found.num_twice:5}"
                    f"  {found.num_other:5}  {'same' if found.same_bytes else 'DIFFER'}",
                    flush=True,
                )
    return 0 if all_same else 1


if __name__ == "__main__":
    sys.exit(main())
