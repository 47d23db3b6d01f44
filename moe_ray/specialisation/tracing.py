"""Trace which experts of a loaded model are selected for each text. Changes no bit of the model's output.

Shapes: B texts of a batch, T tokens, N = B x T, K selected experts, E experts, S = len(SUMS).
"""

# ruff: noqa: N803, N806, N815 - capital suffixes name the axes of a tensor

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from moe_ray.arrays import BoolArray, FloatArray
from moe_ray.engines.transformers.intervened import read_rows
from moe_ray.engines.transformers.loading import LoadedModel
from moe_ray.errors import ModelError
from moe_ray.mixtures.sites import (
    RoutedTokens,
    RoutingSite,
    answers_alone,
    on_experts,
    probabilities,
    scores_in,
    tensors_of,
)
from moe_ray.specialisation.records import NORMS, SUMS, TokenTrace
from moe_ray.specialisation.tokens import EncodedText
from moe_ray.specialisation.writing import LayerSums, TextTrace


@dataclass(frozen=True, slots=True, kw_only=True)
class TracingOptions:
    """What is traced. `batch_size` texts are read at once; the others are described where they are offered."""

    batch_size: int = 1
    with_tokens: bool = False
    with_norms: bool = False


@dataclass(slots=True, kw_only=True, eq=False)
class _Batch:
    """The tokens of a forward pass that count, as places in [N], and what each layer did with them."""

    counted_N: BoolArray
    routed: dict[str, "_LayerTokens"] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _LayerTokens:
    """All tokens of a pass in one layer: `index` and `weights` [N, K], `values` [N, S], `norms` [N, K] or None."""

    index: np.ndarray[Any, np.dtype[np.int64]]
    weights: FloatArray
    values: FloatArray
    norms: FloatArray | None


def trace_texts(
    loaded: LoadedModel,
    sites: Sequence[RoutingSite],
    texts: Sequence[EncodedText],
    options: TracingOptions,
    on_text: Callable[[], object] = lambda: None,
) -> Iterator[TextTrace]:
    """Yield the trace of each text, in order. Every text has a token that counts.

    With a batch size of 1 a text's numbers depend on nothing but the text. In larger batches other rounding may turn
    near ties of the router.
    """
    for start in range(0, len(texts), options.batch_size):
        group = texts[start : start + options.batch_size]
        width = max(len(text.token_ids) for text in group)
        with collected(sites, _counted(group, width), with_norms=options.with_norms) as batch:
            read_rows(loaded, [text.token_ids for text in group])
        for at, text in enumerate(group):
            yield _text_trace(text, sites, batch, slice(at * width, (at + 1) * width), options)
            on_text()


def _counted(group: Sequence[EncodedText], width: int) -> BoolArray:
    """Return which tokens of left-padded rows count, in a row."""
    rows = [[False] * (width - len(text.counted)) + list(text.counted) for text in group]
    return np.array(rows, dtype=np.bool_).ravel()


@contextmanager
def collected(sites: Sequence[RoutingSite], counted_N: BoolArray, *, with_norms: bool) -> Iterator[_Batch]:
    """Collect what each layer's router selects in the forward pass of the context."""
    batch = _Batch(counted_N=counted_N)
    outputs: dict[str, list[Tensor]] = {}
    handles = []
    for site in sites:
        if site.router is not None:
            handles.append(site.router.register_forward_hook(_router_hook(site, outputs)))
        handles.append(on_experts(site.experts, _experts_hook(site, outputs, batch, with_norms=with_norms)))
    try:
        yield batch
    finally:
        for handle in handles:
            handle.remove()


def _router_hook(site: RoutingSite, outputs: dict[str, list[Tensor]]) -> Callable[[Any, Any, Any], None]:
    def hook(_module: Any, _given: Any, output: Any) -> None:
        outputs[site.record.module] = tensors_of(output)

    return hook


def _experts_hook(
    site: RoutingSite, outputs: dict[str, list[Tensor]], batch: _Batch, *, with_norms: bool
) -> Callable[[RoutedTokens], None]:
    record = site.record

    def act(routed: RoutedTokens) -> None:
        num_tokens = len(routed.index)
        if num_tokens != len(batch.counted_N):
            raise ModelError(
                f"{record.module} reads {num_tokens} of {len(batch.counted_N)} tokens",
                remedy="this family packs its tokens in a way that cannot be traced",
            )
        routed.scores = scores_in(outputs.pop(record.module, []), num_tokens, record.num_experts)
        batch.routed[record.module] = _layer_tokens(site, routed, with_norms=with_norms)

    return act


