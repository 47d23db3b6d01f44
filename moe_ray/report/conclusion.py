"""What a run concludes: a headline, and a verdict for each domain."""

from dataclasses import dataclass

from moe_ray.report.effect import Effect


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainVerdict:
    """One domain's sentence, by its first metric. `winner` is a system, or None when no difference was shown or tested.

    `expert` is the model that answers for the experts. `open_reason` says why nothing was concluded, if so. `failures`
    tells which system failed how often, `others` what the other metrics show where that is something else, `figures`
    how certain the sentence is, and `cost` what an example costs on both sides. `is_lost`: the contest's other system
    won.
    """

    domain: str
    expert: str | None
    metric: str
    winner: str | None
    sentence: str
    is_lost: bool = False
    open_reason: str = ""
    failures: str = ""
    others: str = ""
    figures: str = ""
    cost: str = ""
    effect: Effect | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Headline:
    """The one sentence of the run, what it costs, and a verdict for each domain.

    `also` says how the other ways of using the same experts fare, `cost` what was measured; both may be empty.
    """

    sentence: str
    also: str
    cost: str
    domains: tuple[DomainVerdict, ...]


def in_all(num_domains: int) -> str:
    """ "in the one domain tested", "in both domains"."""
    if num_domains == 1:
        return "in the one domain tested"
    return "in both domains" if num_domains == 2 else f"in all {num_domains} domains"


def in_any(num_domains: int) -> str:
    """ "in the one domain tested", "in any of the 3 domains"."""
    return "in the one domain tested" if num_domains == 1 else f"in any of the {num_domains} domains"
