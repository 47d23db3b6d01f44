"""Where a model routes tokens to experts, found by structure: the experts' modules and the routers beside them.

Experts are modules whose forward takes hidden states, indices and weights of the selected experts. Their router is the
module beside them whose output holds a score for each expert. What the router returns is checked on a few tokens.

Shapes: N tokens of a batch in a row, K selected experts, E experts.
"""

# ruff: noqa: N803 - capital suffixes name the axes of a tensor

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from moe_ray.errors import ModelError, first_line
from moe_ray.mixtures.layers import EXPERT_COUNT_KEYS, ScoreKind, TracedLayer

INDEX_NAME = re.compile(r"ind(ex|ices)|selected")
WEIGHT_NAME = re.compile(r"weights|scores")
NUM_PROBE_TOKENS = 32
# Largest relative spread of (selected weight / probability) among a token's experts; bfloat16 rounds to 0.4 %.
MAX_SPREAD = 0.02


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RoutingSite:
    """A layer's experts, and the module whose output holds their scores; None where there is no such module."""

    record: TracedLayer
    experts: nn.Module
    router: nn.Module | None


@dataclass(slots=True, kw_only=True, eq=False)
class RoutedTokens:
    """What one forward pass of a layer selected: `index` and `weights` [N, K], `scores` [N, E] or None.

    `hidden` is what the experts read [N, H].
    """

    hidden: Tensor
    index: Tensor
    weights: Tensor
    scores: Tensor | None = None


def find_sites(model: Any, run: Callable[[], object], *, name: str) -> list[RoutingSite]:
    """Return the layers of `model` that have experts, in their order. `run` makes one forward pass of a few tokens.

    Raises `ModelError` for a model without experts, and for one whose experts are not selected by indices.
    """
    found = [(path, module) for path, module in model.named_modules() if _is_experts(module)]
    if not found:
        raise _without_experts(model, name)
    outputs: dict[str, list[Tensor]] = {}
    routed: dict[str, RoutedTokens] = {}
    siblings = {path: _siblings(model, path) for path, _ in found}
    with _probing(found, siblings, outputs, routed):
        run()
    sites = [_site(path, module, siblings[path], outputs, routed.get(path), name) for path, module in found]
    return _numbered(sites)


def _is_experts(module: nn.Module) -> bool:
    if num_experts_of(module) is None:
        return False
    names = list(inspect.signature(module.forward).parameters)
    return len(names) == 3 and bool(INDEX_NAME.search(names[1])) and bool(WEIGHT_NAME.search(names[2]))


def num_experts_of(experts: nn.Module) -> int | None:
    """Return how many experts a module says that it has, identity ones included; None for another module."""
    named = (getattr(experts, name, None) for name in ("total_experts", "num_experts"))
    return next((number for number in named if isinstance(number, int)), None)


def _without_experts(model: Any, name: str) -> ModelError:
    text = model.config.get_text_config(decoder=True) if hasattr(model.config, "get_text_config") else model.config
    claimed = [key for key, value in text.to_dict().items() if EXPERT_COUNT_KEYS.match(key) and (value or 0) > 1]
    if claimed:
        return ModelError(
            f"{model.config.model_type} has experts ({claimed[0]}), but does not select them by indices",
            where=name,
            remedy="trace a family whose experts take indices and weights, such as mixtral, olmoe or qwen3_moe",
        )
    return ModelError(
        f"no experts found in {type(model).__name__}",
        where=name,
        remedy="name a mixture: one that moe-ray moe made, or a mixture-of-experts checkpoint",
    )


def _siblings(model: Any, path: str) -> dict[str, nn.Module]:
    parent_path, _, own = path.rpartition(".")
    children = model.get_submodule(parent_path).named_children()
    return {f"{parent_path}.{child}": module for child, module in children if child != own}


