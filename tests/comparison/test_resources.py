"""What models cost: percentiles are of the union, figures that nobody measured stay unknown."""

import math
import random
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from moe_ray.comparison.resources import (
    BINS_PER_DECADE,
    TIMING_COLUMNS,
    batch_codes,
    busy_seconds,
    held_memory,
    latency_distribution,
    log_histogram,
    model_resources,
)
from moe_ray.store.records import ReplicaTelemetry


def replica(name: str, **figures: object) -> ReplicaTelemetry:
    common = {"replica": name, "model": "m", "session": "s", "node": "n", "pid": 1, "device": "cpu", "started_at": 0.0}
    return ReplicaTelemetry.model_validate(common | figures)


def answers(total_s: list[float], *, kind: str = "generate", finish_reason: str = "stop") -> pa.Table:
    num = len(total_s)
    return pa.table(
        {
            "model": ["m"] * num,
            "domain": ["d"] * num,
            "example_id": [str(at) for at in range(num)],
            "kind": [kind] * num,
            "finish_reason": [finish_reason] * num,
            "batch_rows": pa.array([2] * num, pa.int32()),
            "time_to_first_token_s": pa.array([None] * num, pa.float64()),
            "total_s": pa.array(total_s, pa.float64()),
        }
    )


def test_percentiles_are_observed_times_of_the_union() -> None:
    times = list(range(1, 101))
    found = latency_distribution("total_s", np.array(times, dtype=np.float64))
    assert found is not None
    assert (found.p50_s, found.p90_s, found.p99_s, found.maximum_s, found.n) == (50, 90, 99, 100, 100)


def test_histograms_of_parts_add_up_to_the_histogram_of_all() -> None:
    times = np.random.default_rng(0).lognormal(0, 2, 1000)
    parts = [log_histogram(part) for part in np.array_split(times, [100, 450])]
    assert sum((Counter(part) for part in parts), Counter()) == log_histogram(times)


def test_a_histograms_bins_hold_the_times_that_their_bounds_say() -> None:
    times = np.random.default_rng(1).lognormal(0, 1, 200)
    for at, count in log_histogram(times).items():
        low, high = 10 ** (at / BINS_PER_DECADE), 10 ** ((at + 1) / BINS_PER_DECADE)
        assert count == ((times >= low) & (times < high)).sum()


def test_errors_and_likelihoods_are_no_latencies() -> None:
    table = pa.concat_tables(
        [answers([1.0]), answers([50.0], finish_reason="error"), answers([70.0], kind="likelihood")]
    )
    (found,) = model_resources(["m"], [], table)["m"].latency
    assert (found.n, found.maximum_s, found.quantity) == (1, 1.0, "total_s")


def test_figures_that_no_replica_could_give_are_unknown_and_not_zero() -> None:
    found = model_resources(["m"], [replica("a"), replica("b")], answers([]))["m"]
    assert found.gpu_energy_j is None
    assert found.load_s is None
    assert found.completion_tokens_per_busy_s is None
    assert set(found.peak_memory.model_dump().values()) == {None}


def test_replicas_add_up_in_time_and_energy_and_peak_in_memory() -> None:
    replicas = [
        replica("a", busy_s=2.0, num_completion_tokens=100, peak_torch_bytes=5, gpu_energy_j=10.0, load_s=3.0),
        replica("b", busy_s=3.0, num_completion_tokens=400, peak_torch_bytes=7, load_s=1.0, end="lost"),
    ]
    found = model_resources(["m", "other"], replicas, answers([1.0]))
    model = found["m"]
    assert list(found) == ["m"]
    assert model.completion_tokens_per_busy_s == 100.0
    assert (model.peak_memory.torch_bytes, model.gpu_energy_j, model.num_replicas_with_energy) == (7, 10.0, 1)
    assert (model.num_replicas, model.num_replicas_lost) == (2, 1)
    assert model.load_s is not None
    assert (model.load_s.minimum, model.load_s.median, model.load_s.maximum) == (1.0, 2.0, 3.0)


