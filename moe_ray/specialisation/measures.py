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

# ruff: noqa: N803 - capital suffixes name the axes of an array

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from moe_ray.arrays import FloatArray, IntArray
from moe_ray.files import StoredRecord
from moe_ray.fingerprint import fingerprint
from moe_ray.specialisation import information as info
from moe_ray.specialisation.over_texts import Jackknife, Null, jackknife, null_of
from moe_ray.specialisation.records import SUMS, LayerTrace, Trace

Weight = Literal["token", "text"]
Tail = Literal["upper", "two_sided"]

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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Scope:
    """What a measure is computed over: one layer's rows of the compared texts."""

    layer: int
    classes: Classes
    weight: Weight

    def chosen(self, values_nF: FloatArray) -> FloatArray:
        return values_nF[self.classes.places]

    def profiles(self, counts_nE: FloatArray) -> FloatArray:
        """Return the counts of the compared texts; where texts weigh the same, each text's shares."""
        rows = self.chosen(counts_nE)
        return info.shares(rows) if self.weight == "text" else rows


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Estimate:
    """A measure's values [M] with null and jackknife."""

    jackknife: Jackknife
    null: Null

    @classmethod
    def of(cls, measure: Callable[[FloatArray], FloatArray], rows: FloatArray, scope: _Scope) -> "_Estimate":
        codes, size = scope.classes.codes_n, len(scope.classes.names)
        return cls(
            jackknife=jackknife(measure, rows, codes, size),
            null=null_of(measure, rows, codes, size, purpose=f"specialisation, layer {scope.layer}"),
        )

    def at(self, place: int, name: str, unit: str, layer: int, tail: Tail | None, **where: object) -> MeasuredValue:
        low, high = self.jackknife.interval()
        p_value = None if tail is None else getattr(self.null, tail)[place]
        return MeasuredValue.model_validate(
            {
                "measure": name,
                "unit": unit,
                "layer": layer,
                "value": number_or_none(self.jackknife.value[place]),
                "null": LABELS_PERMUTED,
                "null_mean": number_or_none(self.null.mean[place]),
                "null_low": number_or_none(self.null.low[place]),
                "null_high": number_or_none(self.null.high[place]),
                "excess": number_or_none(self.jackknife.value[place] - self.null.mean[place]),
                "low": number_or_none(low[place]),
                "high": number_or_none(high[place]),
                "p_value": None if p_value is None else number_or_none(p_value),
                **where,
            }
        )


def number_or_none(value: float) -> float | None:
    """Return a finite number, or None."""
    return float(value) if np.isfinite(value) else None


def measure_layer(trace: Trace, layer: LayerTrace, classes: Classes, weight: Weight) -> Iterator[MeasuredValue]:
    """Yield all measures of one layer. Without two classes there are those of all texts alone."""
    yield from _pooled(trace, layer)
    if len(classes.names) < 2:
        return
    scope = _Scope(layer=layer.record.layer, classes=classes, weight=weight)
    counts = scope.profiles(layer.selected)
    yield from _divergences(counts, scope)
    yield from _loads(counts, scope)
    yield from _means(trace, layer, scope)
    yield from _experts(trace, layer, counts, scope)
    if layer.norms:
        yield from _answers(layer, scope)


def _divergences(counts: FloatArray, scope: _Scope) -> Iterator[MeasuredValue]:
    names = scope.classes.names
    at = np.triu_indices(len(names), k=1)

    def measure(totals: FloatArray) -> FloatArray:
        pairs = info.pairwise_js(totals)[..., at[0], at[1]]
        layer = [info.generalised_js(totals), info.normalised_js(totals), pairs.mean(axis=-1)]
        return np.concatenate([np.stack(layer, axis=-1), pairs], axis=-1)

    found = _Estimate.of(measure, counts, scope)
    units = {"generalised_js": "bits", "normalised_js": "share", "mean_pairwise_js": "bits"}
    for place, (name, unit) in enumerate(units.items()):
        yield found.at(place, name, unit, scope.layer, "upper")
    for place, (a, b) in enumerate(zip(*at, strict=True), start=len(units)):
        yield found.at(place, "pairwise_js", "bits", scope.layer, "upper", label=names[a], other=names[b])


def _loads(counts: FloatArray, scope: _Scope) -> Iterator[MeasuredValue]:
    for name, formula, unit in LOADS:
        found = _Estimate.of(formula, counts, scope)
        for place, label in enumerate(scope.classes.names):
            yield found.at(place, name, unit, scope.layer, "two_sided", label=label)


LOADS: tuple[tuple[str, Callable[[FloatArray], FloatArray], str], ...] = (
    ("load_entropy", info.load_entropy, "share of log2 E"),
    ("max_violation", info.max_violation, "ratio"),
)
SUM_UNITS = {"entropy": "bits", "weight_entropy": "bits"}


