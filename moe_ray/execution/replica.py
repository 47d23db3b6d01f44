"""A replica: the actor that holds one copy of a model and answers shards."""

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from moe_ray.config.schema import DecodingConfig, ModelConfig
from moe_ray.engines.base import BatchLimits, Engine
from moe_ray.execution import gpus
from moe_ray.execution import gpus as processes
from moe_ray.execution.node_agent import ReplicaMetrics
from moe_ray.planning.cells import Cell, Shard
from moe_ray.planning.kinds import GENERATE, KINDS, CellKind, CellResult
from moe_ray.store.answers import Answer, to_table
from moe_ray.store.records import ProbeTiming


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaSpec:
    """All that a replica is made from. `environment` brings secrets along; it is set there, and never written."""

    replica: str
    model_name: str
    model: ModelConfig
    decoding: DecodingConfig
    limits: BatchLimits
    cpu_threads: int
    uses_gpu: bool
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaPlace:
    """Where a replica found itself. GPU ids are as Ray assigned them; UUIDs are NVML's, empty without real GPUs."""

    node: str
    pid: int
    gpu_ids: tuple[str, ...]
    gpu_uuids: tuple[str, ...]
    cuda_visible_devices: str | None
    gpu_bytes: int | None
    energy_j: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Memory and energy so far. Bytes; None where the device cannot say."""

    device: str
    weights_bytes: int | None
    peak_resident_bytes: int
    peak_torch_bytes: int | None
    gpu_process_bytes: int | None
    gpu_device_bytes: int | None
    energy_j: float | None
    batching: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A model is ready. `notice` is a sentence for the user on where its checkpoint was read from, if there is news."""

    load_s: float
    usage: Usage
    notice: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardResult:
    """A shard's answers as rows of `ANSWER_SCHEMA`, and what it took."""

    table: pa.Table
    busy_s: float
    num_prompt_tokens: int
    num_completion_tokens: int
    usage: Usage


class Replica:
    """Starts in two phases: the constructor only takes its place; `load` loads the model there."""

    def __init__(self, spec: ReplicaSpec) -> None:
        self._spec = spec
        self._engine: Engine | None = None
        self._uuids: tuple[str, ...] = ()
        self._metrics = ReplicaMetrics(spec.model_name, spec.replica)
        os.environ["OMP_NUM_THREADS"] = str(spec.cpu_threads)
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        os.environ.update(spec.environment)
        if not spec.uses_gpu:
            # An actor with num_gpus=0 sees every GPU of its node unless CUDA_VISIBLE_DEVICES hides them.
            os.environ["CUDA_VISIBLE_DEVICES"] = ""

    def place(self) -> ReplicaPlace:
        """Discover where this actor runs."""
        import ray

        context = ray.get_runtime_context()
        ids = tuple(str(gpu) for gpu in context.get_accelerator_ids().get("GPU", ()))
        self._uuids = tuple(gpus.uuids_of(ids))
        return ReplicaPlace(
            node=context.get_node_id(),
            pid=os.getpid(),
            gpu_ids=ids,
            gpu_uuids=self._uuids,
            cuda_visible_devices=os.environ.get("CUDA_VISIBLE_DEVICES"),
            gpu_bytes=gpus.used_bytes(self._uuids) if self._uuids else None,
            energy_j=gpus.energy_j(self._uuids) if self._uuids else None,
        )

    def load(self) -> Loaded:
        """Load the model. Raises `ModelError` when it cannot be."""
        from moe_ray.checkpoints.staging import named_by_source, stage_model
        from moe_ray.engines.registry import make_engine

        started = time.perf_counter()
        staged = stage_model(self._spec.model)
        with named_by_source(self._spec.model, staged.model):
            self._engine = make_engine(staged.model, self._spec.limits)
        return Loaded(load_s=time.perf_counter() - started, usage=self._usage(), notice=staged.notice)

    def run(self, shard: Shard) -> ShardResult:
        """Answer every cell of `shard`."""
        started = time.perf_counter()
        answers = self._answer(shard)
        busy_s = time.perf_counter() - started
        result = ShardResult(
            table=to_table(answers),
            busy_s=busy_s,
            num_prompt_tokens=sum(answer.num_prompt_tokens for answer in answers),
            num_completion_tokens=sum(answer.num_completion_tokens for answer in answers),
            usage=self._usage(),
        )
        self._metrics.shard_done(answers, busy_s, result.usage.peak_resident_bytes, result.usage.gpu_device_bytes)
        return result

    def probe(self, cells: Sequence[Cell]) -> list[ProbeTiming]:
        """Answer `cells` one at a time: the latency that a single user would see."""
        return [self._probe_one(cell) for cell in cells]

    def close(self) -> Usage:
        """Let the engine go, and say what was used at the peak."""
        usage = self._usage()
        self._loaded().close()
        return usage

    def _loaded(self) -> Engine:
        if self._engine is None:
            raise RuntimeError("load() comes before any work")
        return self._engine

    def _answer(self, shard: Shard) -> list[Answer]:
        kind = KINDS[shard.cells[0].kind]
        results = kind.ask(self._loaded(), [kind.request(cell, self._spec.decoding) for cell in shard.cells])
        return [self._row(kind, cell, shard, result) for cell, result in zip(shard.cells, results, strict=True)]

    def _probe_one(self, cell: Cell) -> ProbeTiming:
        (out,) = GENERATE.ask(self._loaded(), [GENERATE.request(cell, self._spec.decoding)])
        return ProbeTiming(
            example_id=cell.example_id,
            num_prompt_tokens=out.num_prompt_tokens,
            num_completion_tokens=out.num_completion_tokens,
            time_to_first_token_s=out.timing.time_to_first_token_s,
            total_s=out.timing.total_s,
        )

    def _row(self, kind: CellKind[Any, Any], cell: Cell, shard: Shard, result: CellResult) -> Answer:
        model = self._spec.model
        messages = [{"role": message.role, "content": message.content} for message in cell.prompt.messages]
        settings = kind.settings(cell.prompt, self._spec.decoding, cell.max_new_tokens)
        return Answer(
            key=cell.key,
            kind=cell.kind,
            model=cell.model,
            domain=cell.domain,
            example_id=cell.example_id,
            sample_index=cell.sample_index,
            messages=json.dumps(messages, ensure_ascii=False),
            settings=json.dumps({"prompt_style": model.prompt_style, **settings}, ensure_ascii=False),
            num_prompt_tokens=result.num_prompt_tokens,
            num_truncated_tokens=result.num_truncated_tokens,
            error=result.error,
            batch_rows=result.timing.batch_rows,
            time_to_first_token_s=result.timing.time_to_first_token_s,
            total_s=result.timing.total_s,
            replica=self._spec.replica,
            shard=shard.id,
            finished_at=time.time(),
            **kind.row(cell, result, model),
        )

    def _usage(self) -> Usage:
        memory = self._loaded().memory()
        pids = (os.getpid(), *memory.process_ids)
        return Usage(
            device=memory.device,
            weights_bytes=memory.weights_bytes,
            batching=memory.batching,
            peak_resident_bytes=sum(map(processes.peak_resident_bytes, pids)),
            peak_torch_bytes=memory.peak_torch_bytes,
            gpu_process_bytes=gpus.process_bytes(pids, self._uuids) if self._uuids else None,
            gpu_device_bytes=gpus.used_bytes(self._uuids) if self._uuids else None,
            energy_j=gpus.energy_j(self._uuids) if self._uuids else None,
        )
