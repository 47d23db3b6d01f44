"""Router saturation: how early in a training run its routers select what they select at its end. Needs no torch.

Traces of the same texts by checkpoints of one run, each with tokens. Shapes: n texts, T tokens, K selected experts,
E experts.
"""

# ruff: noqa: N803 - capital suffixes name the axes of an array

from collections.abc import Iterator, Sequence

import numpy as np

from moe_ray.arrays import FloatArray
from moe_ray.errors import UserError
from moe_ray.fingerprint import fingerprint
from moe_ray.specialisation.measures import UNIFORM, MeasuredValue, number_or_none
from moe_ray.specialisation.over_texts import jackknife
from moe_ray.specialisation.records import Trace
from moe_ray.specialisation.sequences import NUM_SHUFFLES, TOKENS_SHUFFLED, TokenExperts

SATURATION, CORRECTED = "saturation", "corrected_saturation"
SAME_RUN_REMEDY = "trace the same texts through checkpoints of one training run, with --tokens and equal settings"


def measure_saturation(traces: Sequence[Trace], names: Sequence[str]) -> list[MeasuredValue]:
    """Return the saturation of each layer in each trace but the last, which is the end of training.

    `saturation` is the share of the last trace's experts that a token already selects, |E_t and E_T| / |E_T|, mean over
    tokens (OLMoE, Muennighoff et al. 2024, section 5.1). Its null shuffles the tokens of each text in the last trace:
    what remains there is what the loads of a text alone explain.

    `corrected_saturation` is (s - c) / (1 - c): 0 is chance, 1 is the last trace. Chance c = |E_t| / E is what a token
    keeps of experts that are drawn uniformly, K / E where each token selects K.

    `other` is the trace's name. Intervals are of the jackknife over texts. Raises `UserError` for traces that differ in
    more than their weights.
    """
    if len(traces) < 2:
        raise UserError("saturation compares checkpoints", remedy=SAME_RUN_REMEDY)
    for trace, name in zip(traces, names, strict=True):
        _require_same_texts(trace, name, traces[-1], names[-1])
    return [
        value
        for trace, name in zip(traces[:-1], names[:-1], strict=True)
        for at in range(len(trace.layers))
        for value in _layer(trace, traces[-1], at, name)
    ]


def _require_same_texts(trace: Trace, name: str, last: Trace, last_name: str) -> None:
    if not trace.tokens:
        raise UserError("has no tokens", where=name, remedy=SAME_RUN_REMEDY)
    shapes = [[(one.record.layer, one.record.num_experts) for one in each.layers] for each in (trace, last)]
    what = None
    if trace.manifest.model_type != last.manifest.model_type or shapes[0] != shapes[1]:
        what = "layers or experts"
    elif trace.text_ids != last.text_ids:
        what = "texts"
    elif any(not np.array_equal(a.token_ids, b.token_ids) for a, b in zip(trace.tokens, last.tokens, strict=True)):
        what = "tokens"
    if what:
        raise UserError(f"has other {what} than {last_name}", where=name, remedy=SAME_RUN_REMEDY)


def _layer(trace: Trace, last: Trace, at: int, name: str) -> Iterator[MeasuredValue]:
    record = last.layers[at].record
    pairs = [(one.experts[:, at, :], two.experts[:, at, :]) for one, two in zip(trace.tokens, last.tokens, strict=True)]
    rows = np.array([_text_sums(one, two, record.num_experts) for one, two in pairs])
    found = jackknife(_saturation, rows, np.zeros(len(rows), dtype=np.intp), 1)
    drawn = _shuffled(pairs, record.layer, record.num_experts)
    low, high = np.quantile(drawn, [0.025, 0.975])
    nulls = ((TOKENS_SHUFFLED, drawn.mean(), low, high), (UNIFORM, 0.0, None, None))
    interval = found.interval()
    for place, (measure, null) in enumerate(zip((SATURATION, CORRECTED), nulls, strict=True)):
        value = number_or_none(found.value[place])
        yield MeasuredValue(
            measure=measure,
            unit="share",
            layer=record.layer,
            other=name,
            value=value,
            null=null[0],
            null_mean=float(null[1]),
            null_low=null[2],
            null_high=null[3],
            excess=None if value is None else value - float(null[1]),
            low=number_or_none(interval[0][place]),
            high=number_or_none(interval[1][place]),
        )


def _text_sums(one_TK: TokenExperts, two_TK: TokenExperts, num_experts: int) -> tuple[float, float, float]:
    """Return sums over the tokens for which `two_TK` selects experts: share kept, its chance, and the tokens."""
    num_selected = (two_TK >= 0).sum(axis=1)
    counted = num_selected > 0
    is_kept = (one_TK[:, :, None] == two_TK[:, None, :]).any(axis=1) & (two_TK >= 0)
    kept = is_kept.sum(axis=1)[counted] / num_selected[counted]
    chance = (one_TK >= 0).sum(axis=1)[counted] / num_experts
    return float(kept.sum()), float(chance.sum()), float(counted.sum())


def _saturation(totals: FloatArray) -> FloatArray:
    """Return the mean share that is kept, and what of it is beyond chance, of sums [..., 1, 3]."""
    kept, chance, num_tokens = totals[..., 0, 0], totals[..., 0, 1], totals[..., 0, 2]
    share, expected = kept / num_tokens, chance / num_tokens
    room = 1 - expected
    corrected = np.divide(share - expected, room, out=np.full_like(share, np.nan), where=room > 0)
    return np.stack([share, corrected], axis=-1)


def _shuffled(pairs: Sequence[tuple[TokenExperts, TokenExperts]], layer: int, num_experts: int) -> FloatArray:
    seed = int(fingerprint({"purpose": "saturation", "layer": layer, "num_texts": len(pairs)}), 16)
    rng = np.random.Generator(np.random.PCG64(seed))
    drawn = []
    for _ in range(NUM_SHUFFLES):
        sums = [_text_sums(one, rng.permutation(two, axis=0), num_experts) for one, two in pairs]
        drawn.append(_saturation(np.sum(sums, axis=0)[None])[0])
    return np.array(drawn)
