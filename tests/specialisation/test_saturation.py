"""Router saturation against closed forms and plain sets."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moe_ray.errors import UserError
from moe_ray.specialisation.measures import MeasuredValue
from moe_ray.specialisation.records import TokenTrace, Trace
from moe_ray.specialisation.saturation import measure_saturation
from moe_ray.specialisation.writing import text_at, write_trace
from tests.specialisation.planted import trace_of_tokens
from tests.support.commands import Command

NUM_EXPERTS, TOP_K, NUM_TEXTS, NUM_TOKENS, NUM_LAYERS = 8, 2, 30, 20, 2

Array = np.ndarray[Any, np.dtype[np.int16]]


def drawn(rng: np.random.Generator) -> Array:
    """Experts of one text that are drawn uniformly [T, L, K]."""
    return np.argsort(rng.random((NUM_TOKENS, NUM_LAYERS, NUM_EXPERTS)), axis=-1)[..., :TOP_K].astype(np.int16)


def trace_of(texts: list[Array]) -> Trace:
    ids = np.arange(NUM_TOKENS, dtype=np.int32)
    labels = ["ab"[at % 2] for at in range(len(texts))]
    return trace_of_tokens([TokenTrace(token_ids=ids, experts=text) for text in texts], labels, NUM_EXPERTS)


def values(traces: list[Trace], measure: str) -> list[MeasuredValue]:
    names = [f"step-{at}" for at in range(len(traces))]
    return [one for one in measure_saturation(traces, names) if one.measure == measure]


def test_a_router_that_keeps_the_first_choice_alone_is_saturated_by_closed_form() -> None:
    """The kept expert is one of K = 2; the other one is drawn among E - 1, so that it is the old one in 1 of 7."""
    rng = np.random.default_rng(1)
    last = [drawn(rng) for _ in range(NUM_TEXTS)]
    early = [text.copy() for text in last]
    for text in early:
        others = (text[..., 0] + 1 + rng.integers(NUM_EXPERTS - 1, size=text.shape[:2])) % NUM_EXPERTS
        text[..., 1] = others
        text[:] = text[..., ::-1]  # ranks do not matter
    expected = 0.5 + 0.5 / (NUM_EXPERTS - 1)
    chance = TOP_K / NUM_EXPERTS
    for one in values([trace_of(early), trace_of(last)], "corrected_saturation"):
        assert one.value is not None
        assert one.value == pytest.approx((expected - chance) / (1 - chance), abs=0.05)
        assert one.low is not None
        assert one.high is not None
        assert one.low < one.value < one.high
        assert one.null_mean == 0


def test_values_equal_plain_sets_and_the_end_of_training_is_1() -> None:
    rng = np.random.default_rng(2)
    early, last = ([drawn(rng) for _ in range(NUM_TEXTS)] for _ in range(2))
    for one in values([trace_of(early), trace_of(last)], "saturation"):
        shares = [
            len(set(a[token, one.layer]) & set(b[token, one.layer])) / TOP_K
            for a, b in zip(early, last, strict=True)
            for token in range(NUM_TOKENS)
        ]
        assert one.value == pytest.approx(np.mean(shares))
    for measure in ("saturation", "corrected_saturation"):
        assert [one.value for one in values([trace_of(last), trace_of(last)], measure)] == [1, 1]


@pytest.mark.slow
def test_independent_routers_are_at_chance_in_95_percent_of_runs() -> None:
    rng, inside = np.random.default_rng(3), 0
    for _ in range(100):
        early, last = (trace_of([drawn(rng) for _ in range(10)]) for _ in range(2))
        one = values([early, last], "corrected_saturation")[0]
        assert one.low is not None
        assert one.high is not None
        inside += one.low <= 0 <= one.high
    assert inside >= 88  # P(fewer | 95 %) = 0.1 %


def test_what_loads_alone_explain_is_in_the_null_of_shuffled_tokens() -> None:
    """All tokens use experts 0 and 1: nothing is saturated beyond the loads."""
    text = np.tile(np.array([0, 1], dtype=np.int16), (NUM_TOKENS, NUM_LAYERS, 1))
    (one, _) = values([trace_of([text] * 12), trace_of([text] * 12)], "saturation")
    assert (one.value, one.null_mean, one.excess) == (1, 1, 0)


def test_traces_that_do_not_compare_are_refused() -> None:
    rng = np.random.default_rng(4)
    whole = trace_of([drawn(rng) for _ in range(4)])
    with pytest.raises(UserError, match="saturation compares checkpoints"):
        measure_saturation([whole], ["a"])
    with pytest.raises(UserError, match="has other texts than b"):
        measure_saturation([trace_of([drawn(rng)]), whole], ["a", "b"])


def test_the_command_prints_each_checkpoint_and_refuses_a_trace_without_tokens(
    moe_ray: Command, tmp_path: Path
) -> None:
    rng = np.random.default_rng(5)
    for name in ("step-1", "step-2", "end"):
        trace = trace_of([drawn(rng) for _ in range(12)])
        texts = [text_at(trace, at) for at in range(12)]
        write_trace(tmp_path / name, trace.manifest, texts, with_tokens=name != "step-2")
    given = ("specialise", "saturation", tmp_path / "step-1", tmp_path / "end")
    code, shown = moe_ray(*given)
    assert code == 0, shown
    assert "Router saturation" in shown
    code, shown = moe_ray(*given, "--json")
    assert {one["other"] for one in json.loads(shown)} == {str(tmp_path / "step-1")}
    code, shown = moe_ray("specialise", "saturation", tmp_path / "step-2", tmp_path / "end")
    assert (code, "has no tokens" in shown) == (2, True), shown
