"""Gate weights without training: mean gate inputs of each expert's prompts, or ridge regression on gate inputs.

Shapes: E experts, H the hidden size, n tokens.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from torch import nn

from moe_ray.moe.running import TokenBatch, decoder_layers, feed_forward

RIDGE_PENALTY = 1e-2
MAX_STATISTICS_BYTES = 1 << 30

# Receives gate inputs [n, H] and their experts' indices [n].
Add = Callable[[torch.Tensor, torch.Tensor], None]


def fitted_gates(
    init: Literal["prompts", "ridge"],
    model: Any,
    batches: Sequence[TokenBatch],
    layers: Sequence[int],
    *,
    num_experts: int,
    penalty: float,
    scale: float,
) -> dict[int, torch.Tensor]:
    """Return each layer's gate by `prompt_gates` or `ridge_gates`; `penalty` is used by the latter only."""
    if init == "prompts":
        return prompt_gates(model, batches, layers, num_experts=num_experts, scale=scale)
    return ridge_gates(model, batches, layers, num_experts=num_experts, penalty=penalty, scale=scale)


def prompt_gates(
    model: Any, batches: Sequence[TokenBatch], layers: Sequence[int], *, num_experts: int, scale: float = 1.0
) -> dict[int, torch.Tensor]:
    """Return, for each layer, the mean gate input of each expert's tokens, normalised to length `scale`.

    `model` is the dense model. `batches` are labelled, with at least one text for each expert.
    """
    sums = {layer: _Sum(num_experts, int(model.config.hidden_size)) for layer in layers}
    _collect_gate_inputs(model, batches, {layer: one.add for layer, one in sums.items()})
    # Sums suffice: only the direction is kept.
    return {layer: (nn.functional.normalize(one.total, dim=1) * scale).float() for layer, one in sums.items()}


def ridge_gates(
    model: Any,
    batches: Sequence[TokenBatch],
    layers: Sequence[int],
    *,
    num_experts: int,
    penalty: float = RIDGE_PENALTY,
    scale: float = 1.0,
    max_statistics_bytes: int = MAX_STATISTICS_BYTES,
) -> dict[int, torch.Tensor]:
    """Return, for each layer, `scale` times the ridge regression weights W [E, H] of one-hot labels y on gate inputs x.

    W minimises the mean of |x W' - y|^2 over tokens, weighted so that experts count equally, plus
    penalty * mean(x^2) * |W|^2. Statistics take 8 H^2 bytes per layer; layers that exceed `max_statistics_bytes` are
    processed in several passes over the texts.
    """
    hidden_size = int(model.config.hidden_size)
    at_once = max(1, max_statistics_bytes // (8 * hidden_size * (hidden_size + num_experts)))
    weights = _balance(batches, num_experts)
    gates: dict[int, torch.Tensor] = {}
    for start in range(0, len(layers), at_once):
        some = layers[start : start + at_once]
        moments = {layer: _Moments(hidden_size, weights) for layer in some}
        _collect_gate_inputs(model, batches, {layer: moment.add for layer, moment in moments.items()})
        gates |= {layer: (moment.solve(penalty) * scale).float() for layer, moment in moments.items()}
    return gates


class _Sum:
    """The sum [E, H] of each expert's gate inputs."""

    def __init__(self, num_experts: int, hidden_size: int) -> None:
        self.total = torch.zeros(num_experts, hidden_size, dtype=torch.float64)

    def add(self, inputs: torch.Tensor, experts: torch.Tensor) -> None:
        self.total.index_add_(0, experts, inputs.double())


class _Moments:
    """Weighted sums of x x' [H, H] and of x y' [H, E]; a token's weight depends on its expert."""

    def __init__(self, hidden_size: int, weights: torch.Tensor) -> None:
        self._weights = weights
        self._inputs = torch.zeros(hidden_size, hidden_size, dtype=torch.float64)
        self._targets = torch.zeros(hidden_size, len(weights), dtype=torch.float64)

    def add(self, inputs: torch.Tensor, experts: torch.Tensor) -> None:
        x = inputs.double()
        weighted = x * self._weights[experts][:, None]
        self._inputs += weighted.T @ x
        self._targets.T.index_add_(0, experts, weighted)

    def solve(self, penalty: float) -> torch.Tensor:
        added = penalty * self._inputs.diagonal().mean()
        damped = self._inputs + added * torch.eye(len(self._inputs), dtype=torch.float64)
        solution: torch.Tensor = torch.linalg.solve(damped, self._targets)
        return solution.T


def _balance(batches: Sequence[TokenBatch], num_experts: int) -> torch.Tensor:
    counts = torch.zeros(num_experts, dtype=torch.float64)
    for batch in batches:
        counts.index_add_(0, torch.tensor(batch.labels), batch.attention_mask.sum(dim=1).double())
    return 1 / (num_experts * counts)


def _collect_gate_inputs(model: Any, batches: Sequence[TokenBatch], adders: Mapping[int, Add]) -> None:
    """Run the model over all batches; each layer's `Add` receives its gate inputs and their experts, on the CPU."""
    for batch in batches:
        counted = batch.attention_mask.bool()
        experts = torch.tensor(batch.labels)[:, None].expand_as(counted)[counted]

        def seen(layer: int, inputs: torch.Tensor, counted: torch.Tensor = counted, of: torch.Tensor = experts) -> None:
            adders[layer](inputs.reshape(*counted.shape, -1).cpu()[counted], of)

        with torch.inference_mode(), _watched(model, adders, seen):
            # The base model only: logits are not needed.
            model.base_model(
                input_ids=batch.input_ids.to(model.device),
                attention_mask=batch.attention_mask.to(model.device),
                use_cache=False,
            )


@contextmanager
def _watched(model: Any, layers: Iterable[int], seen: Callable[[int, torch.Tensor], None]) -> Iterator[None]:
    own = decoder_layers(model)
    with ExitStack() as stack:
        for layer in layers:
            handle = feed_forward(own[layer]).register_forward_pre_hook(
                lambda _, arguments, layer=layer: seen(layer, arguments[0])
            )
            stack.callback(handle.remove)
        yield
