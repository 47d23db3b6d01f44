"""Mean answers of experts to the tokens that select them, which the operation mean puts in their place.

The mean of an expert's answers is taken over the tokens of reference texts, each of the same weight (MoNE replaces
experts so). Shapes: N tokens, K selected experts, E experts, H hidden.
"""

# ruff: noqa: N806, N815 - capital suffixes name the axes of a tensor

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor

from moe_ray.mixtures.sites import RoutedTokens, RoutingSite, answers_alone, on_experts


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MeanAnswers:
    """Mean answers of a layer's experts [E, H] in float64, and how many selections each is the mean of [E].

    An expert that no token selects has the answer 0.
    """

    answers_EH: Tensor
    counts_E: Tensor


def mean_answers(sites: Sequence[RoutingSite], passes: Iterable[Callable[[], object]]) -> list[MeanAnswers]:
    """Return the mean answers of each site's experts over all tokens of forward passes.

    `passes` read unpadded tokens; they run one after the other, so that the sums do not depend on memory. Raises
    `ModelError` for experts that cannot answer alone.
    """
    sums: list[Tensor | None] = [None] * len(sites)
    counts = [torch.zeros(site.record.num_experts, dtype=torch.long) for site in sites]

    def adding(at: int) -> Callable[[RoutedTokens], None]:
        def add(routed: RoutedTokens) -> None:
            found, number = _summed(sites[at], routed)
            earlier = sums[at]
            sums[at] = found if earlier is None else earlier + found
            counts[at] += number

        return add

    with ExitStack() as stack:
        for at, site in enumerate(sites):
            stack.callback(on_experts(site.experts, adding(at)).remove)
        for run in passes:
            run()
    return [
        MeanAnswers(answers_EH=total / number.clamp(min=1)[:, None].to(total.device), counts_E=number)
        for total, number in zip((one for one in sums if one is not None), counts, strict=True)
    ]


def _summed(site: RoutingSite, routed: RoutedTokens) -> tuple[Tensor, Tensor]:
    """Return sums of answers [E, H] and numbers of selections [E] of a pass."""
    num_experts = site.record.num_experts
    sums_EH = torch.zeros(num_experts, routed.hidden.shape[-1], dtype=torch.float64, device=routed.hidden.device)
    used = (routed.index >= 0) & (routed.index < num_experts)
    for expert in sorted(set(routed.index[used].tolist())):
        tokens, _ = torch.where(routed.index == expert)
        answers = answers_alone(site.experts, routed.hidden[tokens], torch.full_like(tokens, expert))
        sums_EH[expert] = answers.double().sum(dim=0)
    return sums_EH, torch.bincount(routed.index[used].cpu().long(), minlength=num_experts)
