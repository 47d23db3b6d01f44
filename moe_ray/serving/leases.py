"""What the owner of the slots and an ingress tell each other."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from moe_ray.serving.metrics import MetricCounts
from moe_ray.serving.scheduler import Grant


class Claim(NamedTuple):
    """A call that asks the owner for a model. `call` is what owner and replicas know it by.

    Args:
        background: the call waits for others, and never causes a swap.
        may_move: where the model is not loaded, any model that is may answer.
        was_admitted: the call lost the replica that it was admitted to, so a full queue does not refuse it.
        dead: a replica that the caller saw die, which the owner may not know yet.
    """

    model: str
    ingress: str
    call: str
    background: bool = False
    may_move: bool = False
    was_admitted: bool = False
    dead: str = ""


class Lease(NamedTuple):
    """A call may use `replica`, which holds `model`, until it is released. Times in milliseconds."""

    model: str
    replica: Any
    replica_name: str
    queue_ms: float
    swap_ms: float


def lease_of(grant: Grant, replica: Any, replica_name: str) -> Lease:
    """Return the lease of a call that a slot's scheduler granted."""
    return Lease(
        model=grant.model,
        replica=replica,
        replica_name=replica_name,
        queue_ms=1000 * (grant.waited_s - grant.swap_s),
        swap_ms=1000 * grant.swap_s,
    )


class StandingReplica(NamedTuple):
    """A replica whose slot it never leaves."""

    name: str
    model: str
    replica: Any


class Refusal(NamedTuple):
    """A call was not admitted. `kind` is "full", "failed" or "closing"."""

    kind: str
    reason: str
    retry_after_s: float


class ModelStatus(NamedTuple):
    """`value` is "loaded", "loading" or "unloaded"."""

    value: str
    num_waiting: int
    num_running: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """The slots at one moment. `stuck_s` is how long calls have waited while nothing moved."""

    models: dict[str, ModelStatus]
    closing: bool
    stuck_s: float
    num_swaps: int
    num_waiting: int
    num_running: int
    standing: dict[str, StandingReplica]


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewal:
    """What an ingress says of itself: what it has counted, and the calls that it admitted to standing replicas.

    `standing` has the calls that wait and that run, by model. `knows_closing` says that it admits no more.
    """

    metrics: MetricCounts
    standing: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    num_standing: int = 0
    knows_closing: bool = False
