"""Apply interventions to a loaded model, through hooks on its routers and experts. Nothing is left behind.

Shapes: N tokens in a row, K selected experts, E experts.
"""

import inspect
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from moe_ray.errors import ModelError
from moe_ray.mixtures.interventions import NEEDS_ROUTER, Intervention, Operation, require_possible
from moe_ray.mixtures.pruned_router import Reroutes
from moe_ray.mixtures.sites import RoutedTokens, RoutingSite, on_experts

# Which selections are removed: from the selected experts [N, K] to True where one is.
SlotChoice = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SlotRemoval:
    """An operation on chosen selections of one layer.

    `experts` are removed together: a token that loses one of them is not rerouted to another. `reroutes` is needed by
    reroute and prune, `means`, the mean answers of all experts of the layer [E, H], by mean.
    """

    site: RoutingSite
    operation: Operation
    slots: SlotChoice
    experts: frozenset[int]
    reroutes: Reroutes | None = None
    means: Tensor | None = None
    seed: int = 0


@contextmanager
def intervened(
    sites: Sequence[RoutingSite], intervention: Intervention, *, name: str, means: Sequence[Tensor] | None = None
) -> Iterator[None]:
    """Apply an intervention in the forward passes of the context. `name` is the model's, for messages.

    `means` are the mean answers of each site's experts [E, H], which the operation mean needs. Raises
    `ModelError` where it is not possible; a router is checked in the first pass.
    """
    require_possible(intervention, [site.record for site in sites], name=name)
    if intervention.operation == "mean" and means is None:
        raise ModelError(
            "mean needs the experts' mean answers to reference texts",
            where=name,
            remedy="use moe-ray specialise ablate --operation mean, or another operation",
        )
    chosen = [
        (site, None if means is None else means[at])
        for at, site in enumerate(sites)
        if not intervention.layers or site.record.layer in intervention.layers
    ]
    removals = [
        SlotRemoval(
            site=site,
            operation=intervention.operation,
            slots=selected(intervention.experts),
            experts=frozenset(intervention.experts),
            reroutes=Reroutes(site, name=name) if intervention.operation in NEEDS_ROUTER else None,
            means=own,
            seed=intervention.seed,
        )
        for site, own in chosen
    ]
    with removing(removals):
        yield


def selected(experts: Collection[int]) -> SlotChoice:
    """Return the choice of all selections of `experts`."""
    return lambda index: torch.isin(index, torch.tensor(sorted(experts), device=index.device, dtype=index.dtype))


@contextmanager
def removing(removals: Sequence[SlotRemoval]) -> Iterator[None]:
    """Remove the selections in the forward passes of the context."""
    with ExitStack() as stack:
        for removal in removals:
            for handle in _hooks(removal):
                stack.callback(handle.remove)
        yield


def _hooks(removal: SlotRemoval) -> Iterator[Any]:
    if removal.operation in NEEDS_ROUTER:
        assert removal.site.router is not None
        yield removal.site.router.register_forward_hook(_after_router(removal), with_kwargs=True)
        return
    if removal.operation == "mean":
        yield from _mean_hooks(removal)
    yield removal.site.experts.register_forward_pre_hook(_before_experts(removal), with_kwargs=True)


def _mean_hooks(removal: SlotRemoval) -> Iterator[Any]:
    """Note what the removed selections weigh before they are removed, and add that much of their means afterwards."""
    assert removal.means is not None
    means = removal.means.double()
    owed: list[Tensor | None] = []

    def note(routed: RoutedTokens) -> None:
        mask = removal.slots(routed.index)
        if not bool(mask.any()):
            owed.append(None)
            return
        amounts = routed.weights.double().masked_fill(~mask, 0)
        places = routed.index.long().clamp(0, len(means) - 1)
        shares = amounts.new_zeros(len(amounts), len(means)).scatter_add_(1, places, amounts)
        owed.append(shares @ means.to(shares.device))

    def add(module: Any, _given: Any, output: Any) -> Any:
        more = owed.pop()
        if more is None:
            return output
        if not isinstance(output, Tensor) or output.numel() != more.numel():
            raise ModelError(
                f"{type(module).__name__} does not answer with one state for each token",
                remedy="use zero, renormalise or swap for this family",
            )
        return output + more.reshape(output.shape).to(output.dtype)

    yield on_experts(removal.site.experts, note)
    yield removal.site.experts.register_forward_hook(add)


