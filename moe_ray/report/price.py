"""What one example costs a system, held against what it costs the baseline."""

from collections.abc import Sequence
from dataclasses import dataclass

from moe_ray.comparison.records import ExampleCost, Summary
from moe_ray.comparison.systems import BASELINE
from moe_ray.report.format import NO_BREAK, seconds, share, size, times
from moe_ray.report.views import spoken


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """The cost of one example of a domain. `baseline` is None where the baseline's was not measured."""

    cost: ExampleCost
    baseline: ExampleCost | None

    @property
    def time_ratio(self) -> float | None:
        """Busy time over the baseline's."""
        return self.cost.busy_s / self.baseline.busy_s if self.baseline and self.baseline.busy_s else None

    @property
    def memory_ratio(self) -> float | None:
        """Memory held over time against the baseline's, None where the two were not measured alike."""
        mine, other = self.cost, self.baseline
        if other is None or mine.memory_byte_s is None or not other.memory_byte_s:
            return None
        return mine.memory_byte_s / other.memory_byte_s if mine.memory_kind == other.memory_kind else None


def price_of(summary: Summary, system: str, domain: str) -> Price | None:
    """The price of `system` on `domain`, None where it was not measured."""
    cost = summary.cost(system, domain)
    return Price(cost=cost, baseline=summary.cost(BASELINE, domain)) if cost is not None else None


def price_sentence(prices: Sequence[Price], system: str) -> str:
    """The ratios of several domains in words, and what the models behind a router hold loaded; empty without any."""
    time = [ratio for price in prices if (ratio := price.time_ratio) is not None]
    memory = [ratio for price in prices if (ratio := price.memory_ratio) is not None]
    if not time:
        return ""
    text = f"One example costs the {spoken(system)} {_range(time)} the {BASELINE}'s busy time{_routing_time(prices)}"
    over_time = f" and {_range(memory)} its memory held over time" if memory else ""
    return f"{text}{over_time}.{_kept_loaded(prices)}"


def _routing_time(prices: Sequence[Price]) -> str:
    """What of the busy time is the router's, at most."""
    spent = [price.cost.router_s for price in prices if price.cost.router_s is not None]
    return f", at most {seconds(max(spent)).replace(' ', NO_BREAK)} of it the router's," if spent else ""


def _kept_loaded(prices: Sequence[Price]) -> str:
    """Memory of all models that a router may pick, who must all be at hand, against the baseline's."""
    behind = [price for price in prices if price.cost.router_s is not None]
    pairs = [(price.cost.resident_bytes, price.baseline.resident_bytes) for price in behind if price.baseline]
    both = [(mine, other) for mine, other in pairs if mine is not None and other is not None]
    if not both:
        return ""
    mine, other = (size(max(sizes)).replace(" ", NO_BREAK) for sizes in zip(*both, strict=True))
    return f" Kept loaded together, the models that may answer hold {mine}, the {BASELINE} {other}."


def _range(ratios: Sequence[float]) -> str:
    """ "1.10 times", "0.80 to 1.10 times"."""
    ends = dict.fromkeys(share(end) for end in (min(ratios), max(ratios)))
    return f"{' to '.join(ends)}{NO_BREAK}times"


def price_line(price: Price, system: str) -> str:
    """One domain's price with its ratios and n; empty where there is nothing to hold it against."""
    if price.baseline is None or price.time_ratio is None:
        return ""
    spent, other = (seconds(cost.busy_s).replace(" ", NO_BREAK) for cost in (price.cost, price.baseline))
    both = f"{system} {spent}, {BASELINE} {other}"
    memory = f", memory over time {times(price.memory_ratio)}" if price.memory_ratio is not None else ""
    counts = " and ".join(str(num) for num in dict.fromkeys((price.cost.n, price.baseline.n)))
    return f"Per example: {both} busy ({times(price.time_ratio)}){memory}, n{NO_BREAK}={NO_BREAK}{counts}"
