"""Drawing one token for each row. Shapes: B rows, V vocabulary."""

# ruff: noqa: N803, N806 - capital suffixes name the axes of a tensor

from collections.abc import Sequence

import torch


def uniforms(seed: int, num: int) -> list[float]:
    """Return `num` uniform numbers in [0, 1) that follow from `seed` alone, on every device."""
    generator = torch.Generator("cpu").manual_seed(seed)
    drawn: list[float] = torch.rand(num, generator=generator, dtype=torch.float64).tolist()
    return drawn


def choose_tokens(
    logits_BV: torch.Tensor, temperatures: Sequence[float], top_ps: Sequence[float], uniforms_B: Sequence[float]
) -> list[int]:
    """Return one token id for each row of float32 `logits_BV`: the likeliest at temperature 0, else a draw.

    A draw inverts the cumulative distribution at the row's uniform number, so that a row's text follows from
    its own seed and does not depend on the rows beside it.
    """
    tokens: list[int] = logits_BV.argmax(dim=-1).tolist()
    for row, temperature in enumerate(temperatures):
        if temperature > 0:
            tokens[row] = _draw(logits_BV[row], temperature, top_ps[row], uniforms_B[row])
    return tokens


def _draw(logits_V: torch.Tensor, temperature: float, top_p: float, uniform: float) -> int:
    """Draw from the smallest set of likeliest tokens whose probability reaches `top_p`."""
    probabilities_V = (logits_V.double() / temperature).softmax(dim=-1)
    sorted_V, order_V = probabilities_V.sort(descending=True, stable=True)
    cumulative_V = sorted_V.cumsum(dim=-1)
    num_kept = int((cumulative_V - sorted_V < top_p).sum())
    threshold = uniform * float(cumulative_V[num_kept - 1])
    index = int((cumulative_V[:num_kept] <= threshold).sum())
    return int(order_V[min(index, num_kept - 1)])
