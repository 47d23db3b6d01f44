"""A small run directory to mirror, and what every store must hold to. It needs neither s3fs nor the tests' conftest."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from moe_ray.store.mirror import Mirror

CONTENT = {"manifest.json": "{}", "answers/shard-1.parquet": "one"}


def write(folder: Path, path: str, text: str) -> None:
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    (folder / path).write_text(text, encoding="utf-8")


def write_run(folder: Path) -> Path:
    """Write a run directory of `CONTENT` and a hidden file, which is not mirrored."""
    for path, text in {**CONTENT, ".lock": "held"}.items():
        write(folder, path, text)
    return folder


def pulled(url: str, folder: Path) -> dict[str, str]:
    """Copy the mirror at `url` to `folder`, and return all that is there then."""
    Mirror(url).pull(folder, on_progress=lambda _path: None)
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def require_nothing_partial_after_a_kill(url: str, run: Path, home: Path, program: str) -> None:
    """`program URL RUN` is killed while it pushes shard-2: the mirror stays as it was, and the next push completes."""
    Mirror(url, writer="a").push(run)
    write(run, "answers/shard-2.parquet", "two")
    done = subprocess.run([sys.executable, "-c", program, url, str(run)], check=False, env=os.environ)
    assert done.returncode == -signal.SIGKILL
    assert pulled(url, home) == CONTENT
    Mirror(url, writer="b").push(run)
    assert pulled(url, home)["answers/shard-2.parquet"] == "two"
