"""What is done to experts of a mixture, as data with one spelling. Needs no torch.

A spelling is OPERATION:EXPERTS[@LAYERS][#SEED], such as `reroute:3@7`, `renormalise:1,2` or `swap:0@1,2#5`. Without
layers it is all layers, without a seed it is seed 0. YAML may have the fields of `Intervention` instead.

| operation | what a token that selected the expert gets | other tokens |
| --- | --- | --- |
| zero | its other experts, with their weights as they are: the layer's answer shrinks | unchanged |
| renormalise | its other experts, their weights scaled to the same sum | unchanged |
| reroute | its other experts and its next best one, their weights scaled to the same sum | unchanged |
| mean | its other experts, and the expert's mean answer to reference texts with the expert's weight | unchanged |
| swap | its other experts, and one drawn among those it did not select in the place of the expert | unchanged |
| prune | what the router selects if the expert does not exist, with the weights of that router | weights may change |

`prune` equals a checkpoint without the expert. It differs from `reroute` where the weights of the selected experts are
not normalised: the probability of the lost expert is then spread over all tokens.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Literal, get_args

from moe_ray.errors import ModelError, UserError
from moe_ray.formatting import listed, plural
from moe_ray.mixtures.layers import TracedLayer

Operation = Literal["zero", "renormalise", "reroute", "swap", "mean", "prune"]
OPERATIONS: tuple[Operation, ...] = get_args(Operation)
# Operations that change only the tokens that selected an expert, so that a control can change as many others.
LOCAL_OPERATIONS: tuple[Operation, ...] = ("zero", "renormalise", "reroute", "swap", "mean")
# Operations that do the same to a token in any batch and need no other texts: a model under them can be served.
REPEATABLE_OPERATIONS: tuple[Operation, ...] = ("zero", "renormalise", "reroute", "prune")
NEEDS_ROUTER = frozenset({"reroute", "prune"})

SPELLING = re.compile(r"([a-z]+):(\d+(?:,\d+)*)(?:@(\d+(?:,\d+)*))?(?:#(\d+))?")
REMEDY = f"give OPERATION:EXPERTS[@LAYERS][#SEED], such as reroute:3@7; operations are {', '.join(OPERATIONS)}"


FIELDS_REMEDY = "give {operation: reroute, experts: [3], layers: [7]}, all layers without layers; or reroute:3@7"


@dataclass(frozen=True, slots=True, kw_only=True)
class Intervention:
    """One operation on `experts` of `layers`, or of all layers where there are none. Numbers rise, none is twice."""

    operation: Operation
    experts: tuple[int, ...]
    layers: tuple[int, ...] = ()
    seed: int = 0

    @classmethod
    def parse(cls, spelling: str) -> "Intervention":
        """Return the intervention of a spelling. Raises `UserError`."""
        found = SPELLING.fullmatch(spelling.strip())
        operation = next((one for one in OPERATIONS if found and one == found[1]), None)
        if found is None or operation is None:
            raise UserError(f"{spelling!r} is not an intervention", remedy=REMEDY)
        return cls(
            operation=operation,
            experts=_numbers(found[2]),
            layers=_numbers(found[3]) if found[3] else (),
            seed=int(found[4] or 0),
        )

    @classmethod
    def of(cls, given: object) -> "Intervention":
        """Return the intervention of a spelling, or of a mapping of the fields of this class. Raises `UserError`."""
        if isinstance(given, Intervention):
            return given
        if isinstance(given, str):
            return cls.parse(given)
        if not isinstance(given, Mapping) or not {"operation", "experts"} <= given.keys() <= {
            one.name for one in fields(cls)
        }:
            raise UserError(f"{given!r} is not an intervention", remedy=FIELDS_REMEDY)
        parts = {key: _listed(given[key], key) for key in ("experts", "layers", "seed") if key in given}
        layers = f"@{parts['layers']}" if parts.get("layers") else ""
        seed = f"#{parts['seed']}" if "seed" in parts else ""
        return cls.parse(f"{given['operation']}:{parts['experts']}{layers}{seed}")

    def __str__(self) -> str:
        """The canonical spelling."""
        layers = f"@{','.join(map(str, self.layers))}" if self.layers else ""
        seed = f"#{self.seed}" if self.operation == "swap" and self.seed else ""
        return f"{self.operation}:{','.join(map(str, self.experts))}{layers}{seed}"


def _listed(given: object, key: str) -> str:
    numbers = given if isinstance(given, Sequence) and not isinstance(given, str) else [given]
    if not all(isinstance(one, int) and not isinstance(one, bool) and one >= 0 for one in numbers):
        raise UserError(f"{key}: {given!r} is not a list of numbers", remedy=FIELDS_REMEDY)
    return ",".join(map(str, numbers))


def _numbers(listing: str) -> tuple[int, ...]:
    return tuple(sorted({int(one) for one in listing.split(",")}))


def require_possible(intervention: Intervention, layers: Sequence[TracedLayer], *, name: str) -> None:
    """Raise `ModelError` for layers and experts that are not there, and where too few experts would be left."""
    known = [layer.layer for layer in layers]
    missing = [layer for layer in intervention.layers if layer not in known]
    if missing:
        what = f"layer {missing[0]} has no experts" if known else "no layer has experts"
        raise ModelError(what, where=name, remedy=f"layers with experts are {listed([str(one) for one in known])}")
    for layer in layers:
        if not intervention.layers or layer.layer in intervention.layers:
            _require_enough(intervention, layer, name)


def _require_enough(intervention: Intervention, layer: TracedLayer, name: str) -> None:
    last, num_removed = layer.num_experts - 1, len(intervention.experts)
    if intervention.experts[-1] > last:
        what = f"layer {layer.layer} has no expert {intervention.experts[-1]}"
        raise ModelError(what, where=name, remedy=f"its experts are 0 to {last}")
    operation = intervention.operation
    if operation == "renormalise" and num_removed >= layer.top_k:
        raise ModelError(
            f"a token of layer {layer.layer} selects {plural(layer.top_k, 'expert')}: without them nothing is left "
            "to renormalise",
            where=name,
            remedy=f"use reroute:{str(intervention).partition(':')[2]}, which gives such a token its next best expert",
        )
    num_kept = layer.num_experts - num_removed
    if operation in NEEDS_ROUTER and num_kept < layer.top_k:
        raise ModelError(
            f"layer {layer.layer} would keep {plural(num_kept, 'expert')}, and selects {layer.top_k} for each token",
            where=name,
            remedy="remove fewer experts, or use zero",
        )
    if operation == "swap" and layer.num_experts <= layer.top_k:
        raise ModelError(
            f"each token of layer {layer.layer} selects all its experts, so that none is left to swap in",
            where=name,
            remedy="use zero or renormalise",
        )
