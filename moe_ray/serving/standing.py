"""Slots with one model, as an ingress uses them: it admits calls itself, because nothing ever takes the slot away.

The owner names these replicas with every renewal of the ingress's lease. Without them each call would ask the owner
first, which costs as much as asking the model.
"""

import time
from collections.abc import Mapping

from moe_ray.serving.leases import Lease, Refusal, StandingReplica, lease_of
from moe_ray.serving.scheduler import Grant, SlotLimits
from moe_ray.serving.slot_calls import SlotCalls


class _Standing:
    """A standing replica, and the calls of this ingress to it."""

    def __init__(self, replica: StandingReplica, limits: SlotLimits) -> None:
        self.replica = replica
        self.calls = SlotCalls((replica.model,), limits, self._lease)
        # A request brings the scheduler to load its only model, which is loaded.
        state, now = self.calls.state, time.monotonic()
        state.request(0, replica.model, now)
        state.loaded(replica.model, now)
        state.leave(0, now)

    @property
    def load(self) -> int:
        return self.calls.num_waiting + self.calls.state.num_running

    def _lease(self, grant: Grant) -> Lease:
        return lease_of(grant, self.replica.replica, self.replica.name)


class StandingSlots:
    """Admits calls to the standing replicas that this ingress knows of, within `limits` for each."""

    def __init__(self, limits: SlotLimits) -> None:
        self._limits = limits
        self._slots: dict[str, _Standing] = {}
        self._calls: dict[str, _Standing] = {}

    @property
    def num_running(self) -> int:
        """Calls that were admitted and not released, of replicas that are gone too."""
        return len(self._calls) - sum(slot.calls.num_waiting for slot in self._slots.values())

    @property
    def load(self) -> dict[str, tuple[int, int]]:
        """Calls that wait and that run, by model."""
        found: dict[str, tuple[int, int]] = {}
        for slot in self._slots.values():
            waiting, running = found.get(slot.replica.model, (0, 0))
            found[slot.replica.model] = (waiting + slot.calls.num_waiting, running + slot.calls.state.num_running)
        return found

    def serves(self, model: str) -> bool:
        """Whether a standing replica of `model` is known."""
        return any(slot.replica.model == model for slot in self._slots.values())

    def update(self, replicas: Mapping[str, StandingReplica]) -> None:
        """Take over what the owner says; a call that waits for a replica that is gone is sent to the owner."""
        for name in self._slots.keys() - replicas.keys():
            self.forget(name)
        for name in replicas.keys() - self._slots.keys():
            self._slots[name] = _Standing(replicas[name], self._limits)

    def forget(self, name: str) -> None:
        """The replica of this name is gone."""
        slot = self._slots.pop(name, None)
        if slot is not None:
            slot.calls.give_up()

    async def acquire(self, model: str, call: str) -> Lease | Refusal | None:
        """Wait for room at a replica of `model`; None where there is no standing replica of it (any more)."""
        able = [slot for slot in self._slots.values() if slot.replica.model == model]
        if not able:
            return None
        slot = min(able, key=lambda one: one.load)
        self._calls[call] = slot
        future, _ = slot.calls.request(call, model)
        outcome = await future
        if not isinstance(outcome, Lease):
            self._calls.pop(call, None)
        return outcome

    def release(self, call: str) -> bool:
        """The call is over, admitted or not; say whether it was known here."""
        slot = self._calls.pop(call, None)
        if slot is None:
            return False
        slot.calls.leave(call)
        return True
