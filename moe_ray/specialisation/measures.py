"""The measures of a trace. Each value comes with its null, its excess over the null and its interval over texts.

| name | scope | value | null |
| --- | --- | --- | --- |
| generalised_js, normalised_js, mean_pairwise_js | layer | divergence of the classes' loads, bits | labels permuted |
| pairwise_js | two classes | Jensen-Shannon divergence, bits | labels permuted |
| load_entropy, max_violation | class, all texts | balance of the load | labels permuted; a uniform router |
| entropy, weight_entropy, margins, top_probability | class, all texts | mean over tokens | labels permuted |
| utilisation, mass_share | class and expert | share of tokens; share of the gate's weights | labels permuted |
| lift | class and expert | log2 of share over pooled share, add-1/2 | labels permuted |
| class_information | expert | KL(P(class given e), P(class)), bits | labels permuted |
| saliency, mean_norm | class and expert | mean gated, and plain, length of the answers | labels permuted |

`all texts` has no classes to permute: its loads are compared with a router that draws experts uniformly, and its means
have no bias that a null would show.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from moe_ray.arrays import FloatArray, IntArray
from moe_ray.files import StoredRecord
from moe_ray.fingerprint import fingerprint
from moe_ray.specialisation import information as info
from moe_ray.specialisation.over_texts import Jackknife, Measure, Null, jackknife, null_of
from moe_ray.specialisation.records import SUMS, LayerTrace, Trace

Weight = Literal["token", "text"]
Tail = Literal["upper", "two_sided", "t"]

ALL_TEXTS = "all texts"
# With fewer texts a class has no reliable standard error: it is listed, and neither tested nor compared.
MIN_TEXTS = 10
NUM_UNIFORM_DRAWS = 199
HALF = 0.5
LABELS_PERMUTED = "labels permuted over texts"
UNIFORM = "experts drawn uniformly"


class MeasuredValue(StoredRecord):
    """A value of a measure, never without its null.

    `value` is the plug-in value; `excess` is the value less `null_mean`. `low` and `high` bound the 95 % interval over
    texts of the value corrected for bias. `null_low` and `null_high` hold 95 % of the null. `p_value` is of the
    hypothesis that classes do not differ; `q_value` is adjusted over `family` (Benjamini-Hochberg). None: not defined,
    or too few texts. `other` is the second class or expert of a pair.
    """

    measure: str
    unit: str
    layer: int
    label: str | None = None
    expert: int | None = None
    other: str | None = None
    value: float | None
    null: str | None = None
    null_mean: float | None = None
    null_low: float | None = None
    null_high: float | None = None
    excess: float | None = None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    q_value: float | None = None
    family: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Classes:
    """The classes that are compared: `names`, a code for each text, and the places of the texts that have one."""

    names: tuple[str, ...]
    codes_n: IntArray
    places: IntArray
    too_small: dict[str, int]


def classes_of(labels: Sequence[str]) -> Classes:
    """Return the classes of at least `MIN_TEXTS` texts, in alphabetical order."""
    sizes = {name: labels.count(name) for name in sorted(set(labels)) if name}
    names = tuple(name for name, size in sizes.items() if size >= MIN_TEXTS)
    numbers = {name: number for number, name in enumerate(names)}
    places = np.array([at for at, label in enumerate(labels) if label in numbers], dtype=np.intp)
    return Classes(
        names=names,
        codes_n=np.array([numbers[labels[at]] for at in places], dtype=np.intp),
        places=places,
        too_small={name: size for name, size in sizes.items() if size < MIN_TEXTS},
    )


# Class totals [..., C, F] of the columns that measures are functions of, by name.
_Totals = Mapping[str, FloatArray]
_Formula = Callable[[_Totals], FloatArray]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Part:
    """Measures of one kind: `formula` gives a value for each of `where`.

    `tail` is that of the permutation test, or "t" for a t test that the truth is 0.
    """

    name: str
    unit: str
    formula: _Formula
    where: Sequence[Mapping[str, Any]]
    tail: Tail


def number_or_none(value: float) -> float | None:
    """Return a finite number, or None."""
    return float(value) if np.isfinite(value) else None


def measure_layer(trace: Trace, layer: LayerTrace, classes: Classes, weight: Weight) -> Iterator[MeasuredValue]:
    """Yield all measures of one layer. Without two classes there are those of all texts alone."""
    yield from _pooled(trace, layer)
    if len(classes.names) < 2:
        return
    columns = _columns(trace, layer, classes, weight)
    parts = list(_parts(layer, classes, weight))
    joined = _joined([part.formula for part in parts], {name: rows.shape[1] for name, rows in columns.items()})
    rows = np.concatenate(list(columns.values()), axis=1)
    size, number = len(classes.names), layer.record.layer
    null = null_of(joined, rows, classes.codes_n, size, purpose=f"specialisation, layer {number}")
    yield from _values(parts, jackknife(joined, rows, classes.codes_n, size), null, number)


def _columns(trace: Trace, layer: LayerTrace, classes: Classes, weight: Weight) -> dict[str, FloatArray]:
    """Return what is summed over the texts of a class [n, F], by name. `wholes` is what means are divided by."""
    chosen = classes.places
    tokens, selected = trace.num_tokens[chosen, None], layer.selected[chosen]
    sums = layer.sums[chosen][:, _defined(layer)]
    norms = {name: rows[chosen] for name, rows in layer.norms.items()}
    if weight == "token":
        return {"counts": selected, "mass": layer.mass[chosen], "sums": sums, "wholes": tokens, **norms}
    return {
        "counts": info.shares(selected),
        "mass": info.shares(layer.mass[chosen]),
        "sums": sums / tokens,
        "wholes": np.ones_like(tokens),
        "used": selected / tokens,
        "selected": selected,
        **norms,
    }


def _defined(layer: LayerTrace) -> list[int]:
    """Return the places in `SUMS` of the sums that are defined in this layer."""
    return [place for place in range(len(SUMS)) if not np.isnan(layer.sums[:, place]).any()]


def _joined(formulas: Sequence[_Formula], widths: Mapping[str, int]) -> Measure:
    """Return one measure of all columns side by side, so that texts are permuted once for all formulas."""
    ends = dict(zip(widths, np.cumsum(list(widths.values())), strict=True))

    def measure(totals: FloatArray) -> FloatArray:
        named = {name: totals[..., ends[name] - width : ends[name]] for name, width in widths.items()}
        return np.concatenate([formula(named) for formula in formulas], axis=-1)

    return measure


def _values(parts: Sequence[_Part], found: Jackknife, null: Null, layer: int) -> Iterator[MeasuredValue]:
    low, high = found.interval()
    tests = {"upper": null.upper, "two_sided": null.two_sided, "t": found.p_values()}
    place = 0
    for part in parts:
        for where in part.where:
            yield MeasuredValue.model_validate(
                {
                    "measure": part.name,
                    "unit": part.unit,
                    "layer": layer,
                    "value": number_or_none(found.value[place]),
                    "null": LABELS_PERMUTED,
                    "null_mean": number_or_none(null.mean[place]),
                    "null_low": number_or_none(null.low[place]),
                    "null_high": number_or_none(null.high[place]),
                    "excess": number_or_none(found.value[place] - null.mean[place]),
                    "low": number_or_none(low[place]),
                    "high": number_or_none(high[place]),
                    "p_value": number_or_none(tests[part.tail][place]),
                    **where,
                }
            )
            place += 1


def _parts(layer: LayerTrace, classes: Classes, weight: Weight) -> Iterator[_Part]:
    labels = [{"label": name} for name in classes.names]
    experts = [{"expert": expert} for expert in range(layer.record.num_experts)]
    cells = [{**label, **expert} for label in labels for expert in experts]
    yield from _divergences(classes)
    for name, formula, unit in LOADS:
        yield _Part(name=name, unit=unit, formula=_of_counts(formula), where=labels, tail="two_sided")
    for column, place in enumerate(_defined(layer)):
        name = SUMS[place]
        yield _Part(name=name, unit=sum_unit(name), formula=_mean_of_sum(column), where=labels, tail="two_sided")
    used, selected = ("used", "selected") if weight == "text" else ("counts", "counts")
    shares = _ratio_of(used, "wholes")
    yield _Part(name="utilisation", unit="share of tokens", formula=shares, where=cells, tail="two_sided")
    if not np.isnan(layer.mass).any():
        yield _Part(name="mass_share", unit="share of weights", formula=_mass_shares, where=cells, tail="two_sided")
    yield _Part(name="lift", unit="log2 ratio", formula=_of_counts(log_lift), where=cells, tail="t")
    information = _of_counts(info.class_information)
    yield _Part(name="class_information", unit="bits", formula=information, where=experts, tail="upper")
    # REAP's saliency is the mean of g |f(x)| over an expert's tokens (Lasby et al. 2025).
    for name, key in (("saliency", "gated_norm"), ("mean_norm", "norm")) if layer.norms else ():
        yield _Part(name=name, unit="length", formula=_ratio_of(key, selected), where=cells, tail="two_sided")


def _divergences(classes: Classes) -> Iterator[_Part]:
    names = classes.names
    at = np.triu_indices(len(names), k=1)
    layer: tuple[tuple[str, str, Measure], ...] = (
        ("generalised_js", "bits", info.generalised_js),
        ("normalised_js", "share", info.normalised_js),
        ("mean_pairwise_js", "bits", info.mean_pairwise_js),
    )
    for name, unit, formula in layer:
        yield _Part(name=name, unit=unit, formula=_of_counts(_as_one(formula)), where=[{}], tail="upper")
    where = [{"label": names[a], "other": names[b]} for a, b in zip(*at, strict=True)]
    pairs = _of_counts(lambda counts: info.pairwise_js(counts)[..., at[0], at[1]])
    yield _Part(name="pairwise_js", unit="bits", formula=pairs, where=where, tail="upper")


def _mass_shares(totals: _Totals) -> FloatArray:
    return _flat(info.shares(totals["mass"]))


def _of_counts(formula: Measure) -> _Formula:
    return lambda totals: formula(totals["counts"])


def _as_one(formula: Measure) -> Measure:
    return lambda totals: formula(totals)[..., None]


def _mean_of_sum(column: int) -> _Formula:
    return lambda totals: _ratio(totals["sums"][..., column : column + 1], totals["wholes"])


def _ratio_of(parts: str, wholes: str) -> _Formula:
    return lambda totals: _ratio(totals[parts], totals[wholes])


LOADS: tuple[tuple[str, Measure, str], ...] = (
    ("load_entropy", info.load_entropy, "share of log2 E"),
    ("max_violation", info.max_violation, "ratio"),
)


def sum_unit(name: str) -> str:
    """Return the unit of the mean of one of `SUMS`."""
    return "bits" if name.endswith("entropy") else "probability"


def _ratio(parts: FloatArray, wholes: FloatArray) -> FloatArray:
    """Return parts over wholes, classes and columns in a row; NaN where there is nothing to divide by."""
    divisors = np.broadcast_to(wholes, parts.shape)
    ratio: FloatArray = np.divide(parts, divisors, out=np.full_like(parts, np.nan), where=divisors > 0)
    return _flat(ratio)


def log_lift(totals: FloatArray) -> FloatArray:
    """Return log2 of `information.lift` with half a selection added to each count, classes and experts in a row."""
    return _flat(np.log2(info.lift(totals, added=HALF)))


def _flat(values: FloatArray) -> FloatArray:
    return values.reshape(*values.shape[:-2], -1)


def _pooled(trace: Trace, layer: LayerTrace) -> Iterator[MeasuredValue]:
    codes = np.zeros(len(trace.text_ids), dtype=np.intp)
    where = {"layer": layer.record.layer, "label": ALL_TEXTS}
    uniform = _uniform_loads(layer)
    for name, formula, unit in LOADS:
        estimate = jackknife(formula, layer.selected, codes, 1)
        drawn = formula(uniform)
        yield _pooled_value(name, unit, estimate, where, drawn)
    for column, name in enumerate(SUMS):
        if column in _defined(layer):
            rows = np.stack([layer.sums[:, column], trace.num_tokens], axis=1)
            estimate = jackknife(_mean, rows, codes, 1)
            yield _pooled_value(name, sum_unit(name), estimate, where, None)


def _mean(totals: FloatArray) -> FloatArray:
    return _ratio(totals[..., :1], totals[..., 1:])


def _uniform_loads(layer: LayerTrace) -> FloatArray:
    """Return loads of a router that draws experts uniformly, as many selections as there are [draws, E]."""
    num_selected, num_experts = int(layer.selected.sum()), layer.record.num_experts
    seed = int(fingerprint({"purpose": "uniform router", "layer": layer.record.layer, "num": num_selected}), 16)
    rng = np.random.Generator(np.random.PCG64(seed))
    drawn = rng.multinomial(num_selected, np.full(num_experts, 1 / num_experts), size=NUM_UNIFORM_DRAWS)
    return drawn.astype(np.float64)


def _pooled_value(
    name: str, unit: str, estimate: Jackknife, where: dict[str, object], drawn: FloatArray | None
) -> MeasuredValue:
    value, (low, high) = float(estimate.value[0]), estimate.interval()
    null: dict[str, object] = {}
    if drawn is not None:
        bounds = np.quantile(drawn, [0.025, 0.975])
        null = {"null": UNIFORM, "null_mean": float(drawn.mean()), "excess": value - float(drawn.mean())}
        null |= {"null_low": float(bounds[0]), "null_high": float(bounds[1])}
    return MeasuredValue.model_validate(
        {
            "measure": name,
            "unit": unit,
            **where,
            "value": number_or_none(value),
            **null,
            "low": number_or_none(low[0]),
            "high": number_or_none(high[0]),
        }
    )
