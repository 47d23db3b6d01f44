"""The gating network and the mean embedding, against closed forms and a slow plain mean."""

import pytest
import torch
from torch import nn

from moe_ray.architectures.gating_network import GatingNetwork, mean_embeddings, mean_of_embedded


def plain_mean(matrix: torch.Tensor, ids: list[int]) -> list[float]:
    """The mean of the rows `ids`, one number after the other."""
    columns = range(matrix.shape[1])
    return [sum(float(matrix[one, at]) for one in ids) / len(ids) if ids else 0.0 for at in columns]


def matrix(num_tokens: int = 11, size: int = 5, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(num_tokens, size, generator=torch.Generator().manual_seed(3)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_mean_is_that_of_the_tokens_that_are_no_padding(dtype: torch.dtype) -> None:
    rows = [[3, 7, 7, 1], [10], [], [0, 2]]
    ids = torch.tensor([[3, 7, 7, 1], [10, 4, 4, 4], [9, 9, 9, 9], [5, 0, 2, 5]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0], [0, 0, 0, 0], [0, 1, 1, 0]])
    means = mean_embeddings(matrix(dtype=dtype), ids, mask)
    assert means.dtype == torch.float32
    expected = torch.tensor([plain_mean(matrix(dtype=dtype), row) for row in rows])
    torch.testing.assert_close(means, expected, rtol=1e-5, atol=1e-6)


def test_a_padding_token_without_a_finite_embedding_counts_for_nothing() -> None:
    broken = matrix()
    broken[0] = torch.nan
    means = mean_embeddings(broken, torch.tensor([[4, 0, 0]]), torch.tensor([[1, 0, 0]]))
    assert torch.equal(means[0], broken[4])


def test_a_models_own_embedding_module_may_scale_what_it_looks_up() -> None:
    class Scaled(nn.Embedding):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return super().forward(input) * 3

    module = Scaled(11, 5, _weight=matrix())
    ids, mask = torch.tensor([[1, 2], [3, 0]]), torch.tensor([[1, 1], [1, 0]])
    torch.testing.assert_close(mean_embeddings(module, ids, mask), 3 * mean_embeddings(matrix(), ids, mask))


def test_tokens_that_were_looked_up_already_have_the_same_mean() -> None:
    ids, mask = torch.tensor([[1, 2, 9], [3, 0, 0]]), torch.tensor([[1, 0, 1], [1, 0, 0]])
    assert torch.equal(mean_of_embedded(matrix()[ids], mask), mean_embeddings(matrix(), ids, mask))


def network(*hidden_sizes: int, dropout: float = 0.0) -> GatingNetwork:
    torch.manual_seed(5)
    return GatingNetwork(4, 3, hidden_sizes=hidden_sizes, dropout=dropout).eval()


def test_the_network_is_the_mlp_that_its_weights_say() -> None:
    gating, inputs = network(6, 2), matrix(7, 4)
    gating.standardise(matrix(50, 4) * 9 + 2)
    shifted = (inputs - gating.mean) / gating.scale
    hidden = shifted / shifted.square().sum(dim=1, keepdim=True).sqrt() * 2.0
    for name in ("hidden.0.0", "hidden.1.0"):
        weight, bias = (gating.state_dict()[f"{name}.{part}"] for part in ("weight", "bias"))
        hidden = (hidden @ weight.T + bias).clamp(min=0)
    expected = hidden @ gating.output.weight.T + gating.output.bias
    torch.testing.assert_close(gating(inputs), expected)


def test_without_hidden_sizes_it_is_linear_in_the_direction() -> None:
    gating, inputs = network(), matrix(7, 4)
    directions = inputs / inputs.norm(dim=1, keepdim=True) * 2.0
    torch.testing.assert_close(gating(inputs), directions @ gating.output.weight.T + gating.output.bias)


def test_how_far_out_an_input_lies_changes_features_and_no_logits() -> None:
    gating, inputs = network(6), matrix(7, 4)
    torch.testing.assert_close(gating(inputs * 100), gating(inputs))
    assert not torch.allclose(gating.features(inputs * 100), gating.features(inputs))


def test_standardised_inputs_have_mean_zero_and_spread_one() -> None:
    gating, inputs = network(), matrix(40, 4) * torch.tensor([1.0, 50.0, 0.3, 7.0]) + 20
    gating.standardise(inputs)
    standardised = gating.features(inputs)
    torch.testing.assert_close(standardised.mean(dim=0), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(standardised.std(dim=0, correction=0), torch.ones(4), atol=1e-4, rtol=0)


def test_an_input_that_never_varied_stays_harmless() -> None:
    gating, inputs = network(6), matrix(40, 4)
    inputs[:, 1] = 3.0
    gating.standardise(inputs)
    strange = inputs[:1].clone()
    strange[:, 1] = 3.5
    assert gating.features(strange).isfinite().all()
    assert gating.scale[1] == 1


def test_an_input_of_zeros_gets_finite_logits() -> None:
    assert network(6)(torch.zeros(1, 4)).isfinite().all()


def test_dropout_is_only_there_in_training() -> None:
    gating, inputs = network(64, dropout=0.5), matrix(7, 4)
    assert torch.equal(gating(inputs), gating(inputs))
    gating.train()
    assert not torch.equal(gating(inputs), gating(inputs))
