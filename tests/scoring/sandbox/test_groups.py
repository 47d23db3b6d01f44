"""Control groups: where they are made, what they hold, and that none is left."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from moe_ray.scoring.sandbox import Program
from moe_ray.scoring.sandbox.boxes import candidates
from moe_ray.scoring.sandbox.execution import run_once
from moe_ray.scoring.sandbox.groups import ControlGroups, Hierarchy, hierarchies, open_groups
from tests.support.sandbox.attacks.memory import MAPPING
from tests.support.sandbox.suite import HONEST

LEAVES_S = 10.0
LIMIT_BYTES = 64 << 20
SHARED = """
def f(x):
    for _ in range(12):
        address = mapped(8 * MEGABYTE, SHARED | ANONYMOUS)
        ctypes.memset(address, 1, 8 * MEGABYTE)
        left(address, 8 * MEGABYTE)
    return 41
"""
OPENED = """
import time
from moe_ray.scoring.sandbox.groups import open_groups
groups = open_groups()
with groups.seat(3, 1 << 26):
    print(groups._folder, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def groups() -> Iterator[ControlGroups]:
    opened = open_groups()
    if opened is None:
        pytest.skip("no control group can be made here")
    yield opened
    opened.close()
    assert not opened._folder.exists()


def test_the_kernel_ends_a_program_that_takes_more_than_its_group_may(groups: ControlGroups) -> None:
    """In a box that filters nothing and counts nothing but the mappings of one process."""
    box = next(box for box in candidates(LIMIT_BYTES) if box.backend == "limits")
    box = replace(box, groups=groups)
    attack = Program(code=MAPPING + SHARED, tests=("assert f(1) == 41",))
    verdict = run_once(box, attack, timeout_s=5, worker=2)
    assert (verdict.outcome, verdict.detail) == ("memory", "took more than 64 MiB in all")
    assert run_once(box, HONEST, timeout_s=5, worker=2).passed
    assert run_once(replace(box, groups=None), attack, timeout_s=5, worker=2).passed


def test_a_limit_can_rise_and_fall_between_programs(groups: ControlGroups) -> None:
    for memory_bytes in (LIMIT_BYTES, 4 * LIMIT_BYTES, LIMIT_BYTES):
        with groups.seat(0, memory_bytes) as seat:
            assert not seat.ran_out()


def test_groups_go_when_their_process_is_killed(groups: ControlGroups) -> None:
    with subprocess.Popen([sys.executable, "-c", OPENED], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        folder = Path(process.stdout.readline().strip())
        assert (folder / "worker-3").is_dir()
        process.kill()
    until = time.monotonic() + LEAVES_S
    while folder.exists() and time.monotonic() < until:
        time.sleep(0.01)
    assert not folder.exists()


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    (tmp_path / "proc").mkdir()
    return tmp_path


def _tell(machine: Path, cgroup: str, mount: str) -> None:
    (machine / "proc" / "cgroup").write_text(cgroup)
    (machine / "proc" / "mountinfo").write_text(f"21 20 0:19 / /proc rw - proc proc rw\n{mount}\n")


def _group(path: Path, controllers: str) -> Path:
    path.mkdir(parents=True)
    (path / "cgroup.procs").write_text("")
    (path / "cgroup.subtree_control").write_text(controllers)
    return path


def test_version_2_uses_the_nearest_group_that_hands_memory_down(machine: Path) -> None:
    root = _group(machine / "sys", "cpu memory pids")
    manager = _group(root / "user@1000.service", "memory pids")
    slice_ = _group(manager / "app.slice", "memory pids")
    _group(slice_ / "terminal.scope", "")
    _tell(machine, "0::/user@1000.service/app.slice/terminal.scope\n", f"30 20 0:26 / {root} rw - cgroup2 cgroup2 rw")
    found = list(hierarchies(machine / "proc"))
    assert found == [Hierarchy(version=2, folder=folder) for folder in (slice_, manager, root)]


def test_a_group_that_may_not_be_written_is_left_out(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = _group(machine / "sys", "memory")
    _tell(machine, "0::/\n", f"30 20 0:26 / {root} ro - cgroup2 cgroup2 ro")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert list(hierarchies(machine / "proc")) == []


def test_a_group_without_the_memory_controller_is_left_out(machine: Path) -> None:
    root = _group(machine / "sys", "cpu")
    _tell(machine, "0::/\n", f"30 20 0:26 / {root} rw - cgroup2 cgroup2 rw")
    assert list(hierarchies(machine / "proc")) == []


def test_version_1_uses_the_group_of_the_process_also_where_only_a_part_of_the_tree_is_mounted(machine: Path) -> None:
    folder = _group(machine / "memory" / "inner", "")
    mount = f"30 20 0:26 /docker/abc {machine / 'memory'} rw - cgroup cgroup rw,memory"
    _tell(machine, "5:cpu:/x\n4:memory:/docker/abc/inner\n0::/\n", mount)
    assert list(hierarchies(machine / "proc")) == [Hierarchy(version=1, folder=folder)]


def test_a_machine_without_proc_has_no_groups(tmp_path: Path) -> None:
    assert open_groups(tmp_path) is None


def test_version_2_limits_memory_swap_and_tasks(tmp_path: Path) -> None:
    for name in ("memory.max", "memory.swap.max", "pids.max"):
        (tmp_path / name).write_text("max")
    Hierarchy(version=2, folder=tmp_path).limit(tmp_path, 256 << 20)
    limit = int((tmp_path / "memory.max").read_text())
    assert 256 << 20 < limit < 1.1 * (256 << 20)
    assert [(tmp_path / name).read_text() for name in ("memory.swap.max", "pids.max")] == ["0", "128"]
