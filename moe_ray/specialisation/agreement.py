"""How far gates and routers that decide once for a text agree: with each other, and with the classes. Needs no torch.

Shapes: n texts, N names.
"""

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from moe_ray.arrays import FloatArray
from moe_ray.errors import UserError
from moe_ray.files import StoredRecord
from moe_ray.specialisation.measures import number_or_none
from moe_ray.specialisation.over_texts import jackknife
from moe_ray.specialisation.records import Trace

CLASSES = "classes"
REMEDY = "give traces of a merged mixture's gate or of a query router, of the same texts"


class DecisionAgreement(StoredRecord):
    """How often two deciders name the same expert for a text.

    `share` is the share of texts, `chance` what two independent deciders with the same loads have, and `kappa`
    (share - chance) / (1 - chance) with its 95 % interval, the jackknife over texts (Cohen 1960). None: not defined,
    as where one expert is always chosen.
    """

    one: str
    other: str
    num_texts: int
    share: float
    chance: float
    kappa: float | None
    low: float | None
    high: float | None


def measure_agreement(traces: Sequence[Trace], names: Sequence[str]) -> list[DecisionAgreement]:
    """Return the agreement of each pair of traces, on the texts that both have, and of each trace with the classes.

    Experts are compared by their names. Raises `UserError` for traces of tokens, and for a pair without common texts.
    """
    for trace, name in zip(traces, names, strict=True):
        if trace.manifest.unit != "text":
            raise UserError("its router decides for each token, not once for a text", where=name, remedy=REMEDY)
    deciders = [(name, _decisions(trace)) for trace, name in zip(traces, names, strict=True)]
    labels = {text: label for trace in traces for text, label in zip(trace.text_ids, trace.labels, strict=True)}
    pairs = list(combinations(deciders, 2))
    if any(labels.values()):
        pairs += [(decider, (CLASSES, labels)) for decider in deciders]
    return [_agreement(one, other) for one, other in pairs]


def _decisions(trace: Trace) -> dict[str, str]:
    chosen = trace.layers[0].selected.argmax(axis=1)
    return {text: trace.manifest.expert_name(int(at)) for text, at in zip(trace.text_ids, chosen, strict=True)}


def _agreement(one: tuple[str, dict[str, str]], other: tuple[str, dict[str, str]]) -> DecisionAgreement:
    texts = sorted(one[1].keys() & other[1].keys())
    if not texts:
        raise UserError(f"has no text of {one[0]}", where=other[0], remedy=REMEDY)
    pairs = [(one[1][text], other[1][text]) for text in texts]
    known = sorted({name for pair in pairs for name in pair})
    rows = np.array([[a == b, *(a == name for name in known), *(b == name for name in known), 1] for a, b in pairs])
    found = jackknife(_kappa, rows.astype(np.float64), np.zeros(len(rows), dtype=np.intp), 1)
    low, high = found.interval()
    share, chance, kappa = found.value
    return DecisionAgreement(
        one=one[0],
        other=other[0],
        num_texts=len(texts),
        share=float(share),
        chance=float(chance),
        kappa=number_or_none(kappa),
        low=number_or_none(low[2]),
        high=number_or_none(high[2]),
    )


def _kappa(totals: FloatArray) -> FloatArray:
    """Return share, chance and kappa of sums over texts [..., 1, 1 + 2 N + 1]."""
    sums = totals[..., 0, :]
    num_texts, num_names = sums[..., -1], (sums.shape[-1] - 2) // 2
    share = sums[..., 0] / num_texts
    loads = sums[..., 1:-1] / num_texts[..., None]
    chance = (loads[..., :num_names] * loads[..., num_names:]).sum(axis=-1)
    kappa = np.divide(share - chance, 1 - chance, out=np.full_like(share, np.nan), where=chance < 1)
    return np.stack([share, chance, kappa], axis=-1)