def test_the_probe_is_kept_apart_from_latency_in_batches() -> None:
    timing = {"example_id": "1", "num_prompt_tokens": 5, "num_completion_tokens": 10, "time_to_first_token_s": None}
    probed = replica("a", probe=[timing | {"total_s": 0.5}, timing | {"total_s": 1.5, "example_id": "2"}])
    found = model_resources(["m"], [probed], answers([9.0]))["m"]
    assert found.probe is not None
    assert found.probe.total_s.median == 1.0
    assert found.probe.completion_tokens_per_s == pytest.approx(10.0)
    assert found.probe.time_to_first_token_s is None
    assert math.isclose(found.latency[0].p50_s, 9.0)


def plain_busy_seconds(rows: list[dict[str, Any]], model: str, domain: str, busy_s: float) -> dict[str, float]:
    """Example id -> its share of `busy_s`, added row by row in the order of the rows' content."""
    mine = [row for row in rows if row["model"] == model]
    share = [row["total_s"] / row["batch_rows"] for row in mine]
    scale = busy_s / math.fsum(share)
    found: dict[str, float] = {}
    for row in sorted(mine, key=lambda row: [(row[name] is None, row[name]) for name in TIMING_COLUMNS]):
        if row["domain"] == domain:
            spent = row["total_s"] / row["batch_rows"] * scale
            found[row["example_id"]] = found.get(row["example_id"], 0.0) + spent
    return found


@pytest.mark.parametrize("seed", range(3))
def test_busy_time_is_divided_as_a_plain_loop_does_it_to_the_last_bit_in_any_order_of_rows(seed: int) -> None:
    rng = random.Random(seed)
    names = [f"e{at}" for at in range(9)]
    rows: list[dict[str, Any]] = [
        {
            "model": rng.choice("ab"),
            "domain": rng.choice("xy"),
            "example_id": rng.choice(names),
            "kind": rng.choice(("generate", "likelihood")),
            "finish_reason": rng.choice(("stop", "length", "error")),
            "batch_rows": rng.choice((1, 2, 8)),
            "time_to_first_token_s": rng.choice((None, 0.1, 0.25)),
            "total_s": rng.lognormvariate(0, 2),
        }
        for _ in range(300)
    ]
    replicas = [replica("r", model=model, busy_s=busy_s) for model, busy_s in (("a", 7.0), ("b", 0.3))]
    ids = {"x": names[1:], "y": [*names, "never answered"]}
    for _ in range(3):
        rng.shuffle(rows)
        table = pa.Table.from_pylist(rows)
        found = busy_seconds(table, model_resources(["a", "b"], replicas, table), ids)
        assert sorted(found) == [(model, domain) for model in "ab" for domain in "xy"]
        for (model, domain), seconds in found.items():
            plain = plain_busy_seconds(rows, model, domain, {"a": 7.0, "b": 0.3}[model])
            expected = [plain.get(name, math.nan) for name in ids[domain]]
            assert seconds.tobytes() == np.array(expected).tobytes()


def test_the_memory_of_an_endpoints_client_is_not_the_models() -> None:
    """Whatever the client's process holds, the model is elsewhere: no cost is computed from it."""
    found = model_resources(["m"], [replica("a", device="endpoint", peak_resident_bytes=10**9)], answers([]))["m"]
    assert (found.peak_memory.resident_bytes, found.peak_memory.client_bytes) == (None, 10**9)
    assert held_memory(found.peak_memory) is None
    local = model_resources(["m"], [replica("a", device="cpu", peak_resident_bytes=10**9)], answers([]))["m"]
    assert (local.peak_memory.resident_bytes, local.peak_memory.client_bytes) == (10**9, None)


def test_answers_of_one_batch_have_one_code() -> None:
    table = answers([1.0, 1.0, 2.0, 2.0, 1.0])
    (codes,) = batch_codes(table, {"d": ["0", "1", "2", "3", "4", "never asked"]}).values()
    assert codes[0] == codes[1] == codes[4] != codes[2] == codes[3]
    assert codes[5] == -1
