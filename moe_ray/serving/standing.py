"""Slots with one model, as an ingress uses them: it admits calls itself, because nothing ever takes the slot away.

The owner names these replicas with every renewal of the ingress's lease. Without them each call would ask the owner
first, which costs as much as asking the model.
"""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from moe_ray.serving.scheduler import Grant, Refuse, SlotEffect, SlotLimits, SlotScheduler


class StandingReplica(NamedTuple):
    """A replica whose slot it never leaves."""

    name: str
    model: str
    replica: Any


class Admission(NamedTuple):
    """A call may use `replica`."""

    replica: StandingReplica
    waited_s: float


@dataclass(slots=True, eq=False)
class _Standing:
    replica: StandingReplica
    state: SlotScheduler
    waiting: dict[int, "asyncio.Future[Admission | Refuse | None]"] = field(default_factory=dict)


class StandingSlots:
    """Admits calls to the standing replicas that this ingress knows of, within `limits` for each."""

    def __init__(self, limits: SlotLimits) -> None:
        self._limits = limits
        self._slots: dict[str, _Standing] = {}
        self._tickets: dict[str, tuple[_Standing, int]] = {}
        self._last_ticket = 0

    @property
    def num_running(self) -> int:
        """Calls that were admitted and not released, of replicas that are gone too."""
        waiting = sum(len(slot.waiting) for slot in self._slots.values())
        return len(self._tickets) - waiting

    @property
    def load(self) -> dict[str, tuple[int, int]]:
        """Calls that wait and that run, by model."""
        found: dict[str, tuple[int, int]] = {}
        for slot in self._slots.values():
            waiting, running = found.get(slot.replica.model, (0, 0))
            found[slot.replica.model] = (waiting + len(slot.waiting), running + slot.state.num_running)
        return found

    def serves(self, model: str) -> bool:
        """Whether a standing replica of `model` is known."""
        return any(slot.replica.model == model for slot in self._slots.values())

    def update(self, replicas: Mapping[str, StandingReplica]) -> None:
        """Take over what the owner says; a call that waits for a replica that is gone is sent to the owner."""
        for name in self._slots.keys() - replicas.keys():
            self.forget(name)
        now = time.monotonic()
        for name in replicas.keys() - self._slots.keys():
            replica = replicas[name]
            state = SlotScheduler((replica.model,), self._limits)
            # A request brings the scheduler to load its only model, which is loaded.
            state.request(0, replica.model, now)
            state.loaded(replica.model, now)
            state.leave(0, now)
            self._slots[name] = _Standing(replica, state)

    def forget(self, name: str) -> None:
        """The replica of this name is gone."""
        slot = self._slots.pop(name, None)
        if slot is not None:
            for future in slot.waiting.values():
                if not future.done():
                    future.set_result(None)
            slot.waiting.clear()

    async def acquire(self, model: str, call: str) -> Admission | Refuse | None:
        """Wait for room at a replica of `model`; None where there is no standing replica of it (any more)."""
        able = [slot for slot in self._slots.values() if slot.replica.model == model]
        if not able:
            return None
        slot = min(able, key=lambda one: one.state.num_running + len(one.waiting))
        self._last_ticket += 1
        ticket = self._last_ticket
        future: asyncio.Future[Admission | Refuse | None] = asyncio.get_running_loop().create_future()
        slot.waiting[ticket] = future
        self._tickets[call] = (slot, ticket)
        self._do(slot, slot.state.request(ticket, model, time.monotonic()))
        outcome = await future
        if not isinstance(outcome, Admission):
            self._tickets.pop(call, None)
        return outcome

    def release(self, call: str) -> bool:
        """The call is over, admitted or not; say whether it was known here."""
        slot, ticket = self._tickets.pop(call, (None, 0))
        if slot is None:
            return False
        slot.waiting.pop(ticket, None)
        self._do(slot, slot.state.leave(ticket, time.monotonic()))
        return True

    def _do(self, slot: _Standing, effects: list[SlotEffect]) -> None:
        for effect in effects:
            match effect:
                case Grant():
                    self._answer(slot, effect.ticket, Admission(slot.replica, effect.waited_s))
                case Refuse():
                    self._answer(slot, effect.ticket, effect)

    def _answer(self, slot: _Standing, ticket: int, outcome: Admission | Refuse) -> None:
        future = slot.waiting.pop(ticket, None)
        if future is not None and not future.done():
            future.set_result(outcome)
