"""The end of a job's time: by the clock, because SLURM's signals come up to a minute early, or not at all."""

import os
import re
import subprocess
import time
from collections.abc import Callable, Mapping

from moe_ray.clusters.slurm.life import scheduler_id

QUERY_TIMEOUT_S = 10.0
QUERY_EVERY_S = 60.0
# A run that is interrupted ends its shards and writes its files; a short job keeps most of its time for work.
SAVE_MARGIN_S = 90.0
MAX_MARGIN_SHARE = 0.25
SAVE_SHARE = 0.6

_TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<clock>\d+(?::\d+){0,2})$")


def seconds_of(text: str) -> float | None:
    """Return a duration that SLURM prints or takes, in seconds; None for UNLIMITED and for what is not one.

    "30" is minutes, "MM:SS", "HH:MM:SS", "D-HH", "D-HH:MM", "D-HH:MM:SS".
    """
    found = _TIME.match(text.strip())
    if found is None:
        return None
    parts = [int(part) for part in found["clock"].split(":")]
    if found["days"] is not None:
        hours, minutes, seconds = (*parts, 0, 0)[:3]
    elif len(parts) == 1:
        hours, minutes, seconds = 0, parts[0], 0
    else:
        hours, minutes, seconds = (*(0,) * (3 - len(parts)), *parts)
    return ((int(found["days"] or 0) * 24 + hours) * 60 + minutes) * 60.0 + seconds


def seconds_left(environment: Mapping[str, str]) -> float | None:
    """Return the time that the job has left as its environment says; None without a limit.

    Where `squeue` gave no answer, it is the length of the job: the job has just started.
    """
    left = seconds_of(environment.get("MOE_RAY_TIME_LEFT", ""))
    if left is not None:
        return left
    start, end = (environment.get(f"SLURM_JOB_{name}_TIME", "") for name in ("START", "END"))
    # Both moments are the controller's: this node's clock may be wrong.
    return float(end) - float(start) if start.isdigit() and end.isdigit() else None


def query_seconds_left(job_id: str) -> float | None:
    """Ask SLURM for the time that the job has left, which an administrator may have changed; None without an answer.

    A duration instead of a moment: the clocks of the nodes may differ.
    """
    try:
        done = subprocess.run(
            ["squeue", "-h", "-j", job_id, "-o", "%L"],
            capture_output=True, text=True, timeout=QUERY_TIMEOUT_S, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return seconds_of(done.stdout) if done.returncode == 0 else None


class Deadline:
    """The moment at which the run must be interrupted so that it saves in time."""

    def __init__(
        self,
        left_s: float | None,
        query: Callable[[], float | None],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._query = query
        self._now = now
        self._asked_at = now()
        self._end = None if left_s is None else now() + left_s
        self._margin_s = SAVE_MARGIN_S if left_s is None else min(SAVE_MARGIN_S, MAX_MARGIN_SHARE * left_s)

    @classmethod
    def of_environment(cls) -> "Deadline":
        """Return the deadline of the job that this process belongs to."""
        job_id = scheduler_id(os.environ)
        return cls(seconds_left(os.environ), lambda: query_seconds_left(job_id))

    @property
    def save_timeout_s(self) -> float:
        """How long the run may take to save, so that the job still ends by itself."""
        return SAVE_SHARE * self._margin_s

    def is_near(self) -> bool:
        """Say whether the run must end. Asks SLURM for the time left each minute."""
        if self._now() - self._asked_at >= QUERY_EVERY_S:
            self._asked_at = self._now()
            left_s = self._query()
            if left_s is not None:
                self._end = self._now() + left_s
        return self._end is not None and self._now() >= self._end - self._margin_s

    def explains_signal(self) -> bool:
        """Say whether a warning signal of SLURM, which may come a minute early, can mean this deadline."""
        return self._end is not None and self._now() >= self._end - SAVE_MARGIN_S - QUERY_EVERY_S - 30
