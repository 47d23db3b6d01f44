"""Cost of models: latency over all answers, throughput, memory, energy. Percentiles are never averaged."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from moe_ray.arrays import FloatArray, IntArray
from moe_ray.comparison.columns import coded
from moe_ray.comparison.records import (
    LatencyDistribution,
    LatencyQuantity,
    MemoryKind,
    ModelResources,
    PeakMemory,
    ProbeSummary,
    Spread,
)
from moe_ray.store.records import ProbeTiming, ReplicaTelemetry

CLIENT_DEVICE = "endpoint"  # a replica that asks an endpoint: its process holds no model
BINS_PER_DECADE = 20
LOWEST_BIN = -6 * BINS_PER_DECADE
TIMING_COLUMNS = (
    "model",
    "domain",
    "example_id",
    "kind",
    "finish_reason",
    "batch_rows",
    "time_to_first_token_s",
    "total_s",
)
MEASURED_COLUMNS = ["kind", "finish_reason", "batch_rows", "time_to_first_token_s", "total_s"]


def model_resources(
    models: Sequence[str], telemetry: Sequence[ReplicaTelemetry], answers: pa.Table
) -> dict[str, ModelResources]:
    """The cost of each of `models` that was ever started or answered anything."""
    replicas: dict[str, list[ReplicaTelemetry]] = defaultdict(list)
    for record in telemetry:
        replicas[record.model].append(record)
    answered = set(pc.unique(answers.column("model")).to_pylist())
    measured = answers.select(MEASURED_COLUMNS)
    return {
        model: _resources(replicas[model], measured.filter(pc.equal(answers.column("model"), model)))
        for model in models
        if model in answered or replicas[model]
    }


def _resources(replicas: Sequence[ReplicaTelemetry], answers: pa.Table) -> ModelResources:
    busy_s = math.fsum(replica.busy_s for replica in replicas)
    num_answers = sum(replica.num_answers for replica in replicas)
    num_tokens = sum(replica.num_completion_tokens for replica in replicas)
    energies = [replica.gpu_energy_j for replica in replicas if replica.gpu_energy_j is not None]
    rows = _floats(answers, "batch_rows")
    return ModelResources(
        num_replicas=len(replicas),
        num_replicas_lost=sum(replica.end in ("lost", "failed_to_start") for replica in replicas),
        devices=sorted({replica.device for replica in replicas}),
        num_answers=num_answers,
        num_completion_tokens=num_tokens,
        busy_s=busy_s,
        completion_tokens_per_busy_s=num_tokens / busy_s if busy_s and num_tokens else None,
        answers_per_busy_s=num_answers / busy_s if busy_s and num_answers else None,
        batch_rows_median=float(np.median(rows)) if len(rows) else None,
        load_s=spread(replica.load_s for replica in replicas),
        unload_s=spread(replica.unload_s for replica in replicas),
        peak_memory=_peak_memory(replicas),
        gpu_energy_j=math.fsum(energies) if energies else None,
        num_replicas_with_energy=len(energies),
        latency=_latencies(answers),
        probe=_probe([timing for replica in replicas for timing in replica.probe]),
    )


def spread(values: Iterable[float | None]) -> Spread | None:
    """Minimum, median and maximum of what was measured; None when nothing was."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    return Spread(n=len(known), minimum=min(known), median=float(np.median(known)), maximum=max(known))


def _peak_memory(replicas: Sequence[ReplicaTelemetry]) -> PeakMemory:
    kept = (
        replica.gpu_bytes_after_unload - replica.gpu_bytes_before_load
        for replica in replicas
        if replica.gpu_bytes_after_unload is not None and replica.gpu_bytes_before_load is not None
    )
    holders = [replica for replica in replicas if replica.device != CLIENT_DEVICE]
    clients = [replica for replica in replicas if replica.device == CLIENT_DEVICE]
    return PeakMemory(
        weights_bytes=_largest(replica.weights_bytes for replica in replicas),
        resident_bytes=_largest(replica.peak_resident_bytes for replica in holders),
        client_bytes=_largest(replica.peak_resident_bytes for replica in clients),
        torch_bytes=_largest(replica.peak_torch_bytes for replica in replicas),
        gpu_process_bytes=_largest(replica.peak_gpu_process_bytes for replica in replicas),
        gpu_device_bytes=_largest(replica.peak_gpu_device_bytes for replica in replicas),
        gpu_not_returned_bytes=_largest(kept),
    )


def _largest(values: Iterable[int | None]) -> int | None:
    return max((value for value in values if value is not None), default=None)


def held_memory(memory: PeakMemory) -> tuple[int, MemoryKind] | None:
    """The figure that says best what a model holds: its process on the GPU, torch's peak, then the resident set."""
    kinds: tuple[tuple[int | None, MemoryKind], ...] = (
        (memory.gpu_process_bytes, "gpu_process"),
        (memory.torch_bytes, "torch"),
        (memory.resident_bytes, "resident"),
    )
    return next(((size, kind) for size, kind in kinds if size is not None), None)


