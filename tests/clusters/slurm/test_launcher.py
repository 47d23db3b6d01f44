"""Status, logs and stop of a job, with scheduler commands that fail, hang and print nothing."""

import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from moe_ray.clusters.slurm import hosts
from moe_ray.clusters.slurm.launcher import LAUNCHER, judge
from moe_ray.clusters.slurm.life import LifeState, Phase, state_path, stopped_path
from moe_ray.clusters.slurm.run_files import SeenState
from moe_ray.clusters.slurm.scheduler import QueuedJob
from moe_ray.clusters.submission import Submission, SubmissionState, launcher_for
from moe_ray.errors import UserError

SUBMISSION = Submission(kind="slurm", id="17", target="", command=("evaluate",), submitted_at="2026-01-01T00:00:00Z")


def seen(phase: Phase, exit_code: int | None = None, *, fresh: bool = True, requeue: bool = False) -> SeenState:
    state = LifeState(job_id="17", restart=0, phase=phase, message="words", exit_code=exit_code, will_requeue=requeue)
    return SeenState(state, fresh)


def queued(state: str, reason: str = "None") -> QueuedJob:
    return QueuedJob(state, reason, "")


CASES: list[tuple[str, SeenState | None, QueuedJob | None, bool, SubmissionState]] = [
    ("waits", None, queued("PENDING", "Resources"), False, "pending"),
    ("starts", None, queued("RUNNING"), False, "running"),
    ("runs", seen("running"), queued("RUNNING"), False, "running"),
    ("runs, SLURM silent", seen("running"), None, False, "running"),
    ("old state, SLURM silent", seen("running", fresh=False), None, False, "unknown"),
    ("nothing known", None, None, False, "unknown"),
    ("finished", seen("ended", 0), queued("COMPLETED"), False, "succeeded"),
    ("finished, forgotten", seen("ended", 0, fresh=False), None, False, "succeeded"),
    ("failed", seen("ended", 1), queued("FAILED"), False, "failed"),
    ("interrupted for good", seen("ended", 75), None, False, "interrupted"),
    ("waits for its next life", seen("ended", 75, requeue=True), queued("PENDING", "BeginTime"), False, "pending"),
    ("will be requeued, SLURM silent", seen("ended", 75, requeue=True), None, False, "interrupted"),
    ("preempted, and requeued by SLURM", seen("ended", 75), queued("PENDING", "BeginTime"), False, "pending"),
    ("its last processes end", seen("ended", 75), queued("COMPLETING"), False, "interrupted"),
    ("the last job of a chain", seen("ended", 75, requeue=True), queued("FAILED"), False, "interrupted"),
    ("cancelled between two lives", seen("ended", 75, requeue=True), queued("CANCELLED"), False, "stopped"),
    ("completed without a finished run", seen("running", fresh=False), queued("COMPLETED"), False, "failed"),
    ("cancelled", seen("running", fresh=False), queued("CANCELLED"), False, "stopped"),
    ("out of time", seen("running", fresh=False), queued("TIMEOUT"), False, "interrupted"),
    ("stopped", seen("ended", 75), queued("CANCELLED"), True, "stopped"),
    ("stopped before it ran", None, None, True, "stopped"),
    ("stopped after its end", seen("ended", 0), None, True, "succeeded"),
    ("being stopped", seen("saving"), queued("COMPLETING"), True, "running"),
]


@pytest.mark.parametrize(
    ("state", "job", "is_stopped", "expected"), [case[1:] for case in CASES], ids=[c[0] for c in CASES]
)
def test_the_run_directory_is_the_truth_and_the_scheduler_a_hint(
    state: SeenState | None, job: QueuedJob | None, is_stopped: bool, expected: SubmissionState
) -> None:
    assert judge(state, job, is_stopped=is_stopped).state == expected


def test_a_waiting_job_says_why_in_words() -> None:
    assert "limit of GPUs" in judge(None, queued("PENDING", "QOSMaxGRESPerUser"), is_stopped=False).reason
    assert judge(None, queued("PENDING", "NewReason"), is_stopped=False).reason == "NewReason"


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of fake scheduler commands, first on the path."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def fake(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/bash\n{script}\n")
    (folder / name).chmod(0o755)


GONE = "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1"


def shown(run: Path, state: str, script: str | None = None) -> str:
    """The shell command that prints a job as `scontrol show job -o` does."""
    path = script or run / "slurm" / "job.sh"
    return f"echo 'JobId=17 JobName=moe-ray-x JobState={state} Reason=None NodeList= Command={path} WorkDir=/home/me'"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    (folder / "slurm").mkdir(parents=True)
    return folder


