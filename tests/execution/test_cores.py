"""The cores that a run may use are those of its own limits, and a Ray that it starts counts no others."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from moe_ray.config.schema import RuntimeConfig
from moe_ray.errors import UserError
from moe_ray.execution.cores import usable_cores
from moe_ray.execution.temp_dir import MAX_TEMP_DIR_BYTES, ray_temp_dir

BOUND = len(os.sched_getaffinity(0))
STARTS_RAY = """
import os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from moe_ray.config.schema import RuntimeConfig
from moe_ray.execution.cluster import connect, fleet_of
with connect(RuntimeConfig(cpu_threads=1)) as cluster:
    (node,) = fleet_of(cluster).nodes.values()
    print("cores", node.num_cpus, node.cpu_slots)
"""


def rooted(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def bind_to_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(64)))


V2, V1 = {"proc/self/cgroup": "0::/job/step\n"}, {"proc/self/cgroup": "4:cpu,cpuacct:/job\n2:memory:/job\n"}
CASES: dict[str, tuple[dict[str, str], int]] = {
    "nothing": ({}, 64),
    "no limit": ({**V2, "sys/fs/cgroup/job/step/cpu.max": "max 100000\n"}, 64),
    "the inner group": ({**V2, "sys/fs/cgroup/job/step/cpu.max": "400000 100000\n"}, 4),
    "a group around it": ({**V2, "sys/fs/cgroup/job/cpu.max": "300000 100000\n"}, 3),
    "the smaller of two": (
        {**V2, "sys/fs/cgroup/job/cpu.max": "300000 100000", "sys/fs/cgroup/job/step/cpu.max": "800000 100000"},
        3,
    ),
    "docker --cpus=1.5": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1),
    "half a core": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1),
    "version 1": (
        {**V1, "sys/fs/cgroup/cpu/job/cpu.cfs_quota_us": "250000", "sys/fs/cgroup/cpu/job/cpu.cfs_period_us": "100000"},
        2,
    ),
    "version 1 without a limit": (
        {**V1, "sys/fs/cgroup/cpu/job/cpu.cfs_quota_us": "-1", "sys/fs/cgroup/cpu/job/cpu.cfs_period_us": "100000"},
        64,
    ),
    "nonsense": ({**V2, "sys/fs/cgroup/job/cpu.max": "many 0\n", "sys/fs/cgroup/job/step/cpu.max": "4 0\n"}, 64),
    "another's group": ({**V2, "sys/fs/cgroup/other/cpu.max": "100000 100000\n"}, 64),
}


@pytest.mark.parametrize("case", CASES)
def test_the_smallest_limit_of_the_control_groups_counts(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, expected = CASES[case]
    bind_to_many(monkeypatch)
    assert usable_cores(rooted(tmp_path, files)) == expected


def test_a_process_that_is_bound_to_fewer_cores_has_no_more(tmp_path: Path) -> None:
    assert usable_cores(tmp_path) == BOUND
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    code += "from moe_ray.execution.cores import usable_cores; print(usable_cores())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"


@pytest.mark.slow
@pytest.mark.skipif(BOUND < 2, reason="needs two CPUs")
def test_a_ray_that_a_run_starts_counts_the_cores_that_the_run_is_bound_to(tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", STARTS_RAY],
        env={**environment, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
    )
    assert "cores 1 1" in done.stdout, done.stderr


def test_the_bytes_of_a_temporary_folder_count_and_not_its_characters() -> None:
    fits = Path("/" + "x" * (MAX_TEMP_DIR_BYTES - 1))
    assert ray_temp_dir(fits) == str(fits)
    assert ray_temp_dir(RuntimeConfig().temp_dir) is None
    with pytest.raises(UserError, match="has 44 bytes"):
        ray_temp_dir(Path(f"{fits}x"))
    with pytest.raises(UserError, match=f"has {2 * MAX_TEMP_DIR_BYTES - 1} bytes"):
        ray_temp_dir(Path("/" + "ä" * (MAX_TEMP_DIR_BYTES - 1)))
