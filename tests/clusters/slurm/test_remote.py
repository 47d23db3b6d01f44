"""A login node over ssh: a fake ssh runs the commands here; rsync, hashes and files are real."""

import json
import os
import shutil
from pathlib import Path

import pytest

from moe_ray.clusters.slurm.launcher import LAUNCHER
from moe_ray.clusters.slurm.life import LifeState, state_path
from moe_ray.clusters.submission import Submission, read_submission, write_submission
from moe_ray.errors import UserError
from tests.support.commands import Command

SSH = """\
while [[ "$1" == -* ]]; do case "$1" in -o|-l) shift 2;; *) shift;; esac; done
[ "$1" = login ] || { echo "ssh: Could not resolve hostname $1" >&2; exit 255; }
shift
exec sh -c "$*"
"""
needs_rsync = pytest.mark.skipif(shutil.which("rsync") is None, reason="rsync is not installed")


@pytest.fixture(autouse=True)
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    fake(folder, "ssh", SSH)
    fake(folder, "squeue", "exit 1")
    return folder


def fake(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/bash\n{script}\n")
    (folder / name).chmod(0o755)


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """The run directory on the login node."""
    run = tmp_path / "there"
    for name, text in (("summary.json", "{}"), ("answers/a.parquet", "x" * 3_000_000), ("slurm/17.0/token", "secret")):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text(text)
    (run / "submission.json").write_text("theirs")
    return run


def submission(there: Path) -> Submission:
    return Submission(
        kind="slurm", id="17", target="login", command=(), submitted_at="now", details={"run": str(there)}
    )


def test_state_and_log_come_from_the_host(there: Path, tmp_path: Path) -> None:
    record = submission(there)
    assert LAUNCHER.status(tmp_path, record).state == "unknown"
    state_path(there).write_text(
        LifeState(job_id="17", restart=0, phase="running", message="at work").model_dump_json()
    )
    assert LAUNCHER.status(tmp_path, record).state == "running"
    (there / "slurm" / "job-17.log").write_text("one\ntwo\n")
    assert list(LAUNCHER.logs(tmp_path, record, follow=False)) == ["one", "two"]


def test_a_host_that_is_silent_ends_no_job(there: Path, tmp_path: Path, commands: Path) -> None:
    fake(commands, "ssh", "exit 255")
    assert LAUNCHER.status(tmp_path, submission(there)).state == "unknown"
    with pytest.raises(UserError, match="cannot reach login"):
        LAUNCHER.sync(tmp_path, submission(there), lambda _text: None)


@needs_rsync
def test_results_are_copied_small_ones_first_and_compared(there: Path, tmp_path: Path) -> None:
    run, seen = tmp_path / "here", []

    def note(text: str) -> None:
        seen.append((text, sorted(path.name for path in run.rglob("*") if path.is_file())))

    run.mkdir()
    (run / "submission.json").write_text("mine")
    LAUNCHER.sync(run, submission(there), note)
    assert seen[1][1] == ["submission.json", "summary.json"]  # before the large files
    assert seen[-1][0] == "2 files are there, and their hashes agree"
    assert (run / "answers" / "a.parquet").stat().st_size == 3_000_000
    assert (run / "submission.json").read_text() == "mine"
    assert not (run / "slurm" / "17.0" / "token").exists()


@needs_rsync
def test_a_copy_that_was_damaged_is_repaired(there: Path, tmp_path: Path) -> None:
    run = tmp_path / "here"
    LAUNCHER.sync(run, submission(there), lambda _text: None)
    copy = run / "answers" / "a.parquet"
    times = copy.stat().st_mtime_ns
    copy.write_text("y" * 3_000_000)
    os.utime(copy, ns=(times, times))
    LAUNCHER.sync(run, submission(there), lambda _text: None)
    assert copy.read_bytes() == (there / "answers" / "a.parquet").read_bytes()


def test_submitting_on_a_host_leaves_the_record_here(
    moe_ray: Command, commands: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made = Submission(kind="slurm", id="17", target="", command=("evaluate",), submitted_at="now")
    printed = json.dumps({"run": "/shared/results/tiny", "submission": made.model_dump(mode="json")})
    fake(commands, "their-moe-ray", f"printf '%s\\n' \"$@\" > {tmp_path}/arguments; echo '{printed}'")
    code, text = moe_ray(
        "slurm",
        "/shared/x.yaml",
        "--host",
        "login",
        "--host-command",
        "their-moe-ray",
        "--nodes",
        2,
        "--set",
        "a.b=c d",
    )
    assert code == 0, text
    found = read_submission(tmp_path / "results" / "tiny")
    assert (found.target, found.id, found.details["run"]) == ("login", "17", "/shared/results/tiny")
    arguments = (tmp_path / "arguments").read_text().splitlines()
    options, words = arguments[: arguments.index("--")], arguments[arguments.index("--") + 1 :]
    assert options[0] == "slurm"
    assert {"--nodes=2", "--json"} <= set(options)
    assert words == ["evaluate", "/shared/x.yaml", "--set=a.b=c d"]


def test_another_command_reaches_the_host_as_it_was_written(
    moe_ray: Command, commands: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fake(commands, "moe-ray", f"printf '%s\\n' \"$@\" > {tmp_path}/arguments; exit 2")
    words = ["specialise", "trace", "./theirs", "--texts", "a b.jsonl", "--out", "results/study/trace"]
    assert moe_ray("slurm", "--host", "login", "--", *words)[0] == 2
    arguments = (tmp_path / "arguments").read_text().splitlines()
    assert arguments[arguments.index("--") + 1 :] == words


def test_a_job_that_was_submitted_from_here_is_stopped_on_the_host(there: Path, tmp_path: Path, commands: Path) -> None:
    run, record = tmp_path / "here", submission(there)
    write_submission(run, record)
    fake(commands, "scancel", f"touch {tmp_path}/cancelled")
    shown = f"echo 'JobId=17 JobState=RUNNING Reason=None Command={there}/slurm/job.sh WorkDir=/home/me'"
    gone = "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1"
    fake(commands, "scontrol", f"[ -e {tmp_path}/cancelled ] || {{ {shown}; exit; }}; {gone}")
    LAUNCHER.stop(run, record)
    assert (tmp_path / "cancelled").exists()
    assert (there / "slurm" / "stopped").exists()


def test_a_record_of_another_user_stops_no_job_on_the_host(there: Path, tmp_path: Path, commands: Path) -> None:
    """It names a host that this user works on, and a job and a run that are this user's."""
    write_submission(tmp_path / "here", submission(there))
    for name in ("scancel", "scontrol"):
        fake(commands, name, f"touch {tmp_path}/{name}")
    with pytest.raises(UserError, match="which you have not submitted from here"):
        LAUNCHER.stop(tmp_path / "theirs", submission(there))
    assert not (tmp_path / "scancel").exists()
    assert not (there / "slurm" / "stopped").exists()


def test_a_host_whose_clock_is_minutes_off_changes_no_status(there: Path, tmp_path: Path, commands: Path) -> None:
    state_path(there).write_text(LifeState(job_id="17", restart=0, phase="running").model_dump_json())
    fake(commands, "date", "echo $(( $(/bin/date +%s) + 600 ))")
    assert LAUNCHER.status(tmp_path, submission(there)).state == "running"
    assert sorted(path.name for path in (there / "slurm").iterdir()) == ["17.0", "state.json"]


def test_a_host_that_cannot_be_reached_is_one_message(moe_ray: Command) -> None:
    code, text = moe_ray("slurm", "x.yaml", "--host", "nowhere")
    assert code == 2
    assert "cannot reach nowhere: ssh: Could not resolve hostname nowhere" in text


def test_a_refusal_of_the_host_is_shown(moe_ray: Command, commands: Path) -> None:
    fake(commands, "moe-ray", "echo 'error: sbatch: SLURM refused the job: no' >&2; exit 2")
    code, text = moe_ray("slurm", "x.yaml", "--host", "login")
    assert code == 2
    assert "login refused: sbatch: SLURM refused the job: no" in text
