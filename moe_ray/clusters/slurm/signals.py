"""The signals by which SLURM ends an agent, recorded and acted on between two waits."""

import signal
from types import FrameType
from typing import Self


class Signals:
    """Records SIGTERM and SIGINT of this process: the job is cancelled, preempted or out of time."""

    def __init__(self) -> None:
        self.must_end = False

    @classmethod
    def recorded(cls) -> Self:
        """Install the handlers."""
        signals = cls()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signals._record)
        return signals

    def _record(self, _number: int, _frame: FrameType | None) -> None:
        self.must_end = True
