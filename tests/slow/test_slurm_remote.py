"""A login node behind a real sshd: submit, follow and stop a job of a real SLURM, and copy its results."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from moe_ray.clusters.submission import Submission, write_submission
from moe_ray.store.run_directory import RunDirectory
from tests.execution.experiments import content
from tests.support import ssh_host as ssh
from tests.support.slurm_jobs import answers_without_slurm, left_on, write_scripted
from tests.support.slurm_lab import ROOT, SlurmLab, lab_environment, wait_until
from tests.support.ssh_host import SshHost, ssh_host

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(ssh.why_not() is not None, reason=str(ssh.why_not())),
    pytest.mark.skipif(shutil.which("rsync") is None, reason="rsync is not installed"),
]

MOE_RAY = [sys.executable, "-m", "moe_ray"]
MOE_RAY_THERE = ["env", f"PYTHONPATH={ROOT}", *MOE_RAY]  # sshd passes no variables on
CUT_BYTES = 400_000_000
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path, short_folder: Path) -> Iterator[Start]:
    """Start `moe-ray` on the user's own machine, which reaches `host` as `login`; leaves no ssh connection open."""
    started: list[subprocess.Popen[str]] = []

    def begin(host: SshHost, *arguments: object) -> "subprocess.Popen[str]":
        environment = lab_environment({"TMPDIR": str(short_folder)})
        environment["PATH"] = f"{host.bin}:{environment['PATH']}"
        process = subprocess.Popen(
            [*MOE_RAY, *map(str, arguments)], cwd=tmp_path, env=environment, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def end_of(process: "subprocess.Popen[str]", timeout_s: float = 120) -> tuple[int, str, str]:
    """The exit code and the output of a command that ends."""
    out, err = process.communicate(timeout=timeout_s)
    return process.returncode, out, err


def submitted(start: Start, host: SshHost, experiment: Path, tmp_path: Path) -> Path:
    """Submit an experiment on the host; return the run directory on the user's own machine."""
    process = start(
        host, "slurm", experiment, "--host", "login", "--host-command", shlex.join(MOE_RAY_THERE),
        "--results-dir", experiment.parent / "results", "--time", 10, "--cpus-per-node", 2, "--memory-per-node", "3G",
    )  # fmt: skip
    code, out, err = end_of(process)
    assert code == 0, out + err
    return next((tmp_path / "results").iterdir())


@pytest.fixture
def login(short_folder: Path) -> Iterator[SshHost]:
    """A host without SLURM."""
    with ssh_host(short_folder / "ssh") as host:
        yield host


def test_a_job_is_submitted_followed_and_fetched_over_one_connection(
    lab: SlurmLab, start: Start, tmp_path: Path, short_folder: Path
) -> None:
    folder = lab.shared / "remote"
    experiment = write_scripted(folder)
    expected = answers_without_slurm(experiment, tmp_path / "laptop")
    with ssh_host(short_folder / "ssh", lab.command_on("ctl", [])) as host:
        run = submitted(start, host, experiment, tmp_path)
        code, out, err = end_of(start(host, "logs", run, "--follow"), 300)
        assert code == 0, out + err
        assert "ended with exit code 0" in out
        code, out, err = end_of(start(host, "status", run))
        assert (code, out.splitlines()[0]) == (0, "succeeded, exit code 0"), out + err
        code, out, err = end_of(start(host, "sync", run))
        assert code == 0, out + err
        assert "their hashes agree" in out + err
        assert host.num_connections == 1
    assert content(RunDirectory(run)) == expected
    assert not list(run.rglob("token"))


def test_a_job_is_stopped_from_the_users_own_machine(
    lab: SlurmLab, start: Start, tmp_path: Path, short_folder: Path
) -> None:
    folder = lab.shared / "remote-stop"
    experiment = write_scripted(folder, num_examples=300, seconds_per_batch=0.5)
    with ssh_host(short_folder / "ssh", lab.command_on("ctl", [])) as host:
        run = submitted(start, host, experiment, tmp_path)
        wait_until(lambda: bool(list((folder / "results").glob("*/answers/*.parquet"))), "an answer", 240)
        code, out, err = end_of(start(host, "stop", run), 180)
        assert code == 0, out + err
        code, out, err = end_of(start(host, "status", run))
        assert out.startswith("stopped"), out + err
    assert all(left_on(lab, node) == [] for node in lab.nodes)


def remote_run(tmp_path: Path, *, num_bytes: int) -> tuple[Path, Path]:
    """A run directory on the host with one large file, and the local one that knows it."""
    there, here = tmp_path / "there" / "run", tmp_path / "results" / "run"
    (there / "answers").mkdir(parents=True)
    (there / "summary.json").write_text("{}")
    with (there / "answers" / "a.parquet").open("wb") as file:
        for _ in range(num_bytes // 1_000_000):
            file.write(os.urandom(1_000_000))
    here.mkdir(parents=True)
    details = {"run": str(there)}
    record = Submission(kind="slurm", id="17", target="login", command=(), submitted_at="now", details=details)
    write_submission(here, record)
    return there, here


def test_a_copy_that_is_cut_off_continues(login: SshHost, start: Start, tmp_path: Path) -> None:
    there, here = remote_run(tmp_path, num_bytes=CUT_BYTES)
    process = start(login, "sync", here)

    def copied() -> int:
        return sum(path.stat().st_size for path in here.rglob("*parquet*") if path.is_file())

    wait_until(lambda: copied() > 10_000_000, "a part is copied", 120)
    for session in login.sessions:
        for each in [*session.children(recursive=True), session]:
            each.kill()
    code, out, err = end_of(process)
    assert code == 2, out + err
    assert "the same command continues" in err
    assert "Traceback" not in err
    assert (here / "summary.json").read_text() == "{}"  # small results came first
    assert not (here / "answers" / "a.parquet").exists()  # never a part under the name of the whole
    assert copied() > 10_000_000
    code, out, err = end_of(start(login, "sync", here), 300)
    assert code == 0, out + err
    assert (here / "answers" / "a.parquet").read_bytes() == (there / "answers" / "a.parquet").read_bytes()


def test_a_key_that_is_refused_is_one_message(login: SshHost, start: Start, tmp_path: Path) -> None:
    _, here = remote_run(tmp_path, num_bytes=0)
    login.forget_key()
    code, out, err = end_of(start(login, "sync", here))
    assert code == 2, out + err
    assert "cannot reach login" in err
    assert "Permission denied" in err


def test_a_host_that_is_silent_is_unknown_soon(login: SshHost, start: Start, tmp_path: Path) -> None:
    _, here = remote_run(tmp_path, num_bytes=0)
    login.server.send_signal(signal.SIGSTOP)
    try:
        code, out, err = end_of(start(login, "status", here), 150)
    finally:
        login.server.send_signal(signal.SIGCONT)
    assert out.startswith("unknown"), out + err
    assert code == 0, err