def write_state(run: Path, phase: Phase, exit_code: int | None = None, job_id: str = "17") -> None:
    state = LifeState(job_id=job_id, restart=0, phase=phase, exit_code=exit_code)
    state_path(run).write_text(state.model_dump_json())


@pytest.mark.parametrize("squeue", ["exit 0", "exit 1", "echo garbage; exit 0", "sleep 60"])
def test_a_squeue_that_prints_nothing_fails_or_hangs_ends_no_job(
    commands: Path, run: Path, squeue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosts.Host.run, "__kwdefaults__", {"timeout_s": 0.5, "environment": None})
    fake(commands, "squeue", squeue)
    assert LAUNCHER.status(run, SUBMISSION).state == "unknown"
    write_state(run, "running")
    assert LAUNCHER.status(run, SUBMISSION).state == "running"
    os.utime(state_path(run), (0, 0))
    assert LAUNCHER.status(run, SUBMISSION).state == "unknown"
    write_state(run, "ended", 1)
    assert LAUNCHER.status(run, SUBMISSION) == ("failed", "", 1)


def test_a_clock_that_is_minutes_off_changes_no_status(
    commands: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file system's clock stamps the state file, and says how old it is."""
    fake(commands, "squeue", "exit 1")
    write_state(run, "running")
    now_s = time.time()
    for error_s in (-600, 600):
        monkeypatch.setattr(time, "time", lambda error_s=error_s: now_s + error_s)
        assert LAUNCHER.status(run, SUBMISSION).state == "running"
    os.utime(state_path(run), (now_s - 300, now_s - 300))
    monkeypatch.setattr(time, "time", lambda: now_s - 600)
    assert LAUNCHER.status(run, SUBMISSION).state == "unknown"


def test_the_state_of_an_earlier_job_does_not_count(commands: Path, run: Path) -> None:
    fake(commands, "squeue", "exit 1")
    write_state(run, "ended", 0, job_id="16")
    assert LAUNCHER.status(run, SUBMISSION).state == "unknown"


def test_stop_forbids_further_lives_and_returns_when_slurm_says_that_the_job_is_gone(
    commands: Path, run: Path, tmp_path: Path
) -> None:
    fake(commands, "scancel", f'echo "$@" >> {tmp_path}/cancelled')
    answers = f"case $n in 1) {shown(run, 'RUNNING')};; 2) {shown(run, 'COMPLETING')};; 3) exit 0;; *) {GONE};; esac"
    fake(commands, "scontrol", f"echo x >> {tmp_path}/asked; n=$(wc -l < {tmp_path}/asked); {answers}")
    LAUNCHER.stop(run, SUBMISSION)
    assert (tmp_path / "cancelled").read_text() == "17\n"
    assert len((tmp_path / "asked").read_text().splitlines()) == 4
    assert stopped_path(run).exists()


@pytest.mark.parametrize("squeue", ["exit 0", "exit 1", "sleep 60"])
def test_stop_needs_no_squeue(commands: Path, run: Path, tmp_path: Path, squeue: str) -> None:
    fake(commands, "squeue", squeue)
    fake(commands, "scancel", f"touch {tmp_path}/cancelled")
    fake(commands, "scontrol", f"[ -e {tmp_path}/cancelled ] || {{ {shown(run, 'RUNNING')}; exit; }}; {GONE}")
    LAUNCHER.stop(run, SUBMISSION)
    assert (tmp_path / "cancelled").exists()


def test_a_job_that_slurm_has_forgotten_needs_no_cancelling(commands: Path, run: Path, tmp_path: Path) -> None:
    fake(commands, "scancel", f"touch {tmp_path}/cancelled")
    fake(commands, "scontrol", GONE)
    LAUNCHER.stop(run, SUBMISSION)
    assert not (tmp_path / "cancelled").exists()
    assert stopped_path(run).exists()


@pytest.mark.parametrize("script", ["/home/me/results/other/slurm/job.sh", "(null)", "/x Command={own}"])
def test_the_job_of_another_run_is_never_cancelled(commands: Path, run: Path, tmp_path: Path, script: str) -> None:
    """A run directory of another user may name any job of the user who opens it."""
    fake(commands, "scancel", f"touch {tmp_path}/cancelled")
    fake(commands, "scontrol", shown(run, "RUNNING", script.format(own=run / "slurm" / "job.sh")))
    with pytest.raises(UserError, match="job 17 is not a job of this run") as raised:
        LAUNCHER.stop(run, SUBMISSION)
    assert "scancel 17" in str(raised.value)
    assert not (tmp_path / "cancelled").exists()
    assert not stopped_path(run).exists()


def test_a_link_to_another_run_does_not_make_its_job_this_runs(commands: Path, tmp_path: Path) -> None:
    mine, theirs = tmp_path / "mine", tmp_path / "theirs"
    (mine / "slurm").mkdir(parents=True)
    (mine / "slurm" / "job.sh").touch()
    theirs.mkdir()
    (theirs / "slurm").symlink_to(mine / "slurm")
    fake(commands, "scancel", f"touch {tmp_path}/cancelled")
    fake(commands, "scontrol", shown(mine, "RUNNING"))
    with pytest.raises(UserError, match="leads out of the run directory"):
        LAUNCHER.stop(theirs, SUBMISSION)
    assert not (tmp_path / "cancelled").exists()


def test_one_foreign_element_of_an_array_is_enough_to_refuse(commands: Path, run: Path, tmp_path: Path) -> None:
    fake(commands, "scancel", f"touch {tmp_path}/cancelled")
    fake(commands, "scontrol", f"{shown(run, 'RUNNING')}; {shown(run, 'PENDING', '/elsewhere/slurm/job.sh')}")
    with pytest.raises(UserError, match="not a job of this run"):
        LAUNCHER.stop(run, SUBMISSION)
    assert not (tmp_path / "cancelled").exists()


def test_a_run_directory_under_another_name_is_the_same_run(commands: Path, run: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(run)
    fake(commands, "scancel", f"touch {tmp_path}/cancelled")
    fake(commands, "scontrol", f"[ -e {tmp_path}/cancelled ] || {{ {shown(run, 'RUNNING')}; exit; }}; {GONE}")
    LAUNCHER.stop(tmp_path / "link", SUBMISSION)
    assert (tmp_path / "cancelled").exists()


@pytest.mark.parametrize("scontrol", ["exit 0", "exit 1", "echo garbage", "sleep 60"])
def test_a_job_that_slurm_does_not_show_is_not_cancelled_but_starts_no_more(
    commands: Path, run: Path, tmp_path: Path, scontrol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosts.Host.run, "__kwdefaults__", {"timeout_s": 0.5, "environment": None})
    fake(commands, "scancel", f"touch {tmp_path}/cancelled")
    fake(commands, "scontrol", scontrol)
    with pytest.raises(UserError, match="gave no answer about the job, so it was not cancelled"):
        LAUNCHER.stop(run, SUBMISSION)
    assert not (tmp_path / "cancelled").exists()
    assert stopped_path(run).exists()


def test_a_stop_that_slurm_refuses_is_an_error(commands: Path, run: Path) -> None:
    fake(commands, "scancel", "echo 'scancel: error: Access denied' >&2; exit 1")
    fake(commands, "scontrol", shown(run, "RUNNING"))
    with pytest.raises(UserError, match="Access denied"):
        LAUNCHER.stop(run, SUBMISSION)


def test_logs_are_lines_of_all_lives_and_following_ends_with_the_job(
    commands: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(commands, "squeue", "exit 1")
    write_state(run, "running")
    log = run / "slurm" / "job-17.log"

    def sleep(_seconds: float) -> None:
        with log.open("ab") as file:
            file.write(b"\xb6lf\nlast")
        write_state(run, "ended", 0)

    clock = SimpleNamespace(sleep=sleep, time=time.time)
    monkeypatch.setattr("moe_ray.clusters.slurm.launcher.time", clock)
    log.write_bytes(b"one\nzw\xc3")
    assert list(LAUNCHER.logs(run, SUBMISSION, follow=True)) == ["one", "zw\u00f6lf", "last"]
    assert list(LAUNCHER.logs(run, SUBMISSION, follow=False)) == ["one", "zw\u00f6lf", "last"]


def test_a_job_without_a_log_has_no_lines(commands: Path, run: Path) -> None:
    fake(commands, "squeue", "exit 1")
    assert list(LAUNCHER.logs(run, SUBMISSION, follow=False)) == []


def test_the_launcher_is_found_by_its_kind() -> None:
    assert launcher_for(SUBMISSION) is LAUNCHER


@pytest.mark.parametrize(
    "changes", [{"id": "-f /x"}, {"id": "17;id"}, {"target": "-oProxyCommand=id"}, {"target": "h"}]
)
def test_a_record_of_another_user_passes_no_options_to_commands(run: Path, changes: dict[str, str]) -> None:
    with pytest.raises(UserError):
        LAUNCHER.status(run, SUBMISSION.model_copy(update=changes))
