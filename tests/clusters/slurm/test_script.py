"""The job script: readable, valid for the shell, and complete."""

import shlex
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from moe_ray.clusters.slurm.agent import parse_options
from moe_ray.clusters.slurm.node_copies import CopyOptions
from moe_ray.clusters.slurm.script import SlurmRequest, job_script, require_sensible
from moe_ray.clusters.slurm.site import SiteConfig, StagingConfig, load_site
from moe_ray.errors import UserError

SITES = sorted((Path(__file__).parents[3] / "cluster" / "slurm").glob("*.yaml"))
REQUEST = SlurmRequest(nodes=3, gpus_per_node=2, time="02:00:00")
COMMAND = ["evaluate", "/data/my experiment.yaml", "--results-dir", "/data/re'sults", "--set", 'a.b=$(id) `id` "x"']


def script(site: SiteConfig, run: Path = Path("/shared/results/tiny"), request: SlurmRequest = REQUEST) -> str:
    return job_script(request, site, run, "tiny", COMMAND)


@pytest.mark.parametrize("path", SITES, ids=lambda path: str(path.name))
def test_the_scripts_of_three_sites_are_valid_and_short(path: Path, tmp_path: Path) -> None:
    written = tmp_path / "job.sh"
    written.write_text(script(load_site(path)), encoding="utf-8")
    subprocess.run(["bash", "-n", str(written)], check=True)
    assert len(written.read_text().splitlines()) <= 52
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    found = subprocess.run(
        ["shellcheck", "-e", "SC1091,SC2016", str(written)], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stdout


def test_a_lost_node_ends_neither_the_job_nor_the_step() -> None:
    text = script(SiteConfig())
    assert "#SBATCH --no-kill" in text
    assert "srun --no-kill --kill-on-bad-exit=0 --wait=0" in text


def test_requested_resources_are_in_the_script() -> None:
    request = SlurmRequest(
        nodes=2, gpus_per_node=4, time="1-00", cpus_per_node=3, memory_per_node="9G", partition="p", account="a"
    )
    lines = script(SiteConfig(partition="q", gpu_type="h200"), request=request).splitlines()
    for flag in ("--nodes=2", "--gres=gpu:h200:4", "--cpus-per-task=3", "--mem=9G", "--partition=p", "--account=a"):
        assert f"#SBATCH {flag}" in lines
    other = script(SiteConfig(gpu_request="gpus-per-node"), request=request)
    assert "#SBATCH --gpus-per-node=4" in other
    assert "--gres" not in other


def test_without_gpus_none_are_requested() -> None:
    text = script(SiteConfig(), request=SlurmRequest(nodes=1, gpus_per_node=0, time="10"))
    assert "gpu:" not in text
    assert "--cpus-per-task=4" in text


def test_words_of_the_user_reach_the_agent_unchanged(tmp_path: Path) -> None:
    """Blanks, quotes and substitutions in a path or a setting are text, never commands."""
    run = tmp_path / "it's a run $(touch x)"
    (run / "slurm").mkdir(parents=True)
    text = script(SiteConfig(python="echo-arguments"), run=run)
    (tmp_path / "echo-arguments").write_text('#!/bin/bash\nprintf "%s\\0" "$@" > "$ARGUMENTS"\n')
    (tmp_path / "srun").write_text('#!/bin/bash\nwhile [[ "$1" == --* ]]; do shift; done\nexec "$@"\n')
    (tmp_path / "squeue").write_text("#!/bin/bash\necho 1:00:00\n")
    for name in ("echo-arguments", "srun", "squeue"):
        (tmp_path / name).chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_ID": "7", "ARGUMENTS": str(tmp_path / "seen")}
    done = subprocess.run(["bash"], input=text, text=True, env=environment, cwd=tmp_path, check=False, timeout=20)
    assert done.returncode == 1  # the agent wrote no exit code
    module, name, *arguments = (tmp_path / "seen").read_text().split("\0")[:-1]
    assert (module, name) == ("-m", "moe_ray.clusters.slurm.agent")
    options = parse_options(arguments)
    assert options.run == run
    assert list(options.command) == COMMAND
    assert not (tmp_path / "x").exists()


def test_a_chain_is_an_array_that_runs_one_job_at_a_time_and_is_never_requeued() -> None:
    text = script(SiteConfig(), request=SlurmRequest(nodes=1, gpus_per_node=0, time="10", chain=5))
    assert "#SBATCH --array=1-5%1\n" in text
    assert "#SBATCH --no-requeue\n" in text
    assert "job-%A.log" in text
    assert " --chain " in text
    assert "#SBATCH --requeue" not in text


ARRAY = SlurmRequest(nodes=1, gpus_per_node=2, time="10", array=5)


def test_the_jobs_of_an_array_run_side_by_side_have_logs_of_their_own_and_are_requeued() -> None:
    text = script(SiteConfig(), request=ARRAY)
    assert "#SBATCH --array=1-5\n" in text
    assert "#SBATCH --nodes=1\n" in text
    assert "#SBATCH --requeue\n" in text
    assert "job-%A_%a.log" in text
    assert " --shares " in text
    assert "--chain" not in text


@pytest.mark.parametrize(
    ("request_", "variables", "life", "job"),
    [
        (REQUEST, {"SLURM_RESTART_COUNT": "2"}, "7.2", "7"),
        (ARRAY, {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3", "SLURM_JOB_ID": "9"}, "7_3.0", "7_3"),
        # The plain number of the last element is that of the array: requeued by it, all elements would start again.
        (ARRAY, {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "5", "SLURM_RESTART_COUNT": "1"}, "7_5.1", "7_5"),
    ],
    ids=["job", "element", "last element"],
)
def test_the_script_requeues_its_own_job_alone(
    tmp_path: Path, request_: SlurmRequest, variables: dict[str, str], life: str, job: str
) -> None:
    run = tmp_path / "run"
    folder = run / "slurm" / life
    folder.mkdir(parents=True)
    commands = {
        "agent": f"touch {folder}/requeue; echo 75 > {folder}/exit_code",
        "srun": 'while [[ "$1" == --* ]]; do shift; done; exec "$@"',
        "squeue": f'echo "$@" > {tmp_path}/asked; echo 1:00:00',
        "scontrol": f'echo "$@" > {tmp_path}/requeued; exit 1',
        "sleep": "exit 0",
    }
    for name, text in commands.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_ID": "7", **variables}
    done = subprocess.run(
        ["bash"], input=script(SiteConfig(python="agent"), run=run, request=request_), text=True, env=environment,
        cwd=tmp_path, check=False, timeout=20, capture_output=True,
    )  # fmt: skip
    assert done.returncode == 75, done.stderr
    assert (tmp_path / "requeued").read_text() == f"requeue {job}\n"
    assert f" {job} " in (tmp_path / "asked").read_text()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"nodes": 2}, "--nodes: the jobs of an array have one node each, not 2"),
        ({"chain": 3}, "--chain: an array and a chain cannot be combined"),
        ({"array": 0}, "--array: 0 jobs"),
    ],
)
def test_an_array_that_makes_no_sense_is_refused(changes: dict[str, int], words: str) -> None:
    with pytest.raises(UserError, match=words):
        require_sensible(replace(ARRAY, **changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("duration", ["", "0", "abc", "-5", "1:2:3:4", "1 hour", "UNLIMITED"])
def test_a_time_that_is_no_duration_is_refused(duration: str) -> None:
    with pytest.raises(UserError, match="is not a duration"):
        require_sensible(SlurmRequest(nodes=1, gpus_per_node=0, time=duration))


def test_the_template_is_part_of_the_package() -> None:
    project = (Path(__file__).parents[3] / "pyproject.toml").read_text(encoding="utf-8")
    assert '"**/*.sh.j2"' in project


def test_offline_nodes_and_staging_are_said_to_the_job(tmp_path: Path) -> None:
    site = SiteConfig(offline=True, staging=StagingConfig(folder="$TMPDIR/it's", keep=True, max_gib=1.5))
    lines = script(site).splitlines()
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_EVALUATE_OFFLINE"):
        assert f"export {name}=1" in lines
    (agent,) = (line for line in lines if "moe_ray.clusters.slurm.agent" in line)
    words = shlex.split(agent.rstrip("\\"))
    options = parse_options(["run", *words[words.index("--gpus=2") :], "evaluate"])
    assert options.copies == CopyOptions("$TMPDIR/it's", True, 1.5)
    assert parse_options(["run", "evaluate"]).copies == CopyOptions()
