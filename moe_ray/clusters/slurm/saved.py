"""How far the work in a run directory is, so that one life of a job can be compared with the next."""

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from moe_ray.clusters.job_commands import is_on_experiment
from moe_ray.clusters.slurm.life import FOLDER
from moe_ray.formatting import plural

NS_PER_S = 1_000_000_000


class SavedWork(NamedTuple):
    """The answers of `evaluate`; for other commands, the time of the newest file in ns. A larger amount is progress."""

    amount: int
    words: str


def saved_work(run: Path, command: Sequence[str]) -> SavedWork:
    """Return what a command has saved in the run directory."""
    if command[0] == "evaluate":
        from moe_ray.store.run_directory import RunDirectory

        num_answers = len(RunDirectory(run).done_keys()) if (run / "answers").is_dir() else 0
        return SavedWork(num_answers, plural(num_answers, "answer"))
    # `router train` writes its records before it trains.
    newest_ns = max(_times_ns(run / "routers" if is_on_experiment(command) else run), default=0)
    newest = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(newest_ns // NS_PER_S))
    return SavedWork(newest_ns, f"files of {newest}" if newest_ns else "no files")


def _times_ns(folder: Path) -> Iterator[int]:
    """Yield when each file was written. The job's own files are no work; neither are files directly in the folder."""
    for place, folders, names in os.walk(folder):
        if Path(place) == folder:
            folders[:] = [name for name in folders if name != FOLDER]
            continue
        for name in names:
            try:
                yield (Path(place) / name).stat().st_mtime_ns
            except FileNotFoundError:
                continue
