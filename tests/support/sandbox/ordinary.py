"""Start a Python module as an ordinary user, where this process is root: with this interpreter, its packages and this
repository shown at places that anybody may read, wherever they really are."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

from moe_ray.scoring.sandbox.guest import kernel

NOBODY = 65534
NEW_MOUNTS = 0x00020000
BIND, RECURSIVE, PRIVATE = 4096, 16384, 1 << 18
CANNOT = 77
REPOSITORY = Path(__file__).parents[3]


def run_as_ordinary_user(folder: Path, module: str, *arguments: str, path: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m module arguments` as nobody, whose home is `folder`, with `path` as PATH.

    The exit status is CANNOT when this machine lets even root make no mounts.
    """
    command = [sys.executable, "-m", __name__, str(folder), path, module, *arguments]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=120)


def _show(folder: Path) -> dict[str, Path]:
    """Bind what Python needs below `folder`, in a mount namespace of this process alone."""
    kernel.unshare(NEW_MOUNTS)
    kernel.mount("none", "/", None, RECURSIVE | PRIVATE)
    places = {"python": sys.base_prefix, "packages": sysconfig.get_path("purelib"), "repository": str(REPOSITORY)}
    for name, source in places.items():
        (folder / name).mkdir()
        kernel.mount(source, str(folder / name), None, BIND | RECURSIVE)
    return {name: folder / name for name in places}


def main() -> None:
    """Become nobody and the module."""
    folder, path, module, *arguments = sys.argv[1:]
    try:
        shown = _show(Path(folder))
    except OSError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(CANNOT)
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    python = shown["python"] / "bin" / Path(os.path.realpath(sys.executable)).name
    environment = {
        "HOME": folder,
        "TMPDIR": folder,
        "PATH": path,
        "PYTHONPATH": f"{shown['repository']}:{shown['packages']}",
        "LD_LIBRARY_PATH": str(shown["python"] / "lib"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "MOE_RAY_SECRET": "secret",
    }
    os.chdir(shown["repository"])
    os.execve(python, [str(python), "-m", module, *arguments], environment)


if __name__ == "__main__":
    main()
