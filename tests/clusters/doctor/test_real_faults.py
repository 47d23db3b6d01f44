"""Faults of real file systems, limits and sockets: what a check claims is what the kernel does."""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from moe_ray.clusters.doctor.checks import check_called
from moe_ray.clusters.doctor.examine import examine
from moe_ray.clusters.doctor.machine import Machine
from moe_ray.execution.temp_dir import MAX_TEMP_DIR_BYTES, SESSION
from tests.clusters.doctor.machines import with_environment, with_experiment

Mount = Callable[[Path, str], Path]


@pytest.fixture
def mount() -> Iterator[Mount]:
    """Mount an empty tmpfs with options on a folder; unmounted when the test ends."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    with ExitStack() as stack:

        def mounted(folder: Path, options: str) -> Path:
            folder.mkdir(parents=True, exist_ok=True)
            command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
            if subprocess.run(command, check=False, capture_output=True).returncode != 0:
                pytest.skip("mounting is not allowed here")
            stack.callback(subprocess.run, ["umount", str(folder)], check=True)
            return folder

        yield mounted


def ids(machine: Machine) -> list[str]:
    return [finding.check for finding in examine(machine).findings]


def test_a_folder_that_is_mounted_with_noexec(machine: Machine, tmp_path: Path, mount: Mount) -> None:
    folder = mount(tmp_path / "noexec", "noexec,size=2g")
    assert ids(with_environment(machine, TMPDIR=folder)) == ["temp-noexec"]
    script = folder / "script"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    with pytest.raises(PermissionError):
        subprocess.run([str(script)], check=False)


def test_a_full_disk_of_temporary_files(machine: Machine, short_folder: Path, mount: Mount) -> None:
    folder = mount(short_folder / "full", "size=1m")
    with (folder / "filler").open("wb") as file, pytest.raises(OSError, match="No space left"):
        file.write(bytes(2 << 20))
    assert ids(with_environment(machine, RAY_TMPDIR=folder)) == ["temp-space"]


def test_a_disk_of_results_without_room_for_files(machine: Machine, tmp_path: Path, mount: Mount) -> None:
    folder = mount(tmp_path / "few", "size=4g,nr_inodes=20")
    checked = with_experiment(machine, lambda experiment, _: experiment["output"].update(results_dir=str(folder)))
    assert ids(checked) == ["results-space"]


def test_shared_memory_of_a_container(machine: Machine, mount: Mount) -> None:
    mount(machine.root / "dev/shm", "size=64m")
    assert ids(machine) == ["shared-memory"]


def test_the_longest_folder_of_ray_is_the_longest_in_which_its_sockets_can_be_made(short_folder: Path) -> None:
    for num_bytes, fits in ((MAX_TEMP_DIR_BYTES, True), (MAX_TEMP_DIR_BYTES + 1, False)):
        folder = short_folder / ("x" * (num_bytes - len(str(short_folder)) - 1))
        assert len(str(folder)) == num_bytes
        sockets = folder / ("s" * len(SESSION)) / "sockets"
        sockets.mkdir(parents=True)
        with socket.socket(socket.AF_UNIX) as server:
            if fits:
                server.bind(str(sockets / "plasma_store"))
            else:
                with pytest.raises(OSError, match="AF_UNIX path too long"):
                    server.bind(str(sockets / "plasma_store"))


def test_a_token_file_that_ray_wrote_with_the_usual_umask(machine: Machine) -> None:
    before = os.umask(0o022)
    try:
        (machine.home / ".ray").mkdir()
        (machine.home / ".ray/auth_token").write_text("token")  # as Ray does
    finally:
        os.umask(before)
    report = examine(machine)
    assert [(one.check, one.evidence, one.command) for one in report.findings] == [
        ("token-file", "~/.ray/auth_token has mode 0644", "chmod 600 ~/.ray/auth_token")
    ]


def test_a_token_file_that_nobody_else_can_reach_is_no_finding(machine: Machine) -> None:
    (machine.home / ".ray").mkdir()
    (machine.home / ".ray/auth_token").write_text("token")
    (machine.home / ".ray").chmod(0o700)
    assert ids(machine) == []


def test_the_command_sees_a_real_limit_of_its_own_process(short_folder: Path) -> None:
    with limited("ulimit -n 1000", short_folder) as shown:
        findings = {one["check"]: one for group in shown["groups"] for one in group["findings"]}
    assert "at most 1000 files" in findings["open-files"]["what"]


@contextmanager
def limited(limits: str, folder: Path) -> Iterator[dict[str, list[dict[str, list[dict[str, str]]]]]]:
    """The report of the real command, in a shell with other limits."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONPATH": os.pathsep.join(sys.path)}
    command = ["bash", "-c", f'{limits}; "$0" -m moe_ray doctor --json', sys.executable]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    yield json.loads(done.stdout)


def test_a_lock_check_leaves_no_file_behind(machine: Machine) -> None:
    checked = with_experiment(machine)
    assert checked.experiment is not None
    before = sorted(checked.experiment.base_dir.iterdir())
    lock = check_called("results-lock").probe
    assert lock is not None
    assert list(lock(checked)) == []
    assert sorted(checked.experiment.base_dir.iterdir()) == before


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="needs bubblewrap")
def test_a_machine_with_bubblewrap_can_isolate_programs(machine: Machine) -> None:
    def change(experiment: dict[str, Any], _: Path) -> None:
        domain = experiment["domains"]["parity"]
        domain |= {"task": "code", "columns": {"id": "id", "question": "question", "tests": "tests"}}
        domain.pop("choices")

    checked = with_environment(with_experiment(machine, change), PATH=os.environ["PATH"])
    sandbox = check_called("sandbox").probe
    assert sandbox is not None
    assert list(sandbox(checked)) == []
