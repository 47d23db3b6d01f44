"""The kinds of box that a program can be put into, from the strongest to the weakest, and the guest's code."""

import marshal
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from moe_ray.scoring.sandbox import guest
from moe_ray.scoring.sandbox.groups import ControlGroups
from moe_ray.scoring.sandbox.program import BackendName

MODULES = ("kernel", "syscalls", "wire", "confine", "meter", "namespaces", "judge", "player", "clock", "warden")
"""The guest's modules, each after those that it imports."""

START = """
import marshal, os, sys
def receive(count):
    data = b""
    while len(data) < count:
        data += os.read(0, count - len(data)) or sys.exit("the host is gone")
    return data
package = type(sys)({package!r})
package.__path__ = []
sys.modules[package.__name__] = package
for name, code in marshal.loads(receive(int.from_bytes(receive(4), "little"))):
    module = type(sys)(package.__name__ + "." + name)
    sys.modules[module.__name__] = module
    setattr(package, name, module)
    exec(code, module.__dict__)
package.warden.main()
"""
SCRATCH = "/scratch"
NOWHERE = "/proc"
"""A folder that every Linux has and in which no file can be made; no path that Python needs is below it."""
SCRATCH_BYTES = 16 << 20
SCRATCH_FILES = 1024
FILE_BYTES = 1 << 20
PRIVATE_TASKS = 32
PACKAGE_FOLDERS = ("site-packages", "dist-packages")
FIRST_PRIVATE_UID = 1_900_000_000  # above every user that a machine or a directory service is likely to know
NUM_PRIVATE_UIDS = 40_000
SYSTEM_PATHS = (
    "/usr/lib", "/usr/lib64", "/usr/lib32", "/usr/local/lib", "/lib", "/lib64", "/nix/store", "/usr/share/zoneinfo",
    "/etc/ld.so.cache", "/etc/localtime",
)  # fmt: skip
DEVICES = ("/dev/null", "/dev/urandom")
"""Not /dev/zero: a shared mapping of it is memory that no limit counts."""


def start_program() -> str:
    """Return the program, for `python -c`, that becomes the warden once it has received `guest_code()`."""
    return START.format(package=guest.__name__)


@cache
def guest_code() -> bytes:
    """Return the guest, compiled for this interpreter, as one frame."""
    folder = Path(guest.__file__).parent
    modules = [(name, _compiled(folder / f"{name}.py")) for name in MODULES]
    data = marshal.dumps(modules)
    return len(data).to_bytes(4, "little") + data


