"""The cost of one example for a system, compared with the baseline."""

from collections.abc import Sequence
from dataclasses import dataclass

from moe_ray.comparison.records import CostRatio, ExampleCost, Summary
from moe_ray.comparison.systems import BASELINE
from moe_ray.formatting import NO_BREAK, listed, seconds, share, size, times, words
from moe_ray.report.views import the

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
