"""How far the labels themselves can be trusted: texts that no router gets right, and what they all say instead."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.router_accuracy.records import Share, Verdict

WORD_BOUNDS = (6, 15, 60)


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Of n texts: how many any router gets right, how many none does, and of those how many get one other label."""

    n: int
    num_any_right: int
    num_none_right: int
    num_one_other_label: int


def agreement(by_router: Mapping[str, Sequence[Verdict]]) -> Agreement:
    """Compare routers text by text; all have judged the same texts in the same order."""
    texts = list(zip(*by_router.values(), strict=True))
    none_right = [each for each in texts if all(verdict.predicted != verdict.label for verdict in each)]
    return Agreement(
        n=len(texts),
        num_any_right=len(texts) - len(none_right),
        num_none_right=len(none_right),
        num_one_other_label=sum(len({verdict.predicted for verdict in each}) == 1 for each in none_right),
    )


def surest_mistakes(verdicts: Iterable[Verdict]) -> list[Verdict]:
    """Return the texts that were given another label than their own, the surest mistakes first."""
    wrong = [verdict for verdict in verdicts if verdict.predicted != verdict.label]
    return sorted(wrong, key=lambda verdict: (-verdict.confidence, verdict.id))


def shares_by(verdicts: Iterable[Verdict], group_of: Callable[[Verdict], str]) -> dict[str, Share]:
    """Return the share that was given its own label, by group."""
    groups: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        groups.setdefault(group_of(verdict), []).append(verdict)
    return {
        group: Share(num_right=sum(verdict.predicted == verdict.label for verdict in members), n=len(members))
        for group, members in sorted(groups.items())
    }


def length_group(verdict: Verdict) -> str:
    """Name the range that a text's number of words falls into; names are in the order of the ranges."""
    lows = (0, *(bound + 1 for bound in WORD_BOUNDS))
    at = sum(verdict.num_words >= low for low in lows) - 1
    last = at == len(WORD_BOUNDS)
    return f"{lows[at]:2} words and more" if last else f"{lows[at]:2} to {WORD_BOUNDS[at]} words"
