"""Costs and resources: sentences for the headline, and the tables of cost, latency and memory."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from moe_ray import formatting as text
from moe_ray.comparison.records import CostRatio, ExampleCost, MetricValue, ModelResources, Spread, Summary
from moe_ray.comparison.systems import BASELINE
from moe_ray.formatting import NO_BREAK, NONE, Unit, in_one_unit, listed, seconds, share, size, times, words
from moe_ray.report.views import DomainView, SystemRow, the

DEFINITIONS = (
    "Compute time: how long a GPU or CPU slot works on an example. "
    "Memory-seconds: that time multiplied by the memory that the model occupies."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """The cost of one example of a domain. `baseline` is None where the baseline's was not measured."""

    cost: ExampleCost
    baseline: ExampleCost | None


def price_of(summary: Summary, system: str, domain: str) -> Price | None:
    """The price of `system` on `domain`, None where it was not measured."""
    cost = summary.cost(system, domain)
    return Price(cost=cost, baseline=summary.cost(BASELINE, domain)) if cost is not None else None


def is_shown(ratio: CostRatio | None) -> bool:
    """True where the interval of a ratio leaves out 1: there is a difference to speak of."""
    return ratio is not None and ratio.low is not None and ratio.high is not None and not ratio.low <= 1 <= ratio.high


def price_sentence(prices: Sequence[Price], system: str) -> str:
    """The ratios that differ from 1 in words, and what the models behind a router hold loaded; empty without any.

    A ratio whose interval holds 1 is not spoken of: the tables have it.
    """
    time = [(price.cost.domain, price.cost.time_ratio) for price in prices if is_shown(price.cost.time_ratio)]
    memory = [(price.cost.domain, price.cost.memory_ratio) for price in prices if is_shown(price.cost.memory_ratio)]
    of_time = _ratios("compute time", [(name, ratio) for name, ratio in time if ratio], len(prices))
    of_memory = _ratios("memory-seconds", [(name, ratio) for name, ratio in memory if ratio], len(prices))
    found = [text for text in (of_time, of_memory) if text]
    routing = _routing_time(prices)
    said = f"One example costs {the(system)} {' and '.join(found)}{routing}." if found else ""
    return f"{said}{_kept_loaded(prices)}".strip()


def _ratios(what: str, found: Sequence[tuple[str, CostRatio]], num_domains: int) -> str:
    if not found:
        return ""
    ends = [end for _, ratio in found for end in (ratio.low, ratio.high) if end is not None]
    bounds = f"95{NO_BREAK}% interval{'s' if len(found) > 1 else ''} {share(min(ends))} to {share(max(ends))}"
    where = "" if len(found) == num_domains else f" in {listed([words(name) for name, _ in found])}"
    return f"{_range([ratio.value for _, ratio in found])} the {BASELINE}'s {what}{where} ({bounds})"


def _routing_time(prices: Sequence[Price]) -> str:
    """What of the busy time is the router's, at most."""
    spent = [price.cost.router_s for price in prices if price.cost.router_s is not None]
    most = seconds(max(spent)).replace(" ", NO_BREAK) if spent else ""
    return f"; at most {most} of the compute time is the router's" if spent else ""


def _kept_loaded(prices: Sequence[Price]) -> str:
    """Memory of all models that a router may pick, all of which must be at hand, against the baseline's."""
    behind = [price for price in prices if price.cost.router_s is not None]
    pairs = [(price.cost.resident_bytes, price.baseline.resident_bytes) for price in behind if price.baseline]
    both = [(mine, other) for mine, other in pairs if mine is not None and other is not None]
    if not both:
        return ""
    mine, other = (size(max(sizes)).replace(" ", NO_BREAK) for sizes in zip(*both, strict=True))
    return f" All models that may answer take {mine} when kept loaded together; the {BASELINE} takes {other}."


def _range(ratios: Sequence[float]) -> str:
    """ "1.10 times", "0.80 to 1.10 times"."""
    ends = dict.fromkeys(share(end) for end in (min(ratios), max(ratios)))
    return f"{' to '.join(ends)}{NO_BREAK}times"


def ratio_text(ratio: CostRatio | None) -> str:
    """A ratio with its interval."""
    if ratio is None:
        return times(None)
    return f"{times(ratio.value)} {ratio_bounds(ratio)}"


def ratio_bounds(ratio: CostRatio | None) -> str:
    """The interval of a ratio, or that there is none."""
    if ratio is None or ratio.low is None or ratio.high is None:
        return "no interval"
    return f"[{share(ratio.low)},{NO_BREAK}{share(ratio.high)}]"


