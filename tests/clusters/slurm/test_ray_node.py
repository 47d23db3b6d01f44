"""Starting and ending a node's processes: only those that carry the job's mark."""

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from moe_ray.clusters.slurm.life import NodeFailedError
from moe_ray.clusters.slurm.limits import NodeLimits
from moe_ray.clusters.slurm.network import ports_from
from moe_ray.clusters.slurm.ray_node import RayNode, make_temp_dir, start_options
from tests.support.slurm_lab import wait_until

PORTS = ports_from(20_000, 20_100)
LIMITS = NodeLimits(num_cpus=4, num_gpus=2, memory_bytes=1 << 30, object_store_bytes=1 << 27)


AGENT = """
import subprocess, sys, time
from moe_ray.clusters.slurm.ray_node import adopt_orphans, end_descendants
SLEEP = "import time; print('up', flush=True); time.sleep(600)"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SLEEP
# An orphan in a session of its own: its parent has ended.
ORPHAN = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {STUBBORN!r}], start_new_session=True)"
adopt_orphans()
for code in (SLEEP, STUBBORN):
    subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE).stdout.readline()
orphan = subprocess.Popen([sys.executable, "-c", ORPHAN], stdout=subprocess.PIPE)
orphan.stdout.readline()
orphan.wait()
print("ready", flush=True)
sys.stdin.readline()
end_descendants()
print("ended", flush=True)
sys.stdin.readline()
"""


def test_an_agent_ends_all_its_descendants_and_nothing_else() -> None:
    """Also orphans, other sessions, and processes that ignore SIGTERM."""
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    agent = subprocess.Popen(
        [sys.executable, "-c", AGENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    assert agent.stdin is not None
    assert agent.stdout is not None
    assert agent.stdout.readline() == "ready\n"
    assert len(living(agent.pid)) == 3
    agent.stdin.write("\n")
    assert agent.stdout.readline() == "ended\n"
    assert living(agent.pid) == []
    assert other.poll() is None
    other.kill()
    other.wait()
    agent.communicate("\n")


def living(pid: int) -> list[psutil.Process]:
    found = psutil.Process(pid).children(recursive=True)
    return [process for process in found if process.status() != psutil.STATUS_ZOMBIE]


def test_a_start_that_was_only_slow_is_repeated_and_any_other_end_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray gives a start 30 s, which is too little on a busy machine."""
    starts = list[list[str]]()
    monkeypatch.setattr("moe_ray.clusters.slurm.ray_node.end_descendants", lambda: None)
    monkeypatch.setattr(
        "moe_ray.clusters.slurm.ray_node.start_child", lambda command, _environment, **_: starts.append(command)
    )
    node, log = RayNode(tmp_path, {}), tmp_path / "ray-start.log"
    log.write_text("Exception: The current node timed out during startup. This could")
    assert not node.has_started()
    assert len(starts) == 1
    log.write_text("Error: planted")
    with pytest.raises(NodeFailedError, match="ended before Ray was up"):
        node.has_started()
    assert len(starts) == 1


def test_the_lines_of_a_log_that_say_what_went_wrong_are_shown(tmp_path: Path) -> None:
    logs = tmp_path / "r" / "session_latest" / "logs"
    logs.mkdir(parents=True)
    (tmp_path / "ray-start.log").write_text("\x1b[37mplain\x1b[39m\n\nlast\n")
    lines = ["[2026 I 1 1] fine", "[2026-11-30 22:26:15,137 E 63 63] (raylet) broken", "/x/raylet(+0x8c) [0x5] f()"]
    (logs / "raylet.err").write_text("\n".join(lines))
    assert RayNode(tmp_path, {}).log() == ["plain", "last", f"raylet.err: {lines[1]}"]


def test_a_child_ends_with_its_agent_however_that_ends() -> None:
    code = (
        "import os, sys, time; from moe_ray.clusters.slurm.ray_node import start_child; "
        "child = start_child([sys.executable, '-c', 'import time; time.sleep(600)'], os.environ); "
        "print(child.pid, flush=True); time.sleep(600)"
    )
    agent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert agent.stdout is not None
    child = psutil.Process(int(agent.stdout.readline()))
    agent.stdout.close()
    agent.kill()
    agent.wait()
    wait_until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, "the child ends", 10)


@pytest.mark.parametrize("head", [None, "10.0.0.1:20000"])
def test_every_port_of_ray_is_given(head: str | None) -> None:
    """A port that Ray chooses itself can be another job's."""
    options = start_options("10.0.0.2", PORTS, LIMITS, Path("/tmp/x/r"), head)
    given = {option.partition("=")[2] for option in options if "-port=" in option or "-grpc" in option}
    expected = set(map(str, PORTS)) - ({str(PORTS.gcs), str(PORTS.dashboard)} if head else set())
    assert {one for one in given if ":" not in one} == expected
    assert ("--head" in options) == (head is None)
    assert "--num-gpus=2" in options


def test_the_private_folder_is_private_and_no_other_jobs(tmp_path: Path) -> None:
    others = make_temp_dir(tmp_path, "mr-7.0.0")
    (others / "socket").touch()
    folder = make_temp_dir(tmp_path, "mr-7.0.0")
    assert folder.name.startswith("mr-7.0.0-")
    assert folder.stat().st_mode & 0o777 == 0o700
    assert list(folder.iterdir()) == []
    assert (others / "socket").exists()
    with pytest.raises(NodeFailedError, match="temp_dir in the site file"):
        make_temp_dir(tmp_path / "missing", "x")
