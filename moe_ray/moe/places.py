"""Where a mixture is written to: a free place with room enough, known before any work."""

import shutil
from pathlib import Path

from moe_ray.errors import ModelError


def require_free(out_dir: Path) -> None:
    """Raise `ModelError` when there is something at `out_dir` already; an empty folder is nothing."""
    if out_dir.exists() and not (out_dir.is_dir() and not any(out_dir.iterdir())):
        raise ModelError("is there already", where=str(out_dir), remedy="name a new folder, or remove this one")


def require_space(out_dir: Path, num_bytes: int) -> None:
    """Raise `ModelError` unless the disk under `out_dir` has room for `num_bytes`."""
    parent = next(path for path in out_dir.absolute().parents if path.exists())
    free = shutil.disk_usage(parent).free
    if free < num_bytes:
        raise ModelError(
            f"{num_bytes / 1e9:.2f} GB are needed, and {free / 1e9:.2f} GB are free",
            where=str(parent),
            remedy="free space, or name another disk",
        )


def weights_bytes(directory: Path) -> int:
    """Return the size of a checkpoint's weights on the disk."""
    return sum(path.stat().st_size for path in directory.glob("*.safetensors"))
