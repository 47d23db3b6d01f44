"""Access to the files of a run directory, never outside it: no "..", no links, no devices or pipes.

A run directory may come from another user. A link in it that leads outside would let its reader read, or write over,
a file of the person who opens it.
"""

import os
import stat
from pathlib import Path

from moe_ray.errors import RunDirectoryError


def inside(root: Path, *parts: str) -> Path:
    """Return the path of `parts` below `root`. Raises `RunDirectoryError` when it leads out of `root`."""
    path = root.joinpath(*parts)
    try:
        leads_out = not path.resolve().is_relative_to(root.resolve())
        mode = path.stat().st_mode
    except FileNotFoundError:
        mode = stat.S_IFREG
    except (OSError, RuntimeError, ValueError) as error:
        raise _unusable(path, f"cannot be reached: {error}") from error
    if leads_out:
        raise _unusable(path, "leads out of the run directory, and nothing is read or written there")
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise _unusable(path, "is neither a file nor a folder")
    return path


def files_inside(root: Path, folder: str, suffix: str) -> list[Path]:
    """Return the files of a folder below `root` whose names end in `suffix`, sorted; none where the folder is missing.

    Names that begin with a dot are left out. Raises `RunDirectoryError` for what leads out of `root` or is no file, and
    `OSError` for a folder that cannot be read.
    """
    place = inside(root, folder)
    found = []
    try:
        with os.scandir(place) as entries:
            for entry in entries:
                if entry.name.endswith(suffix) and not entry.name.startswith("."):
                    if not entry.is_file(follow_symlinks=False):
                        inside(root, folder, entry.name)
                    found.append(place / entry.name)
    except FileNotFoundError:
        return []
    return sorted(found)


def require_tree_inside(root: Path, folder: Path) -> None:
    """Raise `RunDirectoryError` when anything below `folder` leads out of `root` or is neither a file nor a folder."""
    inside(root, str(folder.relative_to(root)))
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            inside(root, str((Path(place) / name).relative_to(root)))


def _unusable(path: Path, what: str) -> RunDirectoryError:
    return RunDirectoryError(
        what, where=str(path), remedy="remove it, or copy the run directory with its links replaced by their targets"
    )
