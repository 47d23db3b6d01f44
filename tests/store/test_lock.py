"""Who may work in a run directory: a lock, and a lease where the file system cannot lock."""

import errno
import fcntl
import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from moe_ray.errors import RunDirectoryError
from moe_ray.store import lock as lease
from moe_ray.store.lock import STALE_S, Holder, exclusive, read_holder
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
    path.write_text(json.dumps({"owner": holder.owner, "host": holder.host, "pid": holder.pid}))
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
    assert (len(holding), len(refused)) == (1, 7)


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