@contextmanager
def _probing(
    found: Sequence[tuple[str, nn.Module]],
    siblings: Mapping[str, Mapping[str, nn.Module]],
    outputs: dict[str, list[Tensor]],
    routed: dict[str, RoutedTokens],
) -> Iterator[None]:
    beside = {path: module for group in siblings.values() for path, module in group.items()}
    handles = [module.register_forward_hook(_keeps(path, outputs)) for path, module in beside.items()]
    handles += [on_experts(module, _keeps_routed(path, routed)) for path, module in found]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _keeps(path: str, outputs: dict[str, list[Tensor]]) -> Callable[[nn.Module, Any, Any], None]:
    def hook(_module: nn.Module, _given: Any, output: Any) -> None:
        outputs[path] = tensors_of(output)

    return hook


def _keeps_routed(path: str, routed: dict[str, RoutedTokens]) -> Callable[[RoutedTokens], None]:
    def keep(found: RoutedTokens) -> None:
        routed[path] = found

    return keep


def tensors_of(output: Any) -> list[Tensor]:
    """Return the tensors of a module's output, in their order."""
    given = output if isinstance(output, tuple | list) else (output,)
    return [one.detach() for one in given if isinstance(one, Tensor)]


def on_experts(experts: nn.Module, act: Callable[[RoutedTokens], None]) -> Any:
    """Call `act` before each forward pass of `experts`; returns the hook's handle. Changes nothing that they read."""
    names = list(inspect.signature(experts.forward).parameters)

    def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        hidden, index, weights = (given[name].detach() for name in names)
        act(
            RoutedTokens(
                hidden=hidden.reshape(-1, hidden.shape[-1]),
                index=index.reshape(-1, index.shape[-1]),
                weights=weights.reshape(-1, weights.shape[-1]),
            )
        )

    return experts.register_forward_pre_hook(hook, with_kwargs=True)


def answers_alone(experts: nn.Module, hidden_NH: Tensor, index_N: Tensor) -> Tensor:
    """Return what one expert answers to each token, unweighted [N, H]; hooks on `experts` are not called.

    Raises `ModelError` for experts that cannot be called with one expert per token.
    """
    index = index_N.reshape(-1, 1)
    try:
        answers: Tensor = experts.forward(hidden_NH, index, torch.ones_like(index, dtype=hidden_NH.dtype))
    except (RuntimeError, ValueError, IndexError) as error:
        raise ModelError(
            f"{type(experts).__name__} cannot run one expert alone: {first_line(error)}",
            remedy="leave out --norms and --similarity for this family",
        ) from error
    return answers.reshape(len(hidden_NH), -1)


def scores_in(tensors: Sequence[Tensor], num_tokens: int, num_experts: int) -> Tensor | None:
    """Return the first tensor of a router's output with a score for each token and expert, as [N, E].

    A router may score one more choice: to use no expert.
    """
    for tensor in tensors:
        size = tensor.shape[-1] if tensor.dim() else 0
        if (
            tensor.is_floating_point()
            and size in (num_experts, num_experts + 1)
            and tensor.numel() == num_tokens * size
        ):
            return tensor.reshape(num_tokens, size)
    return None


def _site(
    path: str,
    experts: Any,
    siblings: Mapping[str, nn.Module],
    outputs: Mapping[str, list[Tensor]],
    routed: RoutedTokens | None,
    name: str,
) -> RoutingSite:
    if routed is None or routed.index.is_floating_point() or routed.index.shape != routed.weights.shape:
        raise ModelError(
            f"the experts {path} are not selected by indices",
            where=name,
            remedy="trace a family whose experts take indices and weights, such as mixtral, olmoe or qwen3_moe",
        )
    num_tokens, top_k = routed.index.shape
    num_experts = num_experts_of(experts) or 1
    candidates = {
        beside: found
        for beside, tensors in outputs.items()
        if beside in siblings and (found := scores_in(tensors, num_tokens, num_experts)) is not None
    }
    chosen = _router(candidates, outputs, routed)
    scores: ScoreKind = "unknown" if chosen is None else score_kind(candidates[chosen], routed)
    record = TracedLayer(layer=0, module=path, num_experts=num_experts, top_k=top_k, scores=scores)
    return RoutingSite(record=record, experts=experts, router=None if chosen is None else siblings[chosen])


