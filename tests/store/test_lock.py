"""Who may work in a run directory: a lock, and a lease where the file system cannot lock."""

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from moe_ray.errors import RunDirectoryError
from moe_ray.mounts import Mount, mount_of
from moe_ray.store import lease, lock
from moe_ray.store.holder import Holder, parse_holder, this_process
from moe_ray.store.lease import STALE_S, read_holder
from moe_ray.store.lock import exclusive
from moe_ray.store.run_directory import RunDirectory

CANNOT_LOCK = [errno.ENOSYS, errno.ENOLCK, errno.EIO, errno.EOPNOTSUPP]


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    directory = RunDirectory(tmp_path / "run")
    directory.prepare()
    return directory


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(monkeypatch, errno.ENOLCK)


def fail_with(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", fail)


def write_lease(run: RunDirectory, holder: Holder, *, age_s: float = 0.0) -> Path:
    path = run.path / ".lease"
    path.write_text(json.dumps(asdict(holder)))
    changed = path.stat().st_mtime - age_s
    os.utime(path, (changed, changed))
    return path


def gone_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.mark.parametrize("number", CANNOT_LOCK)
def test_a_file_system_that_cannot_lock_gets_a_lease_and_the_user_a_word(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    fail_with(monkeypatch, number)
    told: list[str] = []
    with exclusive(run, told.append):
        holder = read_holder(run.path / ".lease")
        assert holder is not None
        assert (holder.host, holder.pid) == (socket.gethostname(), os.getpid())
    (text,) = told
    assert os.strerror(number) in text
    assert "a lease file stands in for the lock" in text
    assert sorted(path.name for path in run.path.glob(".lease*")) == []


@pytest.mark.usefixtures("no_locks")
def test_a_lease_keeps_a_second_process_out_and_names_the_first(run: RunDirectory) -> None:
    with (
        exclusive(run),
        pytest.raises(RunDirectoryError, match=f"another moe-ray process .*pid {os.getpid()}"),
        exclusive(run),
    ):
        pass
    with exclusive(run):
        pass


@pytest.mark.usefixtures("no_locks")
def test_a_lease_of_another_machine_holds_until_it_is_stale(run: RunDirectory) -> None:
    elsewhere = Holder("x", "another-host", 1)
    write_lease(run, elsewhere, age_s=STALE_S - 20)
    with pytest.raises(RunDirectoryError, match="another-host, pid 1"), exclusive(run):
        pass
    assert read_holder(run.path / ".lease") == elsewhere
    write_lease(run, elsewhere, age_s=STALE_S + 1)
    with exclusive(run):
        assert read_holder(run.path / ".lease") != elsewhere


@pytest.mark.usefixtures("no_locks")
def test_a_lease_whose_process_has_ended_is_replaced_at_once(run: RunDirectory) -> None:
    write_lease(run, Holder("x", socket.gethostname(), gone_pid()))
    with exclusive(run):
        pass


@pytest.mark.usefixtures("no_locks")
def test_a_lease_that_cannot_be_read_holds_until_it_is_stale(run: RunDirectory) -> None:
    path = write_lease(run, Holder("x", "h", 1))
    path.write_text("[" * 4000)
    with pytest.raises(RunDirectoryError, match="another moe-ray process"), exclusive(run):
        pass


@pytest.mark.usefixtures("no_locks")
def test_a_lease_that_leads_outside_is_neither_read_nor_written(run: RunDirectory, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    (run.path / ".lease").symlink_to(tmp_path / "precious")
    with pytest.raises(RunDirectoryError, match="leads out of the run directory"), exclusive(run):
        pass
    assert (tmp_path / "precious").read_text() == "precious"


@pytest.mark.usefixtures("no_locks")
def test_of_many_that_find_a_stale_lease_one_takes_it(run: RunDirectory) -> None:
    write_lease(run, Holder("x", socket.gethostname(), gone_pid()))
    assert num_holding(run) == 1


@pytest.mark.usefixtures("no_locks", "second_life")
@pytest.mark.parametrize("host", ["node1", socket.gethostname()], ids=["elsewhere", "here"])
def test_of_many_later_lives_one_takes_the_lease_of_the_earlier_life(run: RunDirectory, host: str) -> None:
    write_lease(run, replace(life(0), host=host, pid=gone_pid()))
    assert num_holding(run) == 1


def num_holding(run: RunDirectory) -> int:
    """The number of eight that hold `run` when all of them try it at once."""
    holding, refused, everyone, over = [], [], threading.Barrier(8), threading.Barrier(8)

    def attempt() -> None:
        everyone.wait()
        try:
            with exclusive(run):
                holding.append(1)
                over.wait()
        except RunDirectoryError:
            refused.append(1)
            over.wait()

    threads = [threading.Thread(target=attempt) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(holding) + len(refused) == 8
    return len(holding)


@pytest.mark.usefixtures("no_locks")
def test_a_lease_is_renewed_while_it_is_held(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "RENEW_S", 0.001)
    renewed = threading.Event()
    touch = os.utime

    def touch_and_tell(path: Path, *, follow_symlinks: bool) -> None:
        touch(path, follow_symlinks=follow_symlinks)
        renewed.set()

    monkeypatch.setattr(os, "utime", touch_and_tell)
    with exclusive(run):
        assert renewed.wait(10)


def test_a_lock_that_fails_for_another_reason_says_so(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(monkeypatch, errno.EBADF)
    with pytest.raises(RunDirectoryError, match="cannot be locked: Bad file descriptor"), exclusive(run):
        pass


def test_a_lease_of_an_earlier_version_is_read() -> None:
    assert parse_holder('{"owner": "x", "host": "h", "pid": 7}') == Holder("x", "h", 7)


@pytest.mark.parametrize("text", ["", "[]", "pid 7", '{"owner": "x"}', '{"owner": "x", "host": "h", "pid": "?"}'])
def test_what_describes_no_holder_is_none(text: str) -> None:
    assert parse_holder(text) is None


def test_a_process_of_another_boot_or_pid_namespace_is_not_judged_by_its_pid() -> None:
    here = replace(this_process(), pid=gone_pid())
    assert here.is_gone
    assert not replace(here, boot_id="another").is_gone
    assert not replace(here, pid_namespace="pid:[1]").is_gone
    assert not replace(here, host="another").is_gone


def test_a_later_life_has_the_same_job_and_more_restarts() -> None:
    first = life(0)
    assert first.is_earlier_life_of(life(1))
    assert not first.is_earlier_life_of(life(0))
    assert not life(1).is_earlier_life_of(first)
    assert not first.is_earlier_life_of(replace(life(1), slurm_job_id="18"))
    assert not first.is_earlier_life_of(replace(life(1), slurm_cluster="other"))
    assert not this_process({}).is_earlier_life_of(this_process({"SLURM_RESTART_COUNT": "1"}))


def test_the_elements_of_a_chain_are_lives_of_one_job() -> None:
    chain = {"SLURM_ARRAY_JOB_ID": "17"}
    first = this_process({**chain, "SLURM_JOB_ID": "17", "SLURM_ARRAY_TASK_ID": "1"})
    second = this_process({**chain, "SLURM_JOB_ID": "18", "SLURM_ARRAY_TASK_ID": "2"})
    assert first.is_earlier_life_of(second)
    assert not second.is_earlier_life_of(first)


def life(restarts: int) -> Holder:
    return this_process({"SLURM_JOB_ID": "17", "SLURM_RESTART_COUNT": str(restarts)})


HOLDING = """
import errno, fcntl, os, socket, sys, threading
from pathlib import Path
from moe_ray.store import lease
from moe_ray.store.lock import exclusive
from moe_ray.store.run_directory import RunDirectory

def no_lock(*_):
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

if sys.argv[2] == "lease":
    fcntl.flock = no_lock
socket.gethostname = lambda: "node1"
lease.RENEW_S = 0.02
with exclusive(RunDirectory(Path(sys.argv[1]))):
    print("held", flush=True)
    threading.Event().wait()
"""


@contextmanager
def earlier_life(run: RunDirectory, how: str) -> Iterator[subprocess.Popen[str]]:
    """A process on another host that holds `run` as the first life of SLURM job 17."""
    environment = {
        **os.environ,
        "SLURM_JOB_ID": "17",
        "SLURM_RESTART_COUNT": "0",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    command = [sys.executable, "-c", HOLDING, str(run.path), how]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


@pytest.fixture
def second_life(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process is a later life of the same job, and impatient."""
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    for module, name, value in (
        (lease, "SILENCE_S", 1.0), (lease, "STALE_S", 2.0), (lease, "POLL_S", 0.01),
        (lock, "EARLIER_LIFE_LIMIT_S", 0.3), (lock, "POLL_S", 0.01),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, value)


@pytest.mark.usefixtures("second_life")
def test_a_requeued_life_takes_the_lease_of_its_dead_life_and_says_so(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "STALE_S", 60.0)
    with earlier_life(run, "lease") as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
    fail_with(monkeypatch, errno.ENOSYS)
    notices: list[str] = []
    with exclusive(run, notices.append):
        holder = read_holder(run.path / ".lease")
        assert holder is not None
        assert (holder.slurm_job_id, holder.slurm_restart_count, holder.pid) == ("17", 1, os.getpid())
    assert "An earlier life of this job (node1, pid" in notices[1]
    assert notices[2].startswith("Took over")


@pytest.mark.usefixtures("second_life")
def test_a_requeued_life_never_takes_the_lease_of_a_live_one(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    with earlier_life(run, "lease") as process:
        fail_with(monkeypatch, errno.ENOSYS)
        with pytest.raises(RunDirectoryError, match=r"node1, pid .*, SLURM job 17"), exclusive(run):
            pass
        assert process.poll() is None
        holder = read_holder(run.path / ".lease")
        assert holder is not None
        assert holder.pid == process.pid


@pytest.mark.usefixtures("second_life")
def test_a_requeued_life_waits_for_the_lock_of_its_earlier_life(run: RunDirectory) -> None:
    """As on NFS, which keeps the lock of a crashed node for a while."""
    with earlier_life(run, "flock") as process:
        with pytest.raises(RunDirectoryError, match=r"node1, pid .*, SLURM job 17"), exclusive(run):
            pass
        notices: list[str] = []

        def end_it(text: str) -> None:
            notices.append(text)
            process.kill()
            process.wait()

        with exclusive(run, end_it):
            assert parse_holder((run.path / ".lock").read_text()) is not None
    assert "waiting for its lock" in notices[0]


@pytest.mark.usefixtures("no_locks", "default_sigint")
def test_a_process_whose_lease_was_taken_over_is_interrupted(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "RENEW_S", 0.01)
    notices: list[str] = []
    other = Holder("other", "node9", 1)

    def work_on() -> None:
        with exclusive(run, notices.append):
            write_lease(run, other)
            time.sleep(30)

    with pytest.raises(KeyboardInterrupt):
        work_on()
    assert "node9, pid 1" in notices[-1]
    assert read_holder(run.path / ".lease") == other


@pytest.mark.usefixtures("no_locks")
def test_a_lease_that_is_being_replaced_is_written_again_by_its_living_holder(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "RENEW_S", 0.01)
    path, written = run.path / ".lease", threading.Event()
    create = lease.create_lease

    def create_and_tell(*arguments: object) -> bool:
        done = create(*arguments)  # type: ignore[arg-type]
        written.set()
        return done

    with exclusive(run):
        mine = read_holder(path)
        monkeypatch.setattr(lease, "create_lease", create_and_tell)
        path.unlink()
        assert written.wait(10)
        assert read_holder(path) == mine


@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [
        ("lustre", "rw,localflock", "localflock"),
        ("nfs", "rw,vers=3,local_lock=all", "local_lock=all"),
        ("nfs4", "rw,vers=4.2,local_lock=none", None),
        ("lustre", "rw,flock", None),
        ("ext4", "rw,local_lock=all", None),
    ],
)
def test_the_options_of_a_mount_say_whether_locks_exclude_other_nodes(
    tmp_path: Path, kind: str, options: str, expected: str | None
) -> None:
    table = tmp_path / "mountinfo"
    escaped = str(tmp_path / "results").replace("results", "my\\040results")
    table.write_text(
        f"1 0 0:1 / / rw - ext4 /dev/root rw\n2 1 0:2 / {escaped} rw,relatime shared:1 - {kind} server:/x {options}\n"
    )
    mount = mount_of(tmp_path / "my results" / "run", table)
    assert mount is not None
    assert (mount.point.name, mount.kind, mount.local_lock_option) == ("my results", kind, expected)


def test_a_lock_of_one_node_only_is_backed_by_a_lease(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    mount = Mount(run.path, "lustre", frozenset({"localflock"}))
    monkeypatch.setattr(lock, "mount_of", lambda _: mount)
    notices: list[str] = []
    with exclusive(run, notices.append):
        assert (run.path / ".lease").is_file()
    assert "mounted with localflock" in notices[0]
    assert not (run.path / ".lease").exists()
