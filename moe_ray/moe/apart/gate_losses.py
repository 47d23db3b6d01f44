"""What a mixture's gates do while it learns, layer by layer: who is asked how often, and the gates' own losses."""

import math
from typing import Any

import torch


def mixture_layers(config: Any) -> tuple[int, ...]:
    """The decoder layers that have experts, of an own architecture's configuration; none of a dense model's."""
    if not hasattr(config, "is_mixture"):
        return ()
    return tuple(layer for layer in range(config.num_hidden_layers) if config.is_mixture(layer))


def load_entropy(counts: torch.Tensor) -> float:
    """The entropy of the shares in `counts` [E] as a part of its maximum: 1 when all are alike, 0 when one has all."""
    shares = counts.double() / counts.sum()
    return float(-(shares * shares.clamp(min=1e-300).log()).sum() / math.log(len(counts)))


class GateWatch:
    """Means over training steps: the loss and, of a mixture, its gates' losses and each layer's load entropy."""

    def __init__(self, config: Any) -> None:
        self._layers = mixture_layers(config)
        self._top_k = getattr(config, "num_experts_per_tok", 1)
        self._reset()

    def _reset(self) -> None:
        self._num_steps = 0.0
        self._sums: dict[str, float] = {}
        self._counts: dict[int, torch.Tensor] = {}

    def add(self, output: Any, share: float) -> None:
        """Take in the output of a part of a step, which is `share` of it."""
        self._num_steps += share
        found = {"loss": output.loss, "balancing": output.get("aux_loss"), "z": output.get("z_loss")}
        for name, value in found.items():
            if value is not None:
                self._sums[name] = self._sums.get(name, 0.0) + share * float(value.detach())
        for layer, logits in zip(self._layers, output.get("router_logits") or (), strict=False):
            self._count(layer, logits.detach())

    def _count(self, layer: int, logits: torch.Tensor) -> None:
        """Count the experts that each token of logits [T, E] asks."""
        asked = logits.topk(self._top_k, dim=-1).indices.flatten()
        counts = torch.bincount(asked, minlength=logits.shape[-1]).cpu()
        self._counts[layer] = self._counts[layer] + counts if layer in self._counts else counts

    def means(self) -> dict[str, Any]:
        """Return what `HistoryPoint` says of the steps since the last call, and begin anew."""
        means: dict[str, Any] = {name: total / self._num_steps for name, total in self._sums.items()}
        if self._counts:
            means["load_entropy"] = {layer: load_entropy(counts) for layer, counts in self._counts.items()}
        self._reset()
        return means
