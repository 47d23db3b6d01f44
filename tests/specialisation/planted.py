"""Made-up texts whose truth is known: tokens of a text are alike, and classes differ as much as is asked."""

from typing import Any

import numpy as np

from moe_ray.mixtures.layers import TracedLayer
from moe_ray.specialisation.records import SUMS, LayerTrace, TokenTrace, Trace, TraceManifest

Array = np.ndarray[Any, np.dtype[np.float64]]

NUM_EXPERTS, TOP_K = 6, 2


def clustered_counts(
    rng: np.random.Generator, profile: Array, num_texts: int, *, concentration: float, num_tokens: int = 150
) -> Array:
    """Selections [texts, E]: each text has its own preferences around `profile`, each token draws K experts."""
    own = np.log(rng.dirichlet(concentration * profile, num_texts) + 1e-300)
    noise = rng.gumbel(size=(num_texts, num_tokens, len(profile)))
    chosen = np.argpartition(-(own[:, None] + noise), TOP_K, axis=2)[:, :, :TOP_K]
    return np.stack([np.bincount(text.ravel(), minlength=len(profile)) for text in chosen]).astype(float)


def tilted(size: float, num_experts: int = NUM_EXPERTS) -> Array:
    """A profile that rises by `size` from the first expert to the last, on a log scale."""
    profile = np.exp(np.linspace(-size, size, num_experts))
    divided: Array = profile / profile.sum()
    return divided


def manifest(*, num_layers: int = 1, num_experts: int = NUM_EXPERTS, top_k: int = TOP_K) -> TraceManifest:
    layers = [
        TracedLayer(layer=at, module=f"layers.{at}.experts", num_experts=num_experts, top_k=top_k, scores="softmax")
        for at in range(num_layers)
    ]
    return TraceManifest(
        moe_ray_version="0", model="made up", model_type="mixtral", model_fingerprint="0", unit="token", layers=layers,
        settings={}, num_texts=0, num_tokens=0, num_masked=0,
    )  # fmt: skip


def trace_of_counts(selected: Array, labels: list[str]) -> Trace:
    """A trace of one layer with these selections [texts, E]; entropies and margins are random."""
    rng = np.random.default_rng(5)
    num_tokens = selected.sum(axis=1) / TOP_K
    sums = rng.random((len(labels), len(SUMS))) * num_tokens[:, None]
    layer = LayerTrace(
        record=manifest(num_experts=selected.shape[1]).layers[0], selected=selected, mass=selected / TOP_K, sums=sums,
        squares=sums, norms={},
    )  # fmt: skip
    return Trace(
        manifest=manifest(num_experts=selected.shape[1]),
        text_ids=tuple(f"{at:05}" for at in range(len(labels))),
        labels=tuple(labels),
        num_tokens=num_tokens,
        num_masked=np.zeros(len(labels)),
        layers=(layer,),
    )


def trace_of_tokens(texts: list[TokenTrace], labels: list[str], num_experts: int) -> Trace:
    """A trace with these tokens in each layer; sums are those of the selections alone."""
    num_layers = texts[0].experts.shape[1]
    made = manifest(num_layers=num_layers, num_experts=num_experts, top_k=texts[0].experts.shape[2])
    layers = []
    for at, record in enumerate(made.layers):
        selected = np.stack([np.bincount(text.experts[:, at].ravel(), minlength=num_experts) for text in texts]).astype(
            float
        )
        sums = np.full((len(texts), len(SUMS)), np.nan)
        layers.append(LayerTrace(record=record, selected=selected, mass=selected, sums=sums, squares=sums, norms={}))
    return Trace(
        manifest=made,
        text_ids=tuple(f"{at:05}" for at in range(len(labels))),
        labels=tuple(labels),
        num_tokens=np.array([float(len(text.token_ids)) for text in texts]),
        num_masked=np.zeros(len(labels)),
        layers=tuple(layers),
        tokens=tuple(texts),
    )
