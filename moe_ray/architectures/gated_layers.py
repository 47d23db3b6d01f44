"""What a gated mixture changes in a dense model's layers. It travels with the mixture's checkpoints.

The gate's decision reaches a layer's feed-forward as the keyword `mixing` of the forward pass, and is kept nowhere: two
threads may use one model at once. Shapes: B sequences, T tokens, H hidden size, K experts.
"""

# ruff: noqa: N803, N806, N815 - capital suffixes name the axes of a tensor

import copy
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

# Their base model hands no keywords to its layers.
KEEPS_KEYWORDS = frozenset({"gpt_neo"})


class Mixing(Protocol):
    """What a gate decided for B sequences: how to make one output of K experts."""

    def __call__(self, experts: nn.ModuleList, hidden_BTH: Tensor) -> Tensor:
        """Return the mixture's output for `hidden_BTH`, of the same shape."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WeightedSum:
    """Every expert reads every sequence, and each output counts as much as the gate says."""

    weights_BK: Tensor

    def __call__(self, experts: nn.ModuleList, hidden_BTH: Tensor) -> Tensor:
        outputs = (
            expert(hidden_BTH) * weights_B[:, None, None].to(hidden_BTH)
            for expert, weights_B in zip(experts, self.weights_BK.unbind(dim=1), strict=True)
        )
        mixed: Tensor = sum(outputs, start=next(outputs))
        return mixed


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SelectOne:
    """Each sequence is read by one expert alone: `rows` of each `chosen` one, or all rows where `rows` is None.

    `order` puts the outputs, which lie expert by expert, back into the sequences' order. `scale_B` is 1 everywhere: it
    is there only in training, for its gradient.
    """

    chosen: tuple[int, ...]
    rows: tuple[Tensor, ...] | None = None
    order: Tensor | None = None
    scale_B: Tensor | None = None

    def __call__(self, experts: nn.ModuleList, hidden_BTH: Tensor) -> Tensor:
        mixed: Tensor
        if self.rows is None or self.order is None:
            mixed = experts[self.chosen[0]](hidden_BTH)
        else:
            device = hidden_BTH.device
            outputs = [
                experts[expert](hidden_BTH[rows.to(device)])
                for expert, rows in zip(self.chosen, self.rows, strict=True)
            ]
            mixed = torch.cat(outputs)[self.order.to(device)]
        return mixed if self.scale_B is None else mixed * self.scale_B[:, None, None].to(mixed)


def select_one(probs_BK: Tensor) -> SelectOne:
    """Return the mixing in which the likeliest expert reads each sequence; of equal ones, the first.

    Where gradients are wanted, the choice passes them on to the chosen expert's probability.
    """
    best_B = probs_BK.argmax(dim=1)
    scale_B = None
    if probs_BK.requires_grad:
        picked_B = probs_BK.gather(1, best_B[:, None])[:, 0]
        scale_B = picked_B / picked_B.detach()
    choices = best_B.tolist()
    chosen = tuple(sorted(set(choices)))
    if len(chosen) == 1:
        return SelectOne(chosen=chosen, scale_B=scale_B)
    rows = tuple((best_B == expert).nonzero()[:, 0] for expert in chosen)
    return SelectOne(chosen=chosen, rows=rows, order=torch.cat(rows).argsort(), scale_B=scale_B)


class GatedFeedForward(nn.Module):
    """K feed-forwards of one shape in the place of one."""

    def __init__(self, experts: Sequence[nn.Module]) -> None:
        super().__init__()
        self.experts = nn.ModuleList(experts)

    def forward(self, hidden_BTH: Tensor, mixing: Mixing) -> Tensor:
        """Return the experts' outputs [B, T, H], mixed."""
        return mixing(self.experts, hidden_BTH)


def put_experts(model: PreTrainedModel, num_experts: int) -> None:
    """Put a `GatedFeedForward` of copies in the place of each layer's `mlp`, and have its layers take `mixing`.

    Raises `ValueError` for a model whose layers have none.
    """
    layers = _decoder_layers(model)
    for layer in layers:
        layer.mlp = GatedFeedForward([layer.mlp, *(copy.deepcopy(layer.mlp) for _ in range(1, num_experts))])
        _make(layer, _GatedLayer)
    if model.config.model_type in KEEPS_KEYWORDS:
        _make(model.base_model, _HandsMixingDown)


class _MixingArrivedError(Exception):
    pass


def _arrive(_experts: nn.ModuleList, _hidden_BTH: Tensor) -> Tensor:
    raise _MixingArrivedError


@torch.no_grad()
def require_mixing_arrives(model: Any) -> None:
    """Raise `ValueError` for a model with experts whose layers would never hear what the gate decided.

    It reads one token, up to the first feed-forward. A model on the meta device will do.
    """
    embedded = model.get_input_embeddings().weight[None, :1]
    with suppress(_MixingArrivedError):
        model(inputs_embeds=embedded, mixing=_arrive)
        raise ValueError(f"{type(model).__name__} does not read its layers' `mlp`")


def _decoder_layers(model: PreTrainedModel) -> Sequence[Any]:
    stacks = [module for module in model.modules() if isinstance(module, nn.ModuleList) and _have_mlp(module)]
    if len(stacks) != 1:
        raise ValueError(f"the layers of {type(model).__name__} have no `mlp` that experts could take the place of")
    return list(stacks[0])


def _have_mlp(layers: nn.ModuleList) -> bool:
    return len(layers) > 0 and all(isinstance(getattr(layer, "mlp", None), nn.Module) for layer in layers)


class _GatedLayer(nn.Module):
    """Stands before a decoder layer's own class."""

    mlp: Any

    def forward(self, *args: Any, mixing: Mixing | None = None, **kwargs: Any) -> Any:
        if mixing is None:
            raise ValueError(f"{type(self).__name__} was given no `mixing`: its model hands no keywords to its layers")
        seen = _seen_with(self, mlp=partial(self.mlp, mixing=mixing))
        return super(_GatedLayer, seen).forward(*args, **kwargs)


class _HandsMixingDown(nn.Module):
    """Stands before the class of a base model that hands no keywords to its layers, which it calls `h`."""

    h: Any

    def forward(self, *args: Any, mixing: Mixing | None = None, **kwargs: Any) -> Any:
        layers = [partial(layer, mixing=mixing) for layer in self.h]
        return super(_HandsMixingDown, _seen_with(self, h=layers)).forward(*args, **kwargs)


def _seen_with(module: nn.Module, **attributes: Any) -> Any:
    """Return a view of a module for one call: it shares all that the module has, but for `attributes`."""
    view = object.__new__(type(module))
    view.__dict__.update(module.__dict__, **attributes)
    return view


def _make(module: nn.Module, before: Any) -> None:
    """Put a class before a module's own; it keeps its name, by which device maps know it."""
    own: Any = type(module)
    module.__class__ = _class_with(before, own)


@cache
def _class_with(before: Any, own: Any) -> Any:
    return type(own.__name__, (before, own), {"__module__": own.__module__, "__qualname__": own.__qualname__})
