"""`ray job submit` end to end: jobs/evaluate.py as a Ray job on a cluster of two nodes with declared GPUs.

    python -m benchmarks.ray_job [FILE] [--keep FOLDER] [-- OPTIONS OF moe-ray evaluate]

Starts the cluster with its dashboard, submits the job, waits, and checks: it ended with 0, replicas worked on both
nodes, each with its own CUDA_VISIBLE_DEVICES, and the run directory is whole. FILE is an experiment; by default one of
tiny real transformers models that take a GPU each. GPUs are declared to Ray, which counts and assigns them; where there
is none, models run on CPU.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.tiny_experiment import ARCHITECTURES, private_environment, write_tiny_experiment
from moe_ray.store.records import ReplicaTelemetry
from moe_ray.store.run_directory import RunDirectory

ROOT = Path(__file__).parents[1]
GPUS_PER_NODE = 2
POLL_S = 1.0
JOB_TIMEOUT_S = 1800.0
AGENT_TIMEOUT_S = 120
NOT_SENT = [".git", ".venv", "results", "docs"]


def start_cluster() -> Any:
    """Start two raylets with declared GPUs, and the dashboard that takes jobs."""
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 2, "num_gpus": GPUS_PER_NODE, "include_dashboard": True, "dashboard_port": 0}
    cluster: Any = Cluster(initialize_head=True, head_node_args=head)
    cluster.add_node(num_cpus=2, num_gpus=GPUS_PER_NODE)
    return cluster


def _submit(client: Any, entrypoint: list[str]) -> str:
    """Submit the job, once an agent takes it: on a slow machine the dashboard answers before any agent has started."""
    deadline = time.monotonic() + AGENT_TIMEOUT_S
    while True:
        try:
            job: str = client.submit_job(
                entrypoint=" ".join(entrypoint), runtime_env={"working_dir": str(ROOT), "excludes": NOT_SENT}
            )
            return job
        except RuntimeError as error:
            if "No available agent" not in str(error) or time.monotonic() > deadline:
                raise
        time.sleep(POLL_S)


def run_job(cluster: Any, entrypoint: list[str], meanwhile: Callable[[], object] = lambda: None) -> str:
    """Submit the job, call `meanwhile` until it ends, print what it said, and return its status."""
    from ray.job_submission import JobStatus, JobSubmissionClient

    client: Any = JobSubmissionClient(f"http://{cluster.head_node.webui_url}")
    job = _submit(client, entrypoint)
    deadline = time.monotonic() + JOB_TIMEOUT_S
    while not JobStatus(client.get_job_status(job)).is_terminal() and time.monotonic() < deadline:
        meanwhile()
        time.sleep(POLL_S)
    print(client.get_job_logs(job))
    info = client.get_job_info(job)
    print(f"job {job}: {info.status}, driver exit code {info.driver_exit_code}")
    return str(JobStatus(info.status))


def problems_of(run: RunDirectory) -> list[str]:
    """Check a run directory that a job left; return what is wrong with it."""
    records = run.telemetry()
    print("\nreplica                     node                 CUDA_VISIBLE_DEVICES  answers  end")
    for record in records:
        print(
            f"{record.replica:26}  {record.node:20}  {record.cuda_visible_devices or '-':20}"
            f"  {record.num_answers:7}  {record.end}"
        )
    problems = [f"{path.name} is missing" for path in (run.summary_path, run.report_path) if not path.is_file()]
    session = run.manifest().sessions[-1]
    if session.status != "complete":
        problems.append(f"the session is {session.status}")
    keys = run.answers_table(["key"])["key"].to_pylist()
    if len(keys) != len(set(keys)) or len(keys) != session.cells_done_after:
        problems.append(f"{len(keys)} rows, {len(set(keys))} cells, {session.cells_done_after} expected")
    if len({record.node for record in records}) != 2:
        problems.append("replicas were not on both nodes")
    return problems + _shared_devices(run, records)


def _shared_devices(run: RunDirectory, records: list[ReplicaTelemetry]) -> list[str]:
    """Replicas that worked at the same time on the same device of the same node, though each was to have it alone."""
    rows = run.answers()
    models = run.manifest().models
    spans = []
    for record in records:
        gpus = models[record.model]["gpus"]
        if not record.cuda_visible_devices or (gpus != "auto" and gpus < 1):
            continue
        own = [row for row in rows if row.replica == record.replica]
        if own:
            begin, end = min(row.finished_at - row.total_s for row in own), max(row.finished_at for row in own)
            spans.append((record, begin, end))
    return [
        f"{first.replica} and {second.replica} shared {first.cuda_visible_devices} of {first.node}"
        for i, (first, begin, end) in enumerate(spans)
        for second, other_begin, other_end in spans[i + 1 :]
        if (first.node, first.cuda_visible_devices) == (second.node, second.cuda_visible_devices)
        and begin < other_end
        and other_begin < end
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description="Run jobs/evaluate.py as a Ray job on two nodes.")
    parser.add_argument("experiment", type=Path, nargs="?", help="default: tiny models, made on the spot")
    parser.add_argument("--keep", type=Path, help="where the results go; default: nowhere after the checks")
    parser.add_argument("options", nargs="*", help="after --: options of moe-ray evaluate")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="job-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        enter_private_environment(folder / "home")
        options = list(arguments.options)
        experiment = arguments.experiment and arguments.experiment.absolute()
        if experiment is None:
            experiment = write_tiny_experiment(folder / "experiment", num_examples=24, max_new_tokens=24)
            options += [f"--set=models.{model}.gpus=1" for model in ARCHITECTURES]
        results = (arguments.keep or folder / "results").absolute()
        cluster = start_cluster()
        try:
            entrypoint = ["python", "jobs/evaluate.py", str(experiment), "--results-dir", str(results), *options]
            status = run_job(cluster, entrypoint)
        finally:
            cluster.shutdown()
        problems = [] if status == "SUCCEEDED" else [f"the job is {status}"]
        for manifest in results.glob("*/manifest.json"):
            problems += problems_of(RunDirectory(manifest.parent))
    print("\n" + ("\n".join(problems) if problems else "The job and its run directory are whole."))
    return 1 if problems else 0


def enter_private_environment(home: Path) -> None:
    """Give this process, and what it starts, a home of its own and a PATH on which `python` is this one."""
    path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"
    environment = private_environment(home, RAY_AUTH_MODE="disabled", PATH=path)
    os.environ.clear()
    os.environ.update(environment)


if __name__ == "__main__":
    sys.exit(main())
