"""Traces of routers that decide once for a whole text. Needs no torch.

The unit is the text. `selected` counts the most probable expert, also where all experts are mixed; `mass` holds the
probabilities.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

import moe_ray
from moe_ray.arrays import FloatArray
from moe_ray.errors import UserError
from moe_ray.mixtures.layers import TracedLayer
from moe_ray.specialisation.information import entropy
from moe_ray.specialisation.records import SUMS, TraceManifest
from moe_ray.specialisation.writing import LayerSums, TextTrace, write_trace
from moe_ray.store.routes import Routes
from moe_ray.store.run_directory import RunDirectory

OUT_OF_DOMAIN = "out-of-domain"


def decision(probs: FloatArray) -> LayerSums:
    """Return the sums of one decision with the probabilities `probs` [E]."""
    ordered = np.sort(probs)[::-1]
    margin = ordered[0] - ordered[1] if len(ordered) > 1 else np.nan
    found = {"entropy": float(entropy(probs)), "weight_entropy": 0.0, "set_margin": margin, "top_margin": margin}
    values = np.array([{**found, "top_probability": ordered[0]}[name] for name in SUMS])
    selected = np.zeros(len(probs))
    selected[int(np.argmax(probs))] = 1
    return LayerSums(selected=selected, mass=np.asarray(probs, dtype=np.float64), sums=values, squares=values**2)


def trace_routes(run: Path, out: Path) -> TraceManifest:
    """Write what the query router of a run decided as a trace to `out`: its experts are domains, its texts examples.

    What the probabilities lack to 1 is that of no domain, one more expert. Raises `UserError` for a run without routes,
    and `RunDirectoryError` for damaged ones.
    """
    routes = RunDirectory(run).routes()
    if routes is None:
        raise UserError("has no routes", where=str(run), remedy="name the run directory of an experiment with a router")
    names = [*routes.domains, OUT_OF_DOMAIN]
    layer = TracedLayer(layer=0, module="router", num_experts=len(names), top_k=1, scores="probabilities")
    manifest = TraceManifest(
        moe_ray_version=moe_ray.__version__,
        model=str(run),
        model_type="router",
        model_fingerprint=routes.router,
        unit="text",
        layers=[layer],
        expert_names=names,
        settings={},
        num_texts=0,
        num_tokens=0,
        num_masked=0,
    )
    return write_trace(out, manifest, _routed_texts(routes))


def _routed_texts(routes: Routes) -> Iterator[TextTrace]:
    rest = np.clip(1 - routes.probabilities.sum(axis=1, keepdims=True), 0.0, 1.0)
    probs = np.clip(np.concatenate([routes.probabilities, rest], axis=1), 0.0, 1.0)
    ids = [f"{domain}/{name}" for domain, name in zip(routes.example_domains, routes.example_ids, strict=True)]
    for at in sorted(range(len(ids)), key=lambda at: ids[at]):
        yield TextTrace(
            text_id=ids[at],
            label=routes.example_domains[at],
            num_tokens=1,
            num_masked=0,
            layers=(decision(probs[at]),),
        )
