"""The CPU cores that this process may use.

Ray counts those of the machine, or of the outermost control group. It sees neither the cores to which SLURM or taskset
bind a process, nor the limits of an inner control group.
"""

import os
from collections.abc import Iterator
from pathlib import Path

GROUPS = Path("sys/fs/cgroup")
_ROOT = Path("/")


def usable_cores(root: Path = _ROOT) -> int:
    """Return the number of cores, at least 1. `root` is the folder below which /proc and /sys are."""
    return max(1, int(min(len(os.sched_getaffinity(0)), *_quotas(root), float("inf"))))


def control_groups(table: str, controller: str | None) -> Iterator[Path]:
    """Yield the folders of control groups from the inner to the outer one, relative to the root of the file system.

    `table` is the text of /proc/self/cgroup; without a controller, groups of version 2 are meant.
    """
    for line in table.splitlines():
        number, _, rest = line.partition(":")
        names, _, place = rest.partition(":")
        wanted = number == "0" and not names if controller is None else controller in names.split(",")
        if wanted:
            base = GROUPS / (controller or "")
            inner = base / place.strip("/")
            yield from (folder for folder in (inner, *inner.parents) if folder.is_relative_to(base))


def _quotas(root: Path) -> Iterator[float]:
    """Yield the cores that each control group of this process allows, those without a limit left out."""
    table = _read(root / "proc/self/cgroup")
    for folder in control_groups(table, None):
        yield from _ratio(_read(root / folder / "cpu.max").split())
    for folder in control_groups(table, "cpu"):
        yield from _ratio([_read(root / folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")])


def _ratio(numbers: list[str]) -> Iterator[float]:
    """Yield the ratio of two numbers; nothing for "max", -1, or what is not there."""
    if len(numbers) == 2 and all(number.isdecimal() and int(number) for number in numbers):
        yield int(numbers[0]) / int(numbers[1])


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