def _latencies(answers: pa.Table) -> list[LatencyDistribution]:
    good = answers.filter((pc.field("kind") == "generate") & (pc.field("finish_reason") != "error"))
    quantities: tuple[LatencyQuantity, ...] = ("total_s", "time_to_first_token_s")
    found = (latency_distribution(quantity, _floats(good, quantity)) for quantity in quantities)
    return [distribution for distribution in found if distribution is not None]


def latency_distribution(quantity: LatencyQuantity, seconds: FloatArray) -> LatencyDistribution | None:
    """Exact percentiles (each an observed time) and log-spaced counts of `seconds` [n]; NaN means not measured."""
    known = seconds[~np.isnan(seconds)]
    if len(known) == 0:
        return None
    p50, p90, p99 = np.quantile(known, [0.5, 0.9, 0.99], method="inverted_cdf").tolist()
    return LatencyDistribution(
        quantity=quantity,
        n=len(known),
        p50_s=p50,
        p90_s=p90,
        p99_s=p99,
        maximum_s=float(known.max()),
        histogram=log_histogram(known),
    )


def log_histogram(seconds: FloatArray) -> dict[int, int]:
    """Counts by bin k: 10^(k/20) s <= time < 10^((k+1)/20) s; what is below a microsecond is in bin -120."""
    floor = 10.0 ** (LOWEST_BIN / BINS_PER_DECADE)
    bins = np.floor(np.log10(np.maximum(seconds, floor)) * BINS_PER_DECADE).astype(np.int64)
    found, counts = np.unique(bins, return_counts=True)
    return dict(zip(found.tolist(), counts.tolist(), strict=True))


def _probe(timings: Sequence[ProbeTiming]) -> ProbeSummary | None:
    total_s = spread(timing.total_s for timing in timings)
    if total_s is None:
        return None
    num_tokens = sum(timing.num_completion_tokens for timing in timings)
    seconds = math.fsum(timing.total_s for timing in timings)
    return ProbeSummary(
        total_s=total_s,
        time_to_first_token_s=spread(timing.time_to_first_token_s for timing in timings),
        completion_tokens_per_s=num_tokens / seconds if seconds and num_tokens else None,
    )


def busy_seconds(
    answers: pa.Table, resources: Mapping[str, ModelResources], example_ids: Mapping[str, Sequence[str]]
) -> dict[tuple[str, str], FloatArray]:
    """(model, domain) -> seconds of busy slot time [n] of each of the domain's `example_ids`; NaN without an answer.

    A model's busy time is divided over its answers in proportion to the time of their batch divided by its rows, so
    that the shares of all its answers add up to it.
    """
    share = _floats(answers, "total_s") / np.maximum(_floats(answers, "batch_rows"), 1)
    models, domains = (coded(answers.column(name)) for name in ("model", "domain"))
    result: dict[tuple[str, str], FloatArray] = {}
    for model, of_model in models.groups(np.arange(answers.num_rows)):
        total = math.fsum(share[of_model].tolist())
        for domain, rows in domains.groups(of_model):
            if model in resources and domain in example_ids:
                scale = resources[model].busy_s / total if total else 0.0
                result[model, domain] = _sums(answers.take(rows), share[rows] * scale, example_ids[domain])
    return result


def batch_codes(answers: pa.Table, example_ids: Mapping[str, Sequence[str]]) -> dict[tuple[str, str], IntArray]:
    """(model, domain) -> the batch [n] of each of the domain's `example_ids`, as a number; -1 without an answer.

    Answers of one batch share its time and its size. An example of several answers counts with the last of them.
    """
    keys = np.stack([_floats(answers, "total_s"), _floats(answers, "batch_rows")], axis=1)
    models, domains = (coded(answers.column(name)) for name in ("model", "domain"))
    found: dict[tuple[str, str], IntArray] = {}
    for model, of_model in models.groups(np.arange(answers.num_rows)):
        for domain, rows in domains.groups(of_model):
            if domain in example_ids:
                _, codes = np.unique(keys[rows], axis=0, return_inverse=True)
                part = answers.take(rows).append_column("batch", pa.array(codes.reshape(-1)))
                last = part.group_by("example_id").aggregate([("batch", "max")])
                places = pc.index_in(pa.array(example_ids[domain], pa.string()), last.column("example_id"))
                found[model, domain] = last.column("batch_max").take(places).fill_null(-1).to_numpy().astype(np.intp)
    return found


def _sums(answers: pa.Table, values: FloatArray, example_ids: Sequence[str]) -> FloatArray:
    """Sums of the `values` of each example's answers, added in an order that follows from the answers alone."""
    ordered = answers.append_column("value", pa.array(values)).sort_by([(name, "ascending") for name in TIMING_COLUMNS])
    places = pc.index_in(ordered.column("example_id"), pa.array(example_ids, pa.string()))
    is_known = places.is_valid().to_numpy()
    known, num = places.drop_null().to_numpy(), len(example_ids)
    sums = np.bincount(known, weights=ordered.column("value").to_numpy()[is_known], minlength=num)
    return np.where(np.bincount(known, minlength=num) > 0, sums, np.nan)


def _floats(answers: pa.Table, name: str) -> FloatArray:
    """A numeric column [n] with NaN for null."""
    floats: FloatArray = answers.column(name).cast(pa.float64()).to_numpy()
    return floats