def _router(candidates: Mapping[str, Tensor], outputs: Mapping[str, list[Tensor]], routed: RoutedTokens) -> str | None:
    """Return the path of the router: it also returned the indices, or it is the only module with scores."""
    for path in candidates:
        if any(_equal_indices(tensor, routed.index) for tensor in outputs[path]):
            return path
    return next(iter(candidates)) if len(candidates) == 1 else None


def _equal_indices(tensor: Tensor, index: Tensor) -> bool:
    if tensor.is_floating_point() or tensor.numel() != index.numel():
        return False
    return bool((tensor.reshape(index.shape) == index).all())


def score_kind(scores: Tensor, routed: RoutedTokens) -> ScoreKind:
    """Return how `scores` [N, E] become the weights of the selected experts, up to a factor for each token.

    With one expert per token the factor must be the same for all tokens; weights that are all equal say nothing, and
    are taken for a softmax's.
    """
    if _are_probabilities(scores):
        return "probabilities"
    spreads: dict[ScoreKind, float] = {kind: _spread(probabilities(scores, kind), routed) for kind in KINDS}
    best = min(spreads, key=lambda kind: spreads[kind])
    return best if spreads[best] < MAX_SPREAD else "unknown"


def _are_probabilities(scores: Tensor) -> bool:
    sums = scores.double().sum(dim=-1)
    return bool((scores >= 0).all()) and bool(((sums - 1).abs() < MAX_SPREAD).all())


def _spread(p_NE: Tensor, routed: RoutedTokens) -> float:
    used = (routed.index < p_NE.shape[-1]) & (routed.index >= 0)
    chosen = p_NE.gather(1, routed.index.clamp(0, p_NE.shape[-1] - 1))
    ratio = routed.weights.double() / chosen.clamp(min=1e-12)
    if routed.index.shape[1] == 1:
        weights = routed.weights.double()
        if float(weights.max() - weights.min()) <= 1e-6 * float(weights.abs().max()):
            return 0.0
        ratio = ratio.reshape(1, -1)
        used = used.reshape(1, -1)
    else:  # a token that selects one expert twice says nothing of the weights
        ordered = routed.index.sort(dim=1).values
        used = used & (ordered.diff(dim=1) != 0).all(dim=1, keepdim=True)
    whole = used.all(dim=1)
    if not bool(whole.any()):
        return 1.0
    rows = ratio[whole]
    mean = rows.mean(dim=1, keepdim=True)
    return float(((rows - mean).abs() / mean.abs().clamp(min=1e-12)).max())


KINDS: tuple[ScoreKind, ...] = ("softmax", "sigmoid", "sqrtsoftplus")


def probabilities(scores: Tensor, kind: ScoreKind) -> Tensor:
    """Return scores [N, E] as probabilities in float64; those that are no softmax's are divided by their sum."""
    values = scores.double()
    if kind == "softmax":
        return torch.softmax(values, dim=-1)
    if kind == "sigmoid":
        values = torch.sigmoid(values)
    elif kind == "sqrtsoftplus":
        values = torch.nn.functional.softplus(values).sqrt()
    return values / values.sum(dim=-1, keepdim=True)


def _numbered(sites: Sequence[RoutingSite]) -> list[RoutingSite]:
    """Give each site the number of its decoder layer, or its place where numbers are missing or repeated."""
    numbers = [re.findall(r"\.(\d+)\.", site.record.module) for site in sites]
    layers = [int(found[0]) for found in numbers if found]
    if len(set(layers)) != len(sites):
        layers = list(range(len(sites)))
    return [
        RoutingSite(record=site.record.model_copy(update={"layer": layer}), experts=site.experts, router=site.router)
        for site, layer in zip(sites, layers, strict=True)
    ]
