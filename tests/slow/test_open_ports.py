"""docs/explanation/security.md lists every port that a Ray cluster listens on, by process and interface."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "security.md"
HEAD, NODE = "10.9.0.1", "10.9.0.2"
# In a network of its own: two nodes with an actor each, then who listens where.
SCRIPT = f"""\
set -e
ip link set lo up
ip link add v0 type veth peer name v1
ip addr add {HEAD}/24 dev v0
ip addr add {NODE}/24 dev v0
ip link set v0 up
ip link set v1 up
ray() {{ "$PYTHON" -m ray.scripts.scripts "$@" --num-cpus=1 --object-store-memory=100000000 >&2; }}
ray start --head --node-ip-address={HEAD} --temp-dir="$HOME/r" --disable-usage-stats
ray start --address={HEAD}:6379 --node-ip-address={NODE}
"$PYTHON" -c "$LOOK"
"""
LOOK = f"""\
import json, psutil, ray
ray.init(address="{HEAD}:6379", log_to_driver=False)
class Actor:
    def ready(self):
        return True
actors = [ray.remote(Actor).options(num_cpus=1).remote() for _ in range(2)]
ray.get([actor.ready.remote() for actor in actors])
listening = [one for one in psutil.net_connections("tcp") if one.status == "LISTEN"]
print(json.dumps([[" ".join(psutil.Process(one.pid).cmdline()), one.laddr.ip] for one in listening]))
"""
# How a process is recognised, the first that applies.
PROCESSES = {
    "gcs_server": "GCS",
    "/raylet": "raylet",
    "ray.util.client.server": "client server",
    "dashboard.py": "dashboard",
    "ray-dashboard": "dashboard",
    "DashboardAgent": "dashboard agent",
    "RuntimeEnvAgent": "runtime environment agent",
    "monitor.py": "autoscaler monitor",
    "": "worker",
}
ANY = {"0.0.0.0", "::"}


def why_not() -> str | None:
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return "needs root and ip, for a network of its own"
    tried = subprocess.run(["unshare", "--net", "--pid", "--fork", "true"], check=False, capture_output=True)
    return None if tried.returncode == 0 else "namespaces are not allowed here"


def interface(address: str) -> str:
    plain = address.removeprefix("::ffff:")
    return "all" if plain in ANY else "the node's address" if plain in (HEAD, NODE) else plain


def documented() -> dict[str, set[str]]:
    """The interfaces of each process, as the page's table of a cluster has them."""
    section = PAGE.read_text(encoding="utf-8").partition("## What a cluster opens")[2].partition("\n## ")[0]
    rows = [line.split(" | ") for line in section.splitlines() if line.startswith("| ")][2:]
    names = ("all", "the node's address", "127.0.0.1")
    return {row[0].removeprefix("| "): {name for name in names if name in row[2]} for row in rows}


def test_the_page_lists_the_sockets_of_a_cluster(short_folder: Path) -> None:
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    token = short_folder / "token"
    token.touch(mode=0o600)
    token.write_text("0" * 64)
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHON": sys.executable,
        "LOOK": LOOK,
        "HOME": str(short_folder),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
    }
    command = ["unshare", "--net", "--pid", "--fork", "--kill-child=SIGKILL", "--mount-proc", "bash", "-c", SCRIPT]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, set[str]] = {}
    for command_line, address in json.loads(done.stdout.splitlines()[-1]):
        name = next(name for mark, name in PROCESSES.items() if mark in command_line)
        found.setdefault(name, set()).add(interface(address))
    assert found == documented()
