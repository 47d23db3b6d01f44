"""A gate in closed form: ridge regression from prompts' mean embeddings to experts, then one temperature."""

import math

import torch
from torch import nn

from moe_ray.architectures.gating_network import GatingNetwork
from moe_ray.routing.calibration import fit_temperature
from moe_ray.routing.embedding.fitting import LabelledFeatures


def fit_ridge(
    train: LabelledFeatures, validation: LabelledFeatures, num_experts: int, *, strength: float
) -> tuple[GatingNetwork, float]:
    """Return a linear gate that regresses to 1 for a text's expert and 0 for the others, and its temperature.

    `strength` is the penalty on the weights as a share of a feature's spread. The regression's values are no logits:
    they are divided by the temperature at which the validation texts are likeliest, so that probabilities mean
    something. Experts weigh evenly, however many texts each has.
    """
    network = GatingNetwork(train.features.shape[1], num_experts, hidden_sizes=(), dropout=0.0)
    network = network.to(train.features.device).eval()
    network.standardise(train.features)
    with torch.inference_mode():
        weight, bias = _solve(_directions(network, train.features), train.labels, num_experts, strength)
        network.output.weight.copy_(weight)
        network.output.bias.copy_(bias)
        logits = network(validation.features).double().cpu().numpy()
        temperature = fit_temperature(logits, validation.labels.cpu().numpy())
        network.output.weight.div_(temperature)
        network.output.bias.div_(temperature)
    return network, temperature


def _directions(network: GatingNetwork, features: torch.Tensor) -> torch.Tensor:
    """What the output layer of a network without hidden layers sees, in float64 [n, H]."""
    return nn.functional.normalize(network.features(features).double(), dim=1) * math.sqrt(network.num_inputs)


def _solve(
    inputs: torch.Tensor, labels: torch.Tensor, num_experts: int, strength: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights [num_experts, H] and biases [num_experts] of the regression on `inputs` [n, H]."""
    shares = 1 / torch.bincount(labels, minlength=num_experts).double()
    weights = (shares[labels] / num_experts)[:, None]
    targets = nn.functional.one_hot(labels, num_experts).double()
    input_mean, target_mean = (weights * inputs).sum(dim=0), (weights * targets).sum(dim=0)
    centred = inputs - input_mean
    gram = centred.T @ (weights * centred)
    penalty = strength * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    solution = torch.linalg.solve(gram + penalty, centred.T @ (weights * (targets - target_mean)))
    return solution.T, target_mean - input_mean @ solution
