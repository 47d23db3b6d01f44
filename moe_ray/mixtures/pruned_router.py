"""A router without some of its experts: a view of its module that leaves the module itself as it is.

Shapes: N tokens in a row, K selected experts, E experts.
"""

import re
from collections import OrderedDict
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from moe_ray.errors import ModelError
from moe_ray.mixtures.sites import RoutingSite

GROUP_COUNT = re.compile(r"^(n|num)_(expert_)?groups?$")
# Share of tokens whose other experts must stay the same when one is removed; ties and rounding may turn a few.
MIN_AGREEMENT = 0.9


class Reroutes:
    """Selections of a site's router without some experts. Views are kept, so make one object for many passes.

    Raises `ModelError` for a site without a router that returns the selected experts, and for one that selects within
    groups of experts.
    """

    def __init__(self, site: RoutingSite, *, name: str) -> None:
        if site.router is None:
            raise _refused(site, name, "has no router that was found")
        groups = [int(value) for key, value in vars(site.router).items() if GROUP_COUNT.match(key) and value]
        if any(number > 1 for number in groups):
            raise _refused(site, name, f"has a router that selects within {max(groups)} groups of experts")
        self._site, self._router, self._name = site, site.router, name
        self._views: dict[frozenset[int], tuple[nn.Module, Tensor]] = {}
        self._checked = False

    def places(self, output: Any) -> tuple[int, int]:
        """Return where the router's output has the indices and the weights of the selected experts."""
        tensors = list(output) if isinstance(output, tuple | list) else [output]
        top_k = self._site.record.top_k
        sized = [at for at, one in enumerate(tensors) if isinstance(one, Tensor) and one.shape[-1:] == (top_k,)]
        index = [at for at in sized if not tensors[at].is_floating_point()]
        weights = [at for at in sized if tensors[at].is_floating_point() and tensors[at].dim()]
        if not index or not weights:
            raise _refused(self._site, self._name, "has a router that does not return which experts it selects")
        return index[-1], weights[-1]

    def without(self, removed: Collection[int], args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Return the experts that the router selects without `removed`, by their old numbers, and their weights."""
        view, kept = self._view(frozenset(removed))
        num_experts = self._site.record.num_experts

        def sliced(value: Any) -> Any:
            per_expert = isinstance(value, Tensor) and value.dim() == 1 and len(value) == num_experts
            return value[kept.to(value.device)] if per_expert else value

        try:
            output = view.forward(*map(sliced, args), **{key: sliced(value) for key, value in kwargs.items()})
            index_at, weights_at = self.places(output)
            index, weights = output[index_at], output[weights_at]
            return kept.to(index.device)[index].to(index.dtype), weights
        except (RuntimeError, IndexError, ValueError, TypeError) as error:
            raise _refused(self._site, self._name, "has a router that cannot select without some expert") from error

    def require_rank_choice(self, index: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Raise `ModelError` unless a token keeps its other experts when one is removed; `index` is what was selected.

        Checked once, on the first tokens that are read.
        """
        if self._checked:
            return
        flat = index.reshape(-1, index.shape[-1])
        expert = int(flat[:, 0].mode().values)
        after, _ = self.without([expert], args, kwargs)
        others = flat != expert
        is_kept = (flat[:, :, None] == after.reshape(flat.shape)[:, None, :]).any(dim=-1)
        share = float((is_kept | ~others).all(dim=-1).double().mean())
        if share < MIN_AGREEMENT:
            raise _refused(self._site, self._name, "has a router that does not select experts by rank")
        self._checked = True

    def _view(self, removed: frozenset[int]) -> tuple[nn.Module, Tensor]:
        if removed not in self._views:
            kept = [expert for expert in range(self._site.record.num_experts) if expert not in removed]
            places = torch.tensor(kept, device=next(self._router.parameters()).device)
            self._views[removed] = view_of(self._router, places, self._site.record.num_experts), places
        return self._views[removed]


def _refused(site: RoutingSite, name: str, what: str) -> ModelError:
    return ModelError(
        f"{site.record.module} {what}",
        where=name,
        remedy="use zero, renormalise or swap, which need no router; reroute and prune do",
    )


def view_of(module: nn.Module, kept: Tensor, num_experts: int) -> nn.Module:
    """Return a module of the same class with the rows of the `kept` experts; `module` is unchanged and shares the rest.

    Its hooks are not copied.
    """
    view: nn.Module = type(module).__new__(type(module))
    view.__dict__.update(module.__dict__)
    view.__dict__.pop("forward", None)
    for key in [key for key in view.__dict__ if key.endswith(("_hooks", "_hooks_with_kwargs", "_hooks_always_called"))]:
        view.__dict__[key] = OrderedDict()
    for kind in ("_parameters", "_buffers"):
        view.__dict__[kind] = {
            key: tensor if tensor is None else rows_of(tensor, kept, num_experts)
            for key, tensor in module.__dict__[kind].items()
        }
    view.__dict__["_modules"] = {
        key: child if child is None else view_of(child, kept, num_experts) for key, child in module._modules.items()
    }
    for key, value in module.__dict__.items():
        if _counts_experts(key) and value == num_experts and isinstance(value, int):
            view.__dict__[key] = len(kept)
    return view


def rows_of(tensor: Tensor, kept: Tensor, num_experts: int) -> Tensor:
    """Return the `kept` rows of a tensor with a row, or in [1, E] a column, for each expert; others as they are."""
    shape = tuple(tensor.shape)
    places = kept.to(tensor.device)
    if shape and shape[0] == num_experts:
        return tensor.detach()[places]
    if len(shape) == 2 and shape == (1, num_experts):
        return tensor.detach()[:, places]
    return tensor


def _counts_experts(key: str) -> bool:
    return key == "out_features" or "expert" in key