def _layer_tokens(site: RoutingSite, routed: RoutedTokens, *, with_norms: bool) -> _LayerTokens:
    return _LayerTokens(
        index=routed.index.long().cpu().numpy(),
        weights=routed.weights.double().cpu().numpy(),
        values=token_values(site, routed).cpu().numpy(),
        norms=_norms(site, routed) if with_norms else None,
    )


def token_values(site: RoutingSite, routed: RoutedTokens) -> Tensor:
    """Return the values of each token whose sums are traced [N, S], in the order of `SUMS`; NaN where not defined."""
    weights = routed.weights.double().abs()
    values = torch.full((len(weights), len(SUMS)), torch.nan, dtype=torch.float64, device=weights.device)
    values[:, SUMS.index("weight_entropy")] = _entropy(weights / weights.sum(dim=-1, keepdim=True).clamp(min=1e-300))
    if routed.scores is None or site.record.scores == "unknown":
        return values
    p_NE = probabilities(routed.scores, site.record.scores)
    ordered = p_NE.sort(dim=-1, descending=True).values
    values[:, SUMS.index("entropy")] = _entropy(p_NE)
    values[:, SUMS.index("top_probability")] = ordered[:, 0]
    if ordered.shape[1] > 1:
        values[:, SUMS.index("top_margin")] = ordered[:, 0] - ordered[:, 1]
    chosen = torch.zeros_like(p_NE, dtype=torch.bool).scatter_(1, routed.index.clamp(0, p_NE.shape[1] - 1), True)
    if not bool(chosen.all()):
        least = p_NE.masked_fill(~chosen, torch.inf).amin(dim=-1)
        values[:, SUMS.index("set_margin")] = least - p_NE.masked_fill(chosen, -torch.inf).amax(dim=-1)
    return values


def _entropy(p: Tensor) -> Tensor:
    summed: Tensor = -torch.special.xlogy(p, p).sum(dim=-1) / math.log(2)
    return summed


def _norms(site: RoutingSite, routed: RoutedTokens) -> FloatArray:
    """Return the length of each selected expert's answer before it is weighted [N, K]; 0 where no expert is."""
    num_tokens, top_k = routed.index.shape
    used = (routed.index >= 0) & (routed.index < site.record.num_experts)
    index = torch.where(used, routed.index, 0).ravel()
    answers = answers_alone(site.experts, routed.hidden.repeat_interleave(top_k, dim=0), index)
    lengths = answers.double().norm(dim=-1).reshape(num_tokens, top_k)
    found: FloatArray = torch.where(used, lengths, 0.0).cpu().numpy()
    return found


def _text_trace(
    text: EncodedText, sites: Sequence[RoutingSite], batch: _Batch, row: slice, options: TracingOptions
) -> TextTrace:
    counted = batch.counted_N[row]
    tokens = [batch.routed[site.record.module] for site in sites]
    layers = [_sums(site, layer, row, counted) for site, layer in zip(sites, tokens, strict=True)]
    kept = _token_trace(text, sites, tokens, row, counted) if options.with_tokens else None
    return TextTrace(
        text_id=text.source.text_id,
        label=text.source.label,
        num_tokens=text.num_counted,
        num_masked=len(text.token_ids) - text.num_counted,
        layers=tuple(layers),
        tokens=kept,
    )


def _sums(site: RoutingSite, layer: _LayerTokens, row: slice, counted: BoolArray) -> LayerSums:
    num_experts = site.record.num_experts
    index, weights = layer.index[row][counted], layer.weights[row][counted]
    values = layer.values[row][counted]
    used = (index >= 0) & (index < num_experts)

    def summed(amounts: FloatArray) -> FloatArray:
        return np.bincount(index[used], weights=amounts[used], minlength=num_experts).astype(np.float64)

    norms = {}
    if layer.norms is not None:
        lengths = layer.norms[row][counted]
        norms = dict(zip(NORMS, (summed(lengths), summed(weights * lengths)), strict=True))
    return LayerSums(
        selected=np.bincount(index[used], minlength=num_experts).astype(np.float64),
        mass=summed(weights),
        sums=values.sum(axis=0),
        squares=(values**2).sum(axis=0),
        norms=norms,
    )


def _token_trace(
    text: EncodedText, sites: Sequence[RoutingSite], layers: Sequence[_LayerTokens], row: slice, counted: BoolArray
) -> TokenTrace:
    ids = np.array([one for one, own in zip(text.token_ids, text.counted, strict=True) if own], dtype=np.int32)
    width = max(site.record.top_k for site in sites)
    experts = np.full((len(ids), len(sites), width), -1, dtype=np.int16)
    for at, (site, layer) in enumerate(zip(sites, layers, strict=True)):
        index = layer.index[row][counted]
        used = (index >= 0) & (index < site.record.num_experts)
        experts[:, at, : index.shape[1]] = np.where(used, index, -1)
    return TokenTrace(token_ids=ids, experts=experts)