def _compiled(path: Path) -> object:
    name = f"<{guest.__name__}.{path.stem}>"
    return compile(path.read_text(encoding="utf-8"), name, "exec", dont_inherit=True, optimize=2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """A command that starts the warden in a box, and the settings it is sent."""

    backend: BackendName
    argv: tuple[str, ...]
    environment: dict[str, str]
    settings: dict[str, Any]
    private_users: bool
    groups: ControlGroups | None = None
    shared_rules: tuple[tuple[str, ...], ...] | None = None
    """Paths to read, to list, to write: of a box that has no files of its own."""

    def users(self, worker: int) -> dict[str, int | None]:
        """Return users for the player and the judge of one worker that no other process has, where possible."""
        if not self.private_users:
            return {"player_uid": None, "judge_uid": None}
        first = FIRST_PRIVATE_UID + (os.getpid() * 64 + worker * 2) % NUM_PRIVATE_UIDS
        return {"player_uid": first, "judge_uid": first + 1}


def interpreter() -> str:
    """Return the path of the Python that runs in the box: this one, without its virtual environment."""
    return os.path.realpath(getattr(sys, "_base_executable", sys.executable))


def start_command() -> tuple[str, ...]:
    """Return the command that is the warden."""
    return (interpreter(), "-I", "-S", "-B", "-c", start_program())


def read_paths() -> tuple[str, ...]:
    """Return what Python needs to read to run the guest; none is inside another."""
    own = [sysconfig.get_path(name, vars=_base()) for name in ("stdlib", "platstdlib")]
    own += [f"{sys.base_prefix}/lib", str(Path(interpreter()).parent)]
    wanted = [*SYSTEM_PATHS, *own, *library_path(), *DEVICES]
    present = dict.fromkeys(path for path in wanted if os.path.lexists(path))
    return tuple(path for path in present if not present.keys() & {str(parent) for parent in Path(path).parents})


def _base() -> dict[str, str]:
    """Return the variables that make sysconfig tell of the base Python and not of a virtual environment."""
    return {"base": sys.base_prefix, "platbase": sys.base_exec_prefix, "installed_base": sys.base_prefix}


@cache
def package_paths() -> tuple[str, ...]:
    """Return the folders of installed packages below `read_paths()`. A program is to see the standard library only."""
    folders = {Path(path) for path in read_paths() if not Path(path).is_symlink()}
    homes = {home for folder in folders for pattern in ("python*", "*/python*") for home in folder.glob(pattern)}
    found = [home / name for home in sorted(homes | folders) for name in PACKAGE_FOLDERS]
    found += [Path(sysconfig.get_path(name, vars=_base())) for name in ("purelib", "platlib")]
    inside = (path for path in dict.fromkeys(found) if folders & set(path.parents))
    return tuple(str(path) for path in inside if path.is_dir() and not path.is_symlink())


@cache
def readable_parts() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return `read_paths()` without `package_paths()`, for rules that cannot exclude: paths that can be read with all
    below them, and folders that can only be listed."""
    hidden = {Path(path).resolve() for path in package_paths()}
    around = {parent for path in hidden for parent in path.parents}
    whole: list[str] = []
    listed: list[str] = []
    waiting = [Path(path).resolve() for path in read_paths()]
    while waiting:
        path = waiting.pop()
        if path in around:
            listed.append(str(path))
            waiting += (child for child in path.iterdir() if not child.is_symlink())  # a rule follows links
        elif path not in hidden:
            whole.append(str(path))
    return tuple(sorted(set(whole))), tuple(sorted(set(listed)))


def library_path() -> list[str]:
    """Return the directories that the environment adds for shared libraries (clusters' module systems do)."""
    return [path for path in os.environ.get("LD_LIBRARY_PATH", "").split(":") if path.startswith("/")]


def candidates(memory_bytes: int) -> Iterator[Box]:
    """Yield the boxes worth trying on this machine, the strongest first."""
    if sys.platform == "linux":
        bubblewrap = shutil.which("bwrap")
        if bubblewrap is not None:
            if _may_switch_users():
                yield _bubblewrap(bubblewrap, memory_bytes, private_users=True)
            yield _bubblewrap(bubblewrap, memory_bytes, private_users=False)
        yield _namespaces(memory_bytes)
        yield _plain("filters", memory_bytes)
    yield _plain("limits", memory_bytes)


def _bubblewrap(bubblewrap: str, memory_bytes: int, *, private_users: bool) -> Box:
    quota = "--size" in _help(bubblewrap)
    argv = [bubblewrap, "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"]
    argv += ["--die-with-parent", "--new-session", "--clearenv", "--cap-drop", "ALL"]
    if private_users:
        for capability in ("CAP_SETUID", "CAP_SETGID", "CAP_KILL"):
            argv += ["--cap-add", capability]
    else:
        argv.append("--unshare-user")
    for name, value in _environment(SCRATCH).items():
        argv += ["--setenv", name, value]
    for folder in _parents(read_paths()):  # else bubblewrap makes them for the one user it starts as
        argv += ["--dir", folder]
    for path in read_paths():
        argv += _show(path)
    for path in package_paths():
        argv += ["--perms", "0555", "--tmpfs", path] if quota else ["--tmpfs", path, "--remount-ro", path]
    argv += ["--perms", "1777", "--size", str(SCRATCH_BYTES)] if quota else []
    argv += ["--tmpfs", SCRATCH, "--remount-ro", "/", "--chdir", "/"]
    settings = _settings(memory_bytes, scratch=SCRATCH, writable=quota, own_tasks=True)
    # Root keeps its exemption from task limits in a user namespace, so threads are bounded by refusing them.
    settings["threads"] = private_users or os.geteuid() != 0
    return Box(
        backend="bubblewrap",
        argv=(*argv, *start_command()),
        environment={},
        settings=settings,
        private_users=private_users,
    )


@cache
def _help(command: str) -> str:
    return subprocess.run([command, "--help"], capture_output=True, text=True, check=False).stdout


def _parents(paths: tuple[str, ...]) -> list[str]:
    """Return the folders that `paths` stand in, each before what it holds, without the root."""
    found = {parent for path in paths for parent in Path(path).parents}
    return sorted(str(folder) for folder in found if folder != Path("/"))


def _show(path: str) -> list[str]:
    if Path(path).is_symlink():
        return ["--symlink", str(Path(path).readlink()), path]
    return ["--dev-bind" if path in DEVICES else "--ro-bind", path, path]


def _namespaces(memory_bytes: int) -> Box:
    settings = _settings(memory_bytes, scratch=SCRATCH, writable=True, own_tasks=True)
    settings["new_root"] = NOWHERE
    settings["scratch_options"] = f"size={SCRATCH_BYTES},nr_inodes={SCRATCH_FILES},mode=1777"
    private_users = _may_switch_users()
    settings["threads"] = private_users or os.geteuid() != 0
    return Box(
        backend="namespaces",
        argv=start_command(),
        environment=_environment(SCRATCH),
        settings=settings,
        private_users=private_users,
    )


def _plain(backend: BackendName, memory_bytes: int) -> Box:
    """A box of the process's own limits, with or without the kernel's filters. Its scratch cannot be written:
    nothing else bounds how much of the disk would be filled."""
    private_users = _may_switch_users() and all(_reachable(Path(path)) for path in read_paths())
    scratch = NOWHERE if sys.platform == "linux" else "/"
    settings = _settings(memory_bytes, scratch=scratch, writable=False, own_tasks=private_users)
    settings["read_paths"] = []
    settings |= {"filters": backend == "filters", "threads": private_users or os.geteuid() != 0}
    return Box(
        backend=backend,
        argv=start_command(),
        environment=_environment(scratch),
        settings=settings,
        private_users=private_users,
        shared_rules=(*readable_parts(), tuple(settings["write_paths"])),
    )


def _settings(memory_bytes: int, *, scratch: str, writable: bool, own_tasks: bool) -> dict[str, Any]:
    return {
        "memory_bytes": memory_bytes,
        "file_bytes": FILE_BYTES if writable else 0,
        "num_tasks": PRIVATE_TASKS if own_tasks else 0,
        "filters": True,
        "threads": True,
        "shared_files": writable,
        "count_scratch": writable,
        "scratch": scratch,
        "read_paths": list(read_paths()),
        "list_paths": [],
        "hidden_paths": list(package_paths()),
        "write_paths": ["/dev/null", *([scratch] if writable else [])],
        "new_root": None,
    }


def _environment(scratch: str) -> dict[str, str]:
    """Return the only variables that the box has."""
    libraries = ":".join(library_path())
    return {"TMPDIR": scratch, "LC_ALL": "C.UTF-8"} | ({"LD_LIBRARY_PATH": libraries} if libraries else {})


def _may_switch_users() -> bool:
    """Say whether this is a root that other users exist for (not one that a user namespace plays)."""
    if os.geteuid() != 0:
        return False
    try:
        mapping = Path("/proc/self/uid_map").read_text().split("\n")
    except OSError:
        return True
    last = FIRST_PRIVATE_UID + NUM_PRIVATE_UIDS
    ranges = [[int(part) for part in line.split()] for line in mapping if line]
    return any(first <= FIRST_PRIVATE_UID and first + count > last for first, _, count in ranges)


def _reachable(path: Path) -> bool:
    """Say whether any user may walk to `path`."""
    return all(parent.stat().st_mode & 1 for parent in path.resolve().parents)
