"""Traces and ablations whose numbers are drawn, to be shown: two classes with names that attack whatever shows them."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from moe_ray.specialisation.ablation import records
from moe_ray.specialisation.ablation.records import AblatedUnit, Ablation, AblationPlan, TextChanges
from moe_ray.specialisation.records import TokenTrace, Trace
from moe_ray.specialisation.writing import text_at, write_trace
from tests.specialisation.planted import manifest, trace_of_tokens

EVIL = '<script>alert(1)</script>"\x00\x1b]0;x\x07\u202e$\\frac$'
PIECES = [" the", " court", "ly", "<b>", "&", "\n", "日本", " of"]


def drawn_trace(
    *,
    num_layers: int = 2,
    num_experts: int = 6,
    top_k: int = 2,
    labels: tuple[str, ...] = ("law", EVIL),
    num_texts: int = 12,
    seed: int = 1,
) -> Trace:
    """A trace with tokens and their letters, in which classes prefer different tokens and so different experts."""
    rng = np.random.default_rng(seed)
    tables = rng.normal(0, 2.0, (num_layers, 40, num_experts))
    words = rng.dirichlet(np.full(40, 0.3), len(labels))
    texts, given = [], []
    for code, label in enumerate(labels):
        for _ in range(num_texts):
            ids = rng.choice(40, 60, p=rng.dirichlet(20 * words[code] + 1e-3))
            noise = rng.gumbel(size=(60, num_layers, num_experts))
            chosen = np.argsort(-(tables[:, ids].swapaxes(0, 1) + noise), axis=2)[:, :, :top_k]
            texts.append(TokenTrace(token_ids=ids.astype(np.int32), experts=chosen.astype(np.int16)))
            given.append(label)
    trace = trace_of_tokens(texts, given, num_experts)
    sums = [layer.selected.sum(axis=1, keepdims=True) * rng.random((len(given), 5)) for layer in trace.layers]
    layers = [dataclasses.replace(layer, sums=own) for layer, own in zip(trace.layers, sums, strict=True)]
    pieces = {token: PIECES[token % len(PIECES)] for token in range(40)}
    return dataclasses.replace(trace, layers=tuple(layers), pieces=pieces)


def written_trace(trace: Trace, folder: Path) -> Path:
    """Write a trace as `moe-ray specialise trace --tokens` does."""
    texts = (text_at(trace, at) for at in range(len(trace.text_ids)))
    write_trace(folder, trace.manifest, texts, with_tokens=True, piece_of=trace.pieces.get)
    return folder


def written_ablation(ablation: Ablation, folder: Path) -> Path:
    """Write a finished ablation."""
    records.begin(folder, ablation.plan)
    texts = [
        TextChanges(
            text_id=ablation.text_ids[at],
            label=ablation.labels[at],
            intact=float(ablation.intact[at]),
            right=None if ablation.right is None else bool(ablation.right[at]),
            selected=ablation.selected[at].astype(np.intp),
            num_removed=ablation.num_removed[at].astype(np.intp),
            num_matched=ablation.num_matched[at].astype(np.intp),
            removed=ablation.removed[at],
            controls=ablation.controls[at],
        )
        for at in range(len(ablation.text_ids))
    ]
    records.write_part(folder, 0, texts)
    records.finish(folder, 1)
    return folder


def drawn_ablation(
    *,
    num_layers: int = 2,
    num_experts: int = 6,
    labels: tuple[str, ...] = ("law", EVIL),
    num_texts: int = 24,
    whole: bool = False,
    right: bool = False,
    seed: int = 1,
) -> Ablation:
    """An ablation in which removing expert 1 of the first layer costs 0.5 on the first class, and nothing else does."""
    rng = np.random.default_rng(seed)
    layers = [-1] if whole else list(range(num_layers))
    units = [AblatedUnit(layer=layer, expert=expert) for layer in layers for expert in range(num_experts)]
    given = [label for label in labels for _ in range(num_texts)]
    shape = (len(given), len(units))
    removed = rng.normal(0, 0.05, shape)
    removed[:num_texts, 1] -= 0.5
    counts = rng.integers(20, 60, shape).astype(float)
    counts[:, -1] = 0.0
    removed[:, -1] = 0.0
    controls = rng.normal(0, 0.05, (*shape, 20))
    controls[:, -1] = 0.0
    return Ablation(
        plan=_plan(units, manifest(num_layers=num_layers, num_experts=num_experts), num_choices=2 if right else 0),
        text_ids=tuple(f"{at:05}" for at in range(len(given))),
        labels=tuple(given),
        intact=rng.normal(-3, 0.2, len(given)),
        right=np.arange(len(given)) % 2 == 0 if right else None,
        selected=counts,
        num_removed=counts,
        num_matched=counts,
        removed=removed,
        controls=controls,
    )


def _plan(units: list[AblatedUnit], traced: Any, *, num_choices: int) -> AblationPlan:
    return AblationPlan(
        model=traced.model, model_type="mixtral", model_fingerprint="0", layers=traced.layers, operation="reroute",
        units=units, num_draws=20, seed=0, score="bits_per_byte", num_choices=num_choices, settings={}, texts="0",
        num_parts=1,
    )  # fmt: skip