def _ratio(totals: FloatArray) -> FloatArray:
    """Return the first half of the columns over the second half."""
    half = totals.shape[-1] // 2
    parts, wholes = totals[..., :half], totals[..., half:]
    ratio: FloatArray = np.divide(parts, wholes, out=np.full_like(parts, np.nan), where=wholes > 0)
    return ratio.reshape(*ratio.shape[:-2], -1)


def _means(trace: Trace, layer: LayerTrace, scope: _Scope) -> Iterator[MeasuredValue]:
    tokens = scope.chosen(trace.num_tokens[:, None])
    for column, name in enumerate(SUMS):
        sums = scope.chosen(layer.sums[:, column : column + 1])
        if np.isnan(sums).any():
            continue
        rows = np.concatenate([sums, tokens], axis=1) if scope.weight == "token" else _per_text(sums, tokens)
        found = _Estimate.of(_ratio, rows, scope)
        for place, label in enumerate(scope.classes.names):
            unit = SUM_UNITS.get(name, "probability")
            yield found.at(place, name, unit, scope.layer, "two_sided", label=label)


def _per_text(sums: FloatArray, tokens: FloatArray) -> FloatArray:
    return np.concatenate([sums / tokens, np.broadcast_to(np.ones_like(tokens), sums.shape)], axis=1)


def _experts(trace: Trace, layer: LayerTrace, counts: FloatArray, scope: _Scope) -> Iterator[MeasuredValue]:
    shape = (len(scope.classes.names), layer.record.num_experts)
    tokens = np.repeat(scope.chosen(trace.num_tokens[:, None]), shape[1], axis=1)
    selected, mass = scope.chosen(layer.selected), scope.chosen(layer.mass)
    used = np.concatenate([selected, tokens], axis=1) if scope.weight == "token" else _per_text(selected, tokens)
    yield from _per_expert("utilisation", "share of tokens", _Estimate.of(_ratio, used, scope), shape, scope)
    masses = scope.profiles(layer.mass) if scope.weight == "text" else mass
    found = _Estimate.of(lambda totals: _flat(info.shares(totals)), masses, scope)
    yield from _per_expert("mass_share", "share of weights", found, shape, scope)
    found = _Estimate.of(log_lift, counts, scope)
    yield from _per_expert("lift", "log2 ratio", found, shape, scope, p_values=found.jackknife.p_values())
    found = _Estimate.of(info.class_information, counts, scope)
    for expert in range(shape[1]):
        yield found.at(expert, "class_information", "bits", scope.layer, "upper", expert=expert)


def log_lift(totals: FloatArray) -> FloatArray:
    """Return log2 of `information.lift` with half a selection added to each count, classes and experts in a row."""
    return _flat(np.log2(info.lift(totals, added=HALF)))


def _flat(values: FloatArray) -> FloatArray:
    return values.reshape(*values.shape[:-2], -1)


def _per_expert(
    name: str,
    unit: str,
    found: _Estimate,
    shape: tuple[int, int],
    scope: _Scope,
    *,
    p_values: FloatArray | None = None,
) -> Iterator[MeasuredValue]:
    for place in range(shape[0] * shape[1]):
        label, expert = scope.classes.names[place // shape[1]], place % shape[1]
        row = found.at(place, name, unit, scope.layer, "two_sided", label=label, expert=expert)
        if p_values is not None:
            row.p_value = number_or_none(p_values[place])
        yield row


def _answers(layer: LayerTrace, scope: _Scope) -> Iterator[MeasuredValue]:
    """REAP's saliency, mean of g |f(x)| over an expert's tokens, and the mean of |f(x)| (Lasby et al. 2025)."""
    shape = (len(scope.classes.names), layer.record.num_experts)
    selected = scope.chosen(layer.selected)
    for name, sums in (("saliency", "gated_norm"), ("mean_norm", "norm")):
        rows = np.concatenate([scope.chosen(layer.norms[sums]), selected], axis=1)
        yield from _per_expert(name, "length", _Estimate.of(_ratio, rows, scope), shape, scope)


def _pooled(trace: Trace, layer: LayerTrace) -> Iterator[MeasuredValue]:
    codes = np.zeros(len(trace.text_ids), dtype=np.intp)
    where = {"layer": layer.record.layer, "label": ALL_TEXTS}
    uniform = _uniform_loads(layer)
    for name, formula, unit in LOADS:
        estimate = jackknife(formula, layer.selected, codes, 1)
        drawn = formula(uniform)
        yield _pooled_value(name, unit, estimate, where, drawn)
    for column, name in enumerate(SUMS):
        if not np.isnan(layer.sums[:, column]).any():
            rows = np.stack([layer.sums[:, column], trace.num_tokens], axis=1)
            estimate = jackknife(_ratio, rows, codes, 1)
            yield _pooled_value(name, SUM_UNITS.get(name, "probability"), estimate, where, None)


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
