"""Drawing one token for each row. Shapes: B rows, V vocabulary."""

# ruff: noqa: N803, N806 - capital suffixes name the axes of a tensor

from collections.abc import Sequence

import torch

NO_TOKEN = -1


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
    its own seed and does not depend on the rows beside it. A row whose logits are not numbers gets `NO_TOKEN`.
    """
    best_B, likeliest_B = logits_BV.max(dim=-1)
    tokens: list[int] = torch.where(best_B.isfinite(), likeliest_B, NO_TOKEN).tolist()
    drawn = [row for row, temperature in enumerate(temperatures) if temperature > 0 and tokens[row] != NO_TOKEN]
    if drawn:
        columns = [[values[row] for row in drawn] for values in (temperatures, top_ps, uniforms_B)]
        settings_B1 = torch.tensor(columns, dtype=torch.float64, device=logits_BV.device).unsqueeze(-1)
        for row, token in zip(drawn, _draw(logits_BV[drawn], *settings_B1).tolist(), strict=True):
            tokens[row] = token
    return tokens


def _draw(
    logits_BV: torch.Tensor, temperatures_B1: torch.Tensor, top_ps_B1: torch.Tensor, uniforms_B1: torch.Tensor
) -> torch.Tensor:
    """Draw from the smallest sets of likeliest tokens whose probabilities reach `top_ps_B1`; return ids, (B,)."""
    probabilities_BV = (logits_BV.double() / temperatures_B1).softmax(dim=-1)
    sorted_BV, order_BV = probabilities_BV.sort(dim=-1, descending=True, stable=True)
    cumulative_BV = sorted_BV.cumsum(dim=-1)
    last_B1 = (cumulative_BV - sorted_BV < top_ps_B1).sum(dim=-1, keepdim=True) - 1
    thresholds_B1 = uniforms_B1 * cumulative_BV.gather(-1, last_B1)
    places_B1 = (cumulative_BV <= thresholds_B1).sum(dim=-1, keepdim=True).minimum(last_B1)
    return order_BV.gather(-1, places_B1).squeeze(-1)
