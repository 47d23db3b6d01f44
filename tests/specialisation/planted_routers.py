"""Random routers that read texts whose contents are known, and the comparison of what they select."""

import dataclasses

import numpy as np

from moe_ray.specialisation.compared.records import TraceComparison
from moe_ray.specialisation.compared.traces import NamedTrace, compare_traces
from moe_ray.specialisation.records import Trace
from tests.specialisation.planted import Array, trace_of_counts

NUM_CLASSES, NUM_TEXTS, NUM_TOKENS, NUM_FEATURES, NUM_EXPERTS = 6, 12, 100, 8, 6
LABELS = tuple("abcdef")


def class_means(rng: np.random.Generator) -> Array:
    """What each class is about [classes, features]."""
    return rng.normal(0, 1, (NUM_CLASSES, NUM_FEATURES))


def features(rng: np.random.Generator, means: Array) -> Array:
    """What texts are about [texts, features]: a mean per class, and more of their own."""
    own = rng.normal(0, 1, (NUM_CLASSES * NUM_TEXTS, NUM_FEATURES))
    about: Array = np.repeat(means, NUM_TEXTS, axis=0) + own
    return about


def random_router(rng: np.random.Generator, num_experts: int = NUM_EXPERTS) -> Array:
    router: Array = rng.normal(0, 1, (NUM_FEATURES, num_experts))
    return router


def routed(rng: np.random.Generator, about: Array, router: Array) -> Array:
    """Selections [texts, E] of a router [features, E]: top-2 of each token, which is near its text."""
    tokens = about[:, None] + rng.normal(0, 1, (len(about), NUM_TOKENS, about.shape[1]))
    chosen = np.argsort(-(tokens @ router), axis=2)[:, :, :2]
    return np.stack([np.bincount(text.ravel(), minlength=router.shape[1]) for text in chosen]).astype(float)


def traced(counts: Array, *, prefix: str = "", labels: list[str] | None = None) -> Trace:
    trace = trace_of_counts(counts, labels or [label for label in LABELS for _ in range(NUM_TEXTS)])
    return dataclasses.replace(trace, text_ids=tuple(f"{prefix}{name}" for name in trace.text_ids))


def compared(a: Trace, b: Trace) -> TraceComparison:
    (found,) = compare_traces([NamedTrace(name="A", trace=a), NamedTrace(name="B", trace=b)]).comparisons
    return found


def num_rejected(follows: str, num_runs: int) -> int:
    """Count the runs in which unrelated routers match better than chance, p < 0.05."""
    rejected = 0
    for seed in range(num_runs):
        rng = np.random.default_rng(seed)
        about = features(rng, class_means(rng))
        other = about if follows == "same features" else features(rng, class_means(rng))
        found = compared(traced(routed(rng, about, random_router(rng))), traced(routed(rng, other, random_router(rng))))
        rejected += found.layers[0].p_value < 0.05
    return rejected
