"""One of SLURM's commands as a version of SLURM answers it: `slurm_shim.py FOLDER VERSION COMMAND [ARGUMENTS]`.

FOLDER holds one folder per job and `calls`, the commands that were called. A job's script runs on this machine, as one
process per task of each `srun`, with the variables of that version. See `EmulatedSlurm`, which installs the commands.
The rows come from SLURM's own manual pages and change logs; a standard Python is enough, because each call starts one.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

GONE = "slurm_load_jobs error: Invalid job id specified"
OVER = ("COMPLETED", "FAILED", "CANCELLED")
POLL_S = 0.02
TIME_LIMIT_S = 3600
KILL_WAIT_S = 5.0
# A site whose limit of memory per CPU has SLURM give more CPUs than the script requests.
CPUS_GIVEN_MORE = 2


class SlurmVersion(NamedTuple):
    """What differs between versions, for the commands and the variables that moe_ray uses."""

    release: str
    srun_reads_cpus: bool
    """`srun` takes SLURM_CPUS_PER_TASK; in 22.05 and 23.02 it gives one CPU unless --cpus-per-task is given."""
    tres_per_task: str
    """The form of SLURM_TRES_PER_TASK, which is set beside SLURM_CPUS_PER_TASK since 23.11; empty where it is not."""
    has_moments: bool
    """SLURM_JOB_START_TIME and SLURM_JOB_END_TIME are set, since 23.02."""
    resources: str
    """The fields of `scontrol show job` for what was requested and given."""


VERSIONS = {
    "22.05": SlurmVersion("22.05.8", False, "", False, "TRES=cpu=4,node=2"),
    "23.11": SlurmVersion("23.11.10", True, "cpu:{}", True, "ReqTRES=cpu=4,node=2 AllocTRES=cpu=4,node=2"),
    "24.11": SlurmVersion("24.11.5", True, "cpu={}", True, "ReqTRES=cpu=4,node=2 AllocTRES=cpu=4,node=2"),
    "25.05": SlurmVersion("25.05.3", True, "cpu={}", True, "ReqTRES=cpu=4,node=2 AllocTRES=cpu=4,node=2"),
}


class EmulatedJob:
    """The files of a job: `state`, `script`, `restarts`, `pid` of its script, and what was asked of it."""

    def __init__(self, folder: Path, job_id: str) -> None:
        self.id = job_id
        self.folder = folder / "jobs" / job_id

    def __getitem__(self, name: str) -> str:
        try:
            return (self.folder / name).read_text(encoding="utf-8")
        except FileNotFoundError:
            return ""

    def __setitem__(self, name: str, text: object) -> None:
        temporary = self.folder / f".{name}.{os.getpid()}"
        temporary.write_text(str(text), encoding="utf-8")
        temporary.rename(self.folder / name)

    @property
    def flags(self) -> dict[str, str]:
        """The options in the script, without their dashes."""
        lines = Path(self["script"]).read_text(encoding="utf-8").splitlines()
        given = (line.removeprefix("#SBATCH --") for line in lines if line.startswith("#SBATCH --"))
        return dict(line.partition("=")[::2] for line in given)

    def end_script(self) -> None:
        """End the script as SLURM does: SIGTERM, and SIGKILL after a while."""
        pid = int(self["pid"] or 0)
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(pid, number)
            except (ProcessLookupError, PermissionError):
                return
            deadline = time.monotonic() + KILL_WAIT_S
            while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
                time.sleep(POLL_S)


def sbatch(version: SlurmVersion, folder: Path, arguments: Sequence[str]) -> int:
    """Start a job; prints its id. Refuses what this version refuses."""
    *_, script = arguments
    number = 17 + len(list((folder / "jobs").iterdir()))
    job = EmulatedJob(folder, str(number))
    job.folder.mkdir()
    job["script"] = script
    if "gpus-per-task" in job.flags and "ntasks" not in job.flags:
        return _refuse("--gpus-per-task used without either --gpus or -n/--ntasks is not allowed.")
    job["state"] = "PENDING"
    subprocess.Popen(
        [sys.executable, __file__, str(folder), version.release[:5], "job", job.id], start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    print(f"{number};lab" if "--parsable" in arguments else f"Submitted batch job {number}")  # noqa: T201
    return 0


def run_job(version: SlurmVersion, folder: Path, arguments: Sequence[str]) -> int:
    """Run the script of a job, and again when it is requeued."""
    job = EmulatedJob(folder, arguments[0])
    (output, flags) = (job.flags["output"].replace("%j", job.id).replace("%A", job.id), job.flags)
    for restart in range(9):
        job["restarts"] = restart
        job["started"] = time.time()
        with Path(output.strip("'")).open("ab") as log:
            script = subprocess.Popen(
                ["bash", job["script"]], env=_job_variables(version, job, flags, restart), start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip
        job["pid"] = script.pid
        if job["state"] != "CANCELLED":
            job["state"] = "RUNNING"
        code = script.wait()
        if job["state"] == "CANCELLED":
            return 0
        if not job["requeue"]:
            job["state"] = "COMPLETED" if code == 0 else "FAILED"
            return 0
        job["requeue"] = ""
    return 1


def _job_variables(version: SlurmVersion, job: EmulatedJob, flags: Mapping[str, str], restart: int) -> dict[str, str]:
    asked = int(flags["cpus-per-task"])
    gpus = re.search(r"\d+$", flags.get("gres") or flags.get("gpus-per-node") or "0")
    own = {
        "SLURM_JOB_ID": job.id,
        "SLURM_NNODES": flags["nodes"],
        "SLURM_CPUS_PER_TASK": str(asked + CPUS_GIVEN_MORE),
        "SLURM_CPUS_ON_NODE": str(asked + CPUS_GIVEN_MORE),
        "SLURM_MEM_PER_NODE": "2048",
        "SLURM_GPUS_ON_NODE": gpus[0] if gpus is not None else "0",
    }
    if restart:
        own["SLURM_RESTART_COUNT"] = str(restart)
    if version.tres_per_task:
        own["SLURM_TRES_PER_TASK"] = version.tres_per_task.format(asked)
    if version.has_moments:
        now_s = int(time.time())
        own |= {"SLURM_JOB_START_TIME": str(now_s), "SLURM_JOB_END_TIME": str(now_s + TIME_LIMIT_S)}
    return {**os.environ, **own}


def srun(version: SlurmVersion, _folder: Path, arguments: Sequence[str]) -> int:
    """Run a step: one process for each node."""
    options = list(arguments)
    command = options[next(i for i, word in enumerate(options) if not word.startswith("-")) :]
    given = dict(word.removeprefix("--").partition("=")[::2] for word in options[: -len(command)])
    cpus, tres = os.environ.get("SLURM_CPUS_PER_TASK"), os.environ.get("SLURM_TRES_PER_TASK")
    if version.tres_per_task and cpus and tres and tres != version.tres_per_task.format(cpus):
        return _refuse(
            "cpus-per-task set by two different environment variables "
            f"SLURM_CPUS_PER_TASK={cpus} != SLURM_TRES_PER_TASK={tres}",
            "srun: fatal: ",
        )
    number = given.get("cpus-per-task") or (cpus if version.srun_reads_cpus else None) or "1"
    step = {**os.environ, "SLURM_CPUS_PER_TASK": number, "SLURM_STEP_NUM_NODES": os.environ["SLURM_NNODES"]}
    if version.tres_per_task:
        step["SLURM_TRES_PER_TASK"] = version.tres_per_task.format(number)
    gpus = int(os.environ["SLURM_GPUS_ON_NODE"])
    if gpus:
        step["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, range(gpus)))
    tasks = [
        subprocess.Popen(command, env={**step, "SLURM_NODEID": str(rank), "SLURMD_NODENAME": f"node{rank + 1}"})
        for rank in range(int(os.environ["SLURM_NNODES"]))
    ]
    return max(task.wait() for task in tasks)


def squeue(_version: SlurmVersion, folder: Path, arguments: Sequence[str]) -> int:
    """Print a line for a job in the format that was asked for."""
    job = EmulatedJob(folder, arguments[arguments.index("-j") + 1])
    if not job["state"]:
        return _refuse(GONE, "")
    if job["state"] in OVER and "all" not in arguments:
        return 0
    left_s = TIME_LIMIT_S - (time.time() - float(job["started"] or time.time()))
    values = {
        "%T": job["state"],
        "%r": "BeginTime" if job["state"] == "PENDING" and job["requeue"] else "None",
        "%N": "node[1-2]",
        "%L": f"{int(left_s) // 60}:{int(left_s) % 60:02}",
    }
    print(re.sub("%[TrNL]", lambda found: values[found[0]], arguments[arguments.index("-o") + 1]))  # noqa: T201
    return 0


def scancel(_version: SlurmVersion, folder: Path, arguments: Sequence[str]) -> int:
    """Cancel a job."""
    job = EmulatedJob(folder, arguments[-1])
    if not job["state"]:
        return _refuse(f"Kill job error on job id {job.id}: Invalid job id specified", "scancel: error: ")
    if job["state"] not in OVER:
        job["state"] = "CANCELLED"
        job.end_script()
    return 0


def scontrol(version: SlurmVersion, folder: Path, arguments: Sequence[str]) -> int:
    """Show the configuration or a job, or requeue a job."""
    if arguments[:2] == ["show", "config"]:
        print(f"KillWait                = 30 sec\nSLURM_VERSION           = {version.release}")  # noqa: T201
        return 0
    job = EmulatedJob(folder, arguments[-1])
    if not job["state"]:
        return _refuse(GONE, "")
    if arguments[0] == "requeue":
        job["requeue"] = "yes"
        job["state"] = "PENDING"
        job.end_script()
        return 0
    print(  # noqa: T201
        f"JobId={job.id} JobName={job.flags['job-name']} UserId=me(1000) JobState={job['state']} Reason=None "
        f"Requeue=1 Restarts={job['restarts']} {version.resources} MinCPUsNode=4 Power= NodeList=node[1-2] "
        f"Command={job['script']} WorkDir={Path.cwd()} StdErr={job.folder} StdIn=/dev/null StdOut={job.folder} "
    )
    return 0


def sinfo(_version: SlurmVersion, _folder: Path, _arguments: Sequence[str]) -> int:
    """Print the partitions and their limits."""
    print("main*|1-00:00:00\nlong|UNLIMITED")  # noqa: T201
    return 0


def sacct(_version: SlurmVersion, _folder: Path, _arguments: Sequence[str]) -> int:
    """Fail, as on a cluster without a database."""
    return _refuse("Slurm accounting storage is disabled", "")


COMMANDS: dict[str, Callable[[SlurmVersion, Path, Sequence[str]], int]] = {
    "sbatch": sbatch, "srun": srun, "squeue": squeue, "scancel": scancel, "scontrol": scontrol, "sinfo": sinfo,
    "sacct": sacct, "job": run_job,
}  # fmt: skip


def _refuse(text: str, prefix: str = "sbatch: error: ") -> int:
    print(f"{prefix}{text}", file=sys.stderr)  # noqa: T201
    return 1


def main() -> int:
    """Answer one call."""
    folder, version, command, *arguments = sys.argv[1:]
    if command != "job":
        with (Path(folder) / "calls").open("a", encoding="utf-8") as calls:
            calls.write(f"{command} {' '.join(arguments)}\n")
    return COMMANDS[command](VERSIONS[version], Path(folder), arguments)


if __name__ == "__main__":
    sys.exit(main())
