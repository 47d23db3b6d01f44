"""Seconds of trainings, kept in a file: a command that is given again knows what earlier ones took."""

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from moe_ray.files import write_text_atomically
from moe_ray.moe.btx.training import ExpertTrainingJob, train
from moe_ray.progress import TrainingProgress


class Clock:
    """Adds up wall seconds by the checkpoint below `folder` that is trained. What was done twice counts twice."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._file = folder, folder / "seconds.json"
        self._seconds: dict[str, float] = {}
        if self._file.is_file():
            self._seconds = json.loads(self._file.read_text(encoding="utf-8"))
        self._last = time.perf_counter()

    def start(self) -> None:
        self._last = time.perf_counter()

    def lap(self, trained: Path) -> None:
        """Count the time since the last `start` or `lap` as this checkpoint's."""
        name = str(trained.relative_to(self._folder))
        self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - self._last
        write_text_atomically(self._file, json.dumps(self._seconds, indent=1) + "\n")
        self.start()

    def seconds(self, trained: Path) -> float:
        return self._seconds[str(trained.relative_to(self._folder))]

    def run(self, jobs: Sequence[ExpertTrainingJob]) -> Iterator[TrainingProgress]:
        """Train one after the other, and time each."""
        for job in jobs:
            self.start()
            for step in train(job):
                self.lap(job.out_dir)
                yield step
                self.start()
