"""Whole runs in this process, without Ray: for tests of what is stored, graded and reported, not of who computes it."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from moe_ray.config.load import LoadedExperiment
from moe_ray.engines.base import BatchLimits
from moe_ray.execution import replica as replicas
from moe_ray.execution.replica import Replica, ReplicaSpec
from moe_ray.planning.cells import Cell, Shard
from moe_ray.planning.scheduler import Abandoned
from moe_ray.runs import evaluate as pipeline
from moe_ray.runs.manifest import RunRecord
from moe_ray.runs.work import Prepared
from moe_ray.store.records import ReplicaTelemetry
from tests.execution.experiments import Recorder


class NoMetrics:
    """Stands for Ray's counters."""

    def __init__(self, model: str, replica: str) -> None: ...

    def shard_done(self, *figures: object) -> None: ...


@dataclass
class Inline:
    """Runs experiments, and keeps the cells that were computed, in their order.

    `stop_after` ends a run as a kill would, once so many shards are committed; models in `broken` never load.
    """

    computed: list[Cell] = field(default_factory=list)
    stop_after: int | None = None
    broken: set[str] = field(default_factory=set)

    def evaluate(self, experiment: LoadedExperiment, *, only: str | None = None) -> pipeline.Outcome:
        """Run or resume `experiment`; returns its outcome."""
        return pipeline.evaluate(experiment, Recorder(), only=only)

    def fill(self, prepared: Prepared, record: RunRecord, *_: object) -> list[Abandoned]:
        abandoned: list[Abandoned] = []
        by_model: dict[str, list[Shard]] = {}
        for shard in prepared.work.shards:
            by_model.setdefault(shard.model, []).append(shard)
        for model, shards in by_model.items():
            if model in self.broken:
                num_cells = sum(len(shard.cells) for shard in shards)
                abandoned.append(Abandoned(model=model, shard=None, num_cells=num_cells, reason="no such weights"))
            else:
                self._answer(prepared, record, model, shards)
        return abandoned

    def _answer(self, prepared: Prepared, run_record: RunRecord, model: str, shards: list[Shard]) -> None:
        config = prepared.inputs.config
        spec = ReplicaSpec(
            replica=f"{model}-1-{run_record.session}",
            model_name=model,
            model=config.models[model],
            decoding=config.decoding,
            limits=BatchLimits(max_rows=config.runtime.batch_size, cache_memory_bytes=1 << 30),
            cpu_threads=1,
            uses_gpu=True,
        )
        record = ReplicaTelemetry(
            replica=spec.replica,
            model=model,
            identity=prepared.checkpoints[model].identity.key,
            session=run_record.session,
            node="here",
            pid=1,
            device="cpu",
            started_at=time.time(),
        )
        replica = Replica(spec)
        record.load_s = replica.load().load_s
        for shard in shards:
            if self.stop_after is not None and not self.stop_after:
                prepared.run.write_telemetry(record)
                raise KeyboardInterrupt
            result = replica.run(shard)
            prepared.run.write_shard_table(result.table)
            self.computed += shard.cells
            record.busy_s += result.busy_s
            record.num_answers += len(shard.cells)
            record.num_completion_tokens += result.num_completion_tokens
            self.stop_after = None if self.stop_after is None else self.stop_after - 1
        record.end = "finished"
        prepared.run.write_telemetry(record)


@contextmanager
def no_ray(*_: object) -> Iterator[Callable[[], None]]:
    yield lambda: None


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> Inline:
    """Let `pipeline.evaluate` compute in this process."""
    found = Inline()
    for name, value in _ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(replicas, "ReplicaMetrics", NoMetrics)
    monkeypatch.setattr(pipeline, "joining", no_ray)
    monkeypatch.setattr(pipeline, "_fill_cells", found.fill)
    return found


# A replica sets these for its process.
_ENVIRONMENT: Mapping[str, str] = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
