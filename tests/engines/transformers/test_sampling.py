"""Draws have the distribution that temperature and top-p ask for."""

import pytest
import torch
from scipy import stats
from transformers import TopPLogitsWarper

from moe_ray.engines.transformers.batching import NO_TOKEN, choose_tokens, uniforms

NUM_DRAWS = 20_000


def draws(logits: torch.Tensor, temperature: float, top_p: float) -> torch.Tensor:
    """Draw NUM_DRAWS times from one distribution; return how often each token came."""
    rows = logits.expand(NUM_DRAWS, -1)
    tokens = choose_tokens(rows, [temperature] * NUM_DRAWS, [top_p] * NUM_DRAWS, uniforms(3, NUM_DRAWS))
    return torch.bincount(torch.tensor(tokens), minlength=logits.shape[-1])


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 1.0), (1.3, 0.9), (1.0, 0.5), (1.0, 0.01)])
def test_draws_follow_the_warped_distribution(temperature: float, top_p: float) -> None:
    logits = torch.randn(12, generator=torch.Generator().manual_seed(0)) * 1.5
    warped = TopPLogitsWarper(top_p)(torch.zeros(1, 0, dtype=torch.long), (logits / temperature)[None])[0]
    expected = warped.double().softmax(-1)
    counts = draws(logits, temperature, top_p)
    kept = expected > 0
    assert counts[~kept].sum() == 0
    if kept.sum() > 1:
        assert stats.chisquare(counts[kept].numpy(), (expected[kept] * NUM_DRAWS).numpy()).pvalue > 1e-3


def test_temperature_zero_takes_the_likeliest() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0], [5.0, 1.0, 2.0]])
    assert choose_tokens(logits, [0.0, 0.0], [1.0, 1.0], [0.9, 0.9]) == [1, 0]


def test_a_very_low_temperature_takes_the_likeliest() -> None:
    assert choose_tokens(torch.tensor([[0.0, 3.0, 1.0]]), [1e-4], [1.0], [0.999999]) == [1]


def test_the_largest_uniform_number_still_draws_a_token() -> None:
    logits = torch.full((1, 7), 0.1)
    assert choose_tokens(logits, [1.0], [1.0], [1 - 2**-53])[0] in range(7)


def test_a_row_that_is_not_numbers_gets_no_token() -> None:
    logits = torch.tensor([[0.0, float("nan")], [0.0, 1.0]])
    assert choose_tokens(logits, [1.0, 0.0], [1.0, 1.0], [0.5, 0.5]) == [NO_TOKEN, 1]


def test_uniforms_follow_from_the_seed() -> None:
    assert uniforms(5, 4) == uniforms(5, 4)
    assert uniforms(5, 4) != uniforms(6, 4)
    assert all(0 <= one < 1 for one in uniforms(2**63 - 1, 1000))