def price_line(price: Price, system: str) -> str:
    """One domain's price with its ratios and n; empty where there is nothing to compare it with."""
    ratio = price.cost.time_ratio
    if price.baseline is None or ratio is None:
        return ""
    spent, other = (seconds(cost.busy_s).replace(" ", NO_BREAK) for cost in (price.cost, price.baseline))
    both = f"{system} {spent}, {BASELINE} {other}"
    of_memory = price.cost.memory_ratio
    memory = f", memory-seconds {ratio_text(of_memory)}" if of_memory is not None else ""
    open_ = "" if is_shown(ratio) else "; no difference in time shown"
    counts = " and ".join(str(num) for num in dict.fromkeys((price.cost.n, price.baseline.n)))
    return f"Compute time per example: {both} ({ratio_text(ratio)}){memory}{open_}, n{NO_BREAK}={NO_BREAK}{counts}"


RowValues = Sequence[float | None]
RATIO_CAPTION = "ratios with 95 % intervals over batches, widened for what differs between two starts of a model"


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureColumn:
    """A title with its unit, and for each row a text and what stands small beneath it."""

    title: str
    cells: tuple[str, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The rows from `start` to `end`, under a title of their own where there is one."""

    title: str
    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Measures:
    """A table. `names` are the rows' names, `notes` what stands small beneath them."""

    title: str
    caption: str
    row_title: str
    names: tuple[str, ...]
    notes: tuple[str, ...]
    columns: tuple[MeasureColumn, ...]
    groups: tuple[Group, ...]


def _in_unit(title: str, values: RowValues, units: Sequence[Unit], notes: Sequence[str] = ()) -> MeasureColumn:
    return next(_sharing_a_unit({title: values}, units, notes))


def _sharing_a_unit(
    values: Mapping[str, RowValues], units: Sequence[Unit], notes: Sequence[str] = ()
) -> Iterator[MeasureColumn]:
    """Columns that are read against each other."""
    unit, texts = in_one_unit([value for column in values.values() for value in column], units)
    at = 0
    for title, column in values.items():
        yield MeasureColumn(title=f"{title} ({unit})", cells=tuple(texts[at : at + len(column)]), notes=tuple(notes))
        at += len(column)


def _where_known(title: str, values: RowValues, units: Sequence[Unit]) -> list[MeasureColumn]:
    """The column, unless no row has a value."""
    return [_in_unit(title, values, units)] if any(value is not None for value in values) else []


def plain(title: str, cells: Iterable[str], notes: Iterable[str] = ()) -> MeasureColumn:
    """A column of texts."""
    return MeasureColumn(title=title, cells=tuple(cells), notes=tuple(notes))


def table(
    title: str,
    caption: str,
    row_title: str,
    names: Sequence[str],
    columns: Sequence[MeasureColumn],
    *,
    notes: Sequence[str] = (),
    groups: Sequence[Group] = (),
) -> Measures:
    """A table of `columns`; without `groups`, of one without a title."""
    return Measures(
        title=title,
        caption=caption,
        row_title=row_title,
        names=tuple(names),
        notes=tuple(notes) or ("",) * len(names),
        columns=tuple(columns),
        groups=tuple(groups) or (Group(title="", start=0, end=len(names)),),
    )


class _Priced(NamedTuple):
    """A system on a domain: what it is worth there, and what it costs."""

    row: SystemRow
    value: MetricValue
    price: Price


def cost_table(summary: Summary, views: Sequence[DomainView]) -> Measures:
    """What one example costs, by domain and system."""
    groups, priced = [], list[_Priced]()
    for view in views:
        start = len(priced)
        priced += _priced(summary, view)
        groups.append(Group(title=f"{text.words(view.name)}, {view.metrics[0].title}", start=start, end=len(priced)))
    costs = [item.price.cost for item in priced]
    kinds = [text.words(cost.memory_kind or NONE) for cost in costs]
    has_one_kind = len(set(kinds)) == 1
    measured_by = kinds[0] if has_one_kind else "the kind below each value"
    columns = (
        plain("quality and 95 % interval", [_worth(item.value) for item in priced]),
        _in_unit("compute time", [cost.busy_s for cost in costs], text.SECONDS),
        _ratio_column([item.price.cost.time_ratio for item in priced]),
        _in_unit(
            "memory-seconds",
            [cost.memory_byte_s for cost in costs],
            text.BYTE_SECONDS,
            [] if has_one_kind else kinds,
        ),
        _ratio_column([item.price.cost.memory_ratio for item in priced]),
        *_where_known("router's part", [cost.router_s for cost in costs], text.SECONDS),
        *_where_known("kept loaded", [cost.resident_bytes for cost in costs], text.BYTES),
        plain("n", [text.count(cost.n) for cost in costs]),
    )
    loaded = any(cost.resident_bytes is not None for cost in costs)
    kept = "; kept loaded: all models that the system may pick on any domain, together" if loaded else ""
    names = [item.row.label for item in priced]
    caption = f"Cost of one example, by domain and system; memory by {measured_by}{kept}; {RATIO_CAPTION}"
    return table("Cost of one example", caption, "system", names, columns, groups=groups)


def _ratio_column(ratios: Sequence[CostRatio | None]) -> MeasureColumn:
    cells = [text.times(ratio.value if ratio else None) for ratio in ratios]
    return plain("ratio to the baseline", cells, [ratio_bounds(ratio) if ratio else "" for ratio in ratios])


def _worth(value: MetricValue) -> str:
    return f"{text.number(value.value)} {text.interval(value.low, value.high)}"


def _priced(summary: Summary, view: DomainView) -> Iterator[_Priced]:
    for row, value in view.metrics[0].values:
        price = price_of(summary, row.system, view.name)
        if price is not None:
            yield _Priced(row, value, price)


def latency_table(models: Mapping[str, ModelResources]) -> Measures:
    """Latency and throughput by model."""
    found = [{item.quantity: item for item in model.latency} for model in models.values()]
    whole = [latency.get("total_s") for latency in found]
    first = [latency.get("time_to_first_token_s") for latency in found]
    probes = [model.probe.total_s if model.probe else None for model in models.values()]
    times = {
        "p50": [item.p50_s if item else None for item in whole],
        "p90": [item.p90_s if item else None for item in whole],
        "p99": [item.p99_s if item else None for item in whole],
        "first token p50": [item.p50_s if item else None for item in first],
    }
    medians = [probe.median if probe else None for probe in probes]
    columns = (
        plain("answers timed", [text.count(item.n) if item else NONE for item in whole]),
        *_sharing_a_unit(times, text.SECONDS),
        plain("batch rows", [text.significant(model.batch_rows_median) for model in models.values()]),
        _in_unit("alone", medians, text.SECONDS, [f"n = {probe.n}" if probe else "" for probe in probes]),
        plain("tokens / compute s", [text.significant(item.completion_tokens_per_busy_s) for item in models.values()]),
        _in_unit("compute time", [model.busy_s for model in models.values()], text.SECONDS),
    )
    caption = "Latency and throughput; exact percentiles over all answers of all replicas; alone: one request at a time"
    devices = [", ".join(model.devices) for model in models.values()]
    return table("Latency and throughput", caption, "model", list(models), columns, notes=devices)


def memory_table(models: Mapping[str, ModelResources]) -> Measures:
    """Peak memory, loading and energy by model."""
    memory = [model.peak_memory for model in models.values()]
    sizes = {
        "weights": [item.weights_bytes for item in memory],
        "resident set": [item.resident_bytes for item in memory],
        "torch peak": [item.torch_bytes for item in memory],
        "GPU process": [item.gpu_process_bytes for item in memory],
        "GPU device": [item.gpu_device_bytes for item in memory],
        "not returned": [item.gpu_not_returned_bytes for item in memory],
    }
    clients = [item.client_bytes for item in memory]
    columns = (
        *_sharing_a_unit(sizes, text.BYTES),
        *_where_known("client alone", clients, text.BYTES),
        _spread("load", [model.load_s for model in models.values()]),
        _spread("unload", [model.unload_s for model in models.values()]),
        plain("replicas (lost)", [f"{model.num_replicas} ({model.num_replicas_lost})" for model in models.values()]),
        _in_unit("GPU energy", [model.gpu_energy_j for model in models.values()], text.JOULES),
    )
    note = "; client alone: the process that asks an endpoint, which holds no model" if any(clients) else ""
    caption = f"Peak memory of one replica, median time to load and unload, energy; “{NONE}”: not measured here{note}"
    return table("Memory, loading and energy", caption, "model", list(models), columns)


def _spread(title: str, spreads: Sequence[Spread | None]) -> MeasureColumn:
    notes = [f"max {text.seconds(item.maximum)}, n = {item.n}" if item and item.n > 1 else "" for item in spreads]
    return _in_unit(title, [item.median if item else None for item in spreads], text.SECONDS, notes)
