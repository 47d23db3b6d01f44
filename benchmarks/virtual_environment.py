"""Another project's own virtual environment, made once, with the versions of `constraints.txt`."""

import json
import subprocess
import venv as virtual_environments
from pathlib import Path

CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"


def make_python(folder: Path, name: str, version: str, *, extra: str = "") -> Path:
    """Return the interpreter of the environment at `folder` that holds `name`, which is made now if it is not there.

    `extra` is written behind the package's name, as [hf]. Raises `SystemExit` when another version is installed there.
    """
    python = folder / "bin" / "python"
    if not python.is_file():
        wanted = f"{name}{extra}=={version}"
        print(f"making {folder}: torch, then {wanted} (some minutes)", flush=True)
        virtual_environments.create(folder, with_pip=True)
        pip = [str(python), "-m", "pip", "--quiet", "--disable-pip-version-check"]
        for package in ("torch", wanted):
            subprocess.run([*pip, "install", "-c", str(CONSTRAINTS), package], check=True)
    found = installed_versions(python, name)[name]
    if found != version:
        raise SystemExit(f"{folder} holds {name} {found}; this comparison is with {version}")
    return python


def installed_versions(python: Path, *names: str) -> dict[str, str | None]:
    """Return the versions of packages that `python` finds; None for what is not installed."""
    program = (
        "import json\nfrom importlib import metadata\n"
        "def version(name):\n"
        "    try:\n        return metadata.version(name)\n"
        "    except metadata.PackageNotFoundError:\n        return None\n"
        f"print(json.dumps({{name: version(name) for name in {names!r}}}))"
    )
    done = subprocess.run([str(python), "-c", program], check=True, capture_output=True, text=True)
    versions: dict[str, str | None] = json.loads(done.stdout)
    return versions
