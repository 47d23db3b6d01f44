"""A replica: the actor that holds one copy of a model and answers shards."""

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from moe_ray.config.schema import DecodingConfig, ModelConfig
from moe_ray.engines.base import (
    BatchLimits,
    Engine,
    GenerateRequest,
    Generation,
    Likelihood,
    LikelihoodRequest,
    move_trace,
)
from moe_ray.execution import gpus
from moe_ray.execution import gpus as processes
from moe_ray.execution.node_agent import ReplicaMetrics
from moe_ray.planning.cells import Cell, Shard
from moe_ray.prompts.reasoning import splitter_of
from moe_ray.store.answers import Answer, to_table
from moe_ray.store.records import ProbeTiming

_SEED_BITS = 63


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
    """A model is ready."""

    load_s: float
    usage: Usage


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
        self._splitter = splitter_of(spec.model)
        os.environ["OMP_NUM_THREADS"] = str(spec.cpu_threads)
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        os.environ.update(spec.environment)
        if not spec.uses_gpu:
            # An actor with num_gpus=0 sees every GPU of its node unless it is told otherwise.
            os.environ["CUDA_VISIBLE_DEVICES"] = ""

    def place(self) -> ReplicaPlace:
        """Discover where this actor runs."""
        import ray

        context = ray.get_runtime_context()
        ids = tuple(str(gpu) for gpu in context.get_accelerator_ids().get("GPU", ()))
        self._uuids = tuple(gpus.uuids_of(ids))
        return ReplicaPlace(
            pid=os.getpid(),
            gpu_ids=ids,
            gpu_uuids=self._uuids,
            cuda_visible_devices=os.environ.get("CUDA_VISIBLE_DEVICES"),
            gpu_bytes=gpus.used_bytes(self._uuids) if self._uuids else None,
            energy_j=gpus.energy_j(self._uuids) if self._uuids else None,
        )

    def load(self) -> Loaded:
        """Load the model. Raises `ModelError` when it cannot be."""
        from moe_ray.engines.registry import make_engine

        started = time.perf_counter()
        self._engine = make_engine(self._spec.model, self._spec.limits)
        return Loaded(load_s=time.perf_counter() - started, usage=self._usage())

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
        engine = self._loaded()
        if shard.cells[0].kind == "generate":
            generations = engine.generate([self._generate_request(cell) for cell in shard.cells])
            return [self._generated(cell, shard, out) for cell, out in zip(shard.cells, generations, strict=True)]
        requests = [LikelihoodRequest(id=cell.example_id, prompt=cell.prompt) for cell in shard.cells]
        likelihoods = engine.loglikelihoods(requests)
        return [self._measured(cell, shard, out) for cell, out in zip(shard.cells, likelihoods, strict=True)]

    def _generate_request(self, cell: Cell) -> GenerateRequest:
        return GenerateRequest(
            id=cell.example_id,
            prompt=cell.prompt,
            max_new_tokens=cell.max_new_tokens,
            temperature=self._spec.decoding.temperature,
            top_p=self._spec.decoding.top_p,
            # The key holds the seed and the sample's number, so each sample draws another text, the same every time.
            seed=int(cell.key, 16) % (1 << _SEED_BITS),
        )

    def _probe_one(self, cell: Cell) -> ProbeTiming:
        (out,) = self._loaded().generate([self._generate_request(cell)])
        return ProbeTiming(
            example_id=cell.example_id,
            num_prompt_tokens=out.num_prompt_tokens,
            num_completion_tokens=out.num_completion_tokens,
            time_to_first_token_s=out.timing.time_to_first_token_s,
            total_s=out.timing.total_s,
        )

    def _generated(self, cell: Cell, shard: Shard, out: Generation) -> Answer:
        decoding = self._spec.decoding
        settings = {
            "max_new_tokens": cell.max_new_tokens,
            "temperature": decoding.temperature,
            "top_p": decoding.top_p,
            "seed": decoding.seed,
            "stop": list(cell.prompt.stop),
        }
        failed = out.finish_reason == "error"
        out = move_trace(out, self._splitter, opened=self._opens_a_trace(cell))
        return self._row(
            cell,
            shard,
            out,
            settings,
            text=None if failed else out.text,
            reasoning=None if failed else out.reasoning,
            token_ids=None if failed or out.num_counted_tokens is not None else list(out.token_ids),
            finish_reason=out.finish_reason,
            num_completion_tokens=out.num_completion_tokens,
            num_reasoning_tokens=None if failed else out.num_reasoning_tokens,
        )

    def _opens_a_trace(self, cell: Cell) -> bool:
        """Say whether a completion's text ends inside a trace; of a chat's prompt only the engine knows the text."""
        text = "".join(message.content for message in cell.prompt.messages)
        return self._spec.model.prompt_style == "completion" and self._splitter.is_opened_by(text)

    def _measured(self, cell: Cell, shard: Shard, out: Likelihood) -> Answer:
        settings: dict[str, object] = {"continuations": list(cell.prompt.continuations)}
        return self._row(
            cell,
            shard,
            out,
            settings,
            finish_reason="error" if out.error else "stop",
            loglikelihoods=None if out.error else list(out.loglikelihoods),
            loglikelihood_tokens=None if out.error else list(out.num_tokens),
        )

    def _row(
        self, cell: Cell, shard: Shard, out: Generation | Likelihood, settings: dict[str, object], **content: object
    ) -> Answer:
        messages = [{"role": message.role, "content": message.content} for message in cell.prompt.messages]
        columns: dict[str, object] = {
            "text": None,
            "token_ids": None,
            "num_completion_tokens": 0,
            "loglikelihoods": None,
            "loglikelihood_tokens": None,
            **content,
        }
        return Answer(
            key=cell.key,
            kind=cell.kind,
            model=cell.model,
            domain=cell.domain,
            example_id=cell.example_id,
            sample_index=cell.sample_index,
            messages=json.dumps(messages, ensure_ascii=False),
            settings=json.dumps({"prompt_style": self._spec.model.prompt_style, **settings}, ensure_ascii=False),
            num_prompt_tokens=out.num_prompt_tokens,
            num_truncated_tokens=out.num_truncated_tokens,
            error=out.error,
            batch_rows=out.timing.batch_rows,
            time_to_first_token_s=out.timing.time_to_first_token_s,
            total_s=out.timing.total_s,
            replica=self._spec.replica,
            shard=shard.id,
            finished_at=time.time(),
            **columns,  # type: ignore[arg-type]
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
