"""Submit a run as a SLURM job: `moe-ray slurm`."""

import time
from collections.abc import Sequence
from pathlib import Path

from moe_ray.clusters.slurm.array import ARRAY
from moe_ray.clusters.slurm.life import FOLDER, finished_path, stopped_path
from moe_ray.clusters.slurm.scheduler import SlurmScheduler, clean_environment
from moe_ray.clusters.slurm.script import SCRIPT_FILE, SlurmRequest, job_script, require_sensible
from moe_ray.clusters.slurm.site import SiteConfig
from moe_ray.clusters.submission import Submission, next_attempt, write_submission
from moe_ray.errors import RunDirectoryError
from moe_ray.files import write_text_atomically
from moe_ray.store.inside import inside


def submit(
    scheduler: SlurmScheduler, request: SlurmRequest, site: SiteConfig, run: Path, name: str, command: Sequence[str]
) -> Submission:
    """Write the job's script into the run directory, submit it, and write the record of the submission.

    Raises `UserError` where the run has a job already, where SLURM refuses this one, or where it could never start.
    """
    require_sensible(request)
    attempt = next_attempt(run)
    scheduler.require_time(request.time, request.partition or site.partition)
    if request.array:
        scheduler.require_array(request.array)
    script = job_script(request, site, run, name, command)
    path = write_script(run, script)
    job_id = scheduler.submit(str(path), clean_environment(script))
    submission = Submission(
        kind="slurm",
        id=job_id,
        target="",
        command=tuple(command),
        submitted_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        attempt=attempt,
        details={
            "nodes": str(request.nodes),
            "gpus_per_node": str(request.gpus_per_node),
            "time": request.time,
            **({ARRAY: str(request.array)} if request.array else {}),
        },
    )
    write_submission(run, submission)
    return submission


def write_script(run: Path, script: str) -> Path:
    """Write the script into the run directory, and allow the job to start."""
    try:
        inside(run, FOLDER).mkdir(mode=0o700, parents=True, exist_ok=True)
        for mark in (stopped_path(run), finished_path(run)):
            mark.unlink(missing_ok=True)
        path = inside(run, FOLDER, SCRIPT_FILE)
        write_text_atomically(path, script)
        path.chmod(0o700)
    except OSError as error:
        raise RunDirectoryError(
            f"cannot write here: {error.strerror or error}",
            where=str(run),
            remedy="choose a --results-dir that you may write to and that all nodes see",
        ) from error
    return path