def _before_experts(removal: SlotRemoval) -> Callable[..., tuple[tuple[Any, ...], dict[str, Any]]]:
    names = list(inspect.signature(removal.site.experts.forward).parameters)

    def hook(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        index, weights = given[names[1]], given[names[2]]
        shape = index.shape
        flat = index.reshape(-1, shape[-1]), weights.reshape(-1, shape[-1])
        index, weights = _without_slots(removal, *flat)
        given |= {names[1]: index.reshape(shape), names[2]: weights.reshape(shape)}
        return tuple(given[name] for name in names[: len(args)]), {name: given[name] for name in kwargs}

    return hook


def _without_slots(removal: SlotRemoval, index: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    mask = removal.slots(index)
    if not bool(mask.any()):
        return index, weights
    if removal.operation == "swap":
        return _swapped(removal, index, mask), weights
    kept = weights.masked_fill(mask, 0)
    if removal.operation == "renormalise":
        kept = _scaled(kept, weights, mask)
    return index, kept


def _scaled(changed: Tensor, weights: Tensor, mask: Tensor) -> Tensor:
    """Scale the rows of `changed` that lost a selection to the sum that `weights` had; other rows stay as they are."""
    before, after = weights.double().sum(dim=-1, keepdim=True), changed.double().sum(dim=-1, keepdim=True)
    ratio = torch.where(after != 0, before / torch.where(after != 0, after, 1), 1)
    return torch.where(mask.any(dim=-1, keepdim=True), (changed.double() * ratio).to(changed.dtype), changed)


def _swapped(removal: SlotRemoval, index: Tensor, mask: Tensor) -> Tensor:
    """Put an expert in each removed place that the token did not select; drawn for each token by its place."""
    num_experts = removal.site.record.num_experts
    generator = torch.Generator().manual_seed(removal.seed)
    draws = torch.rand(len(index), num_experts, generator=generator).to(index.device)
    rows = torch.arange(len(index), device=index.device)[:, None].expand_as(index)
    real = (index >= 0) & (index < num_experts)
    draws[rows[real], index[real].long()] = -1
    draws[:, sorted(removal.experts)] = -1
    order = draws.argsort(dim=-1, descending=True)[:, : index.shape[1]].to(index.dtype)
    place = (mask.cumsum(dim=-1) - 1).clamp(min=0)
    return torch.where(mask, order.gather(1, place), index)


def _after_router(removal: SlotRemoval) -> Callable[..., Any]:
    reroutes = removal.reroutes
    assert reroutes is not None

    def hook(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        index_at, weights_at = reroutes.places(output)
        index, weights = output[index_at], output[weights_at]
        reroutes.require_rank_choice(index, args, kwargs)
        if removal.operation == "prune":
            index, weights = reroutes.without(removal.experts, args, kwargs)
        else:
            index, weights = _rerouted(removal, reroutes, index, weights, args, kwargs)
        changed = list(output)
        changed[index_at], changed[weights_at] = index, weights
        return tuple(changed)

    return hook


def _rerouted(
    removal: SlotRemoval, reroutes: Reroutes, index: Tensor, weights: Tensor, args: tuple[Any, ...], kwargs: Any
) -> tuple[Tensor, Tensor]:
    mask = removal.slots(index)
    new_index, new_weights = index, weights
    marked = index.masked_fill(~mask, -1).sort(dim=-1).values
    for row in torch.unique(marked[mask.any(dim=-1)], dim=0):
        lost = (marked == row).all(dim=-1, keepdim=True)
        own = frozenset(row[row >= 0].tolist())
        removed = own | removal.experts if own & removal.experts else own
        found, found_weights = reroutes.without(removed, args, kwargs)
        found_weights = _scaled(found_weights, weights, lost)
        new_index, new_weights = torch.where(lost, found, new_index), torch.where(lost, found_weights, new_weights)
    return new_index, new_weights
