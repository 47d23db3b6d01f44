"""Comparison of traces: permuted experts are found, strangers are not, and differences have honest intervals."""

import dataclasses

import numpy as np
import pytest

from moe_ray.specialisation.compared.records import TraceComparison
from moe_ray.specialisation.compared.tables import is_real
from moe_ray.specialisation.compared.traces import NamedTrace, compare_traces
from moe_ray.specialisation.records import Trace
from tests.specialisation.planted import Array, trace_of_counts

LABELS = ("bio", "code", "law")
NUM_TEXTS, NUM_TOKENS, NUM_FEATURES = 20, 100, 8


def features(rng: np.random.Generator, num_texts: int = NUM_TEXTS) -> Array:
    """What texts are about [texts, features]: a mean per class, and more of their own."""
    means = rng.normal(0, 1, (len(LABELS), NUM_FEATURES))
    return np.repeat(means, num_texts, axis=0) + rng.normal(0, 1, (len(LABELS) * num_texts, NUM_FEATURES))


def routed(rng: np.random.Generator, about: Array, router: Array) -> Array:
    """Selections [texts, E] of a router [features, E]: top-2 of each token, which is near its text."""
    tokens = about[:, None] + rng.normal(0, 1, (len(about), NUM_TOKENS, about.shape[1]))
    chosen = np.argsort(-(tokens @ router), axis=2)[:, :, :2]
    return np.stack([np.bincount(text.ravel(), minlength=router.shape[1]) for text in chosen]).astype(float)


def traced(counts: Array, *, prefix: str = "", labels: list[str] | None = None) -> Trace:
    trace = trace_of_counts(counts, labels or [label for label in LABELS for _ in range(len(counts) // len(LABELS))])
    return dataclasses.replace(trace, text_ids=tuple(f"{prefix}{name}" for name in trace.text_ids))


def compared(a: Trace, b: Trace) -> TraceComparison:
    (found,) = compare_traces([NamedTrace(name="A", trace=a), NamedTrace(name="B", trace=b)]).comparisons
    return found


@pytest.mark.parametrize("is_shared", [True, False], ids=["same texts", "other texts"])
def test_permuted_experts_are_matched_exactly_in_20_seeds(is_shared: bool) -> None:
    """Other tokens of the same texts, or other texts of the same classes, read by the same router."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        router, order = rng.normal(0, 1, (NUM_FEATURES, 6)), rng.permutation(6)
        about = features(rng)
        means = about.reshape(len(LABELS), NUM_TEXTS, -1).mean(axis=1)
        if is_shared:
            found = compared(traced(routed(rng, about, router)), traced(routed(rng, about, router[:, order])))
            assert found.is_paired
        else:
            more = np.repeat(means, NUM_TEXTS, axis=0) + rng.normal(0, 1, about.shape)
            counts = [routed(rng, one, router) for one in (about, more)]
            found = compared(traced(counts[0]), traced(counts[1][:, order], prefix="b"))
            assert found.matched_by == "classes"
        if is_shared:
            assert [(one.expert_a, order[one.expert_b]) for one in found.experts] == [(at, at) for at in range(6)]
            assert all(is_real(one) for one in found.experts)
            assert found.layers[0].p_value < 0.01


@pytest.mark.parametrize("is_shared", [True, False], ids=["same features", "no features"])
def test_strangers_match_no_better_than_chance(is_shared: bool) -> None:
    """Two random routers, also where both follow what the same texts are about: at most 5 % and 3 standard errors."""
    num_runs = 100
    rejected = 0
    for seed in range(num_runs):
        rng = np.random.default_rng(seed)
        about = features(rng)
        other = about if is_shared else rng.normal(0, 1, about.shape)
        counts = [routed(rng, one, rng.normal(0, 1, (NUM_FEATURES, 6))) for one in (about, other)]
        found = compared(traced(counts[0]), traced(counts[1]))
        rejected += found.layers[0].p_value < 0.05
    assert rejected <= num_runs * 0.05 + 3 * np.sqrt(num_runs * 0.05 * 0.95)
