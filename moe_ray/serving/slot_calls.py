"""The calls of one slot: its scheduler, and the answers that the calls wait for."""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence

from moe_ray.serving.leases import Lease, Refusal
from moe_ray.serving.scheduler import Grant, Load, Refuse, SlotEffect, SlotLimits, SlotScheduler, Unload


class SlotCalls:
    """Brings calls before a slot's scheduler, and answers those that it grants or refuses.

    The methods return what is left to carry out. Calls have names, of which each is used once.

    Args:
        lease_of: makes the answer to a call that is granted.
    """

    def __init__(self, models: Sequence[str], limits: SlotLimits, lease_of: Callable[[Grant], Lease]) -> None:
        self.state = SlotScheduler(models, limits)
        self._lease_of = lease_of
        self._tickets: dict[str, int] = {}
        self._last_ticket = 0
        self._waiting: dict[int, asyncio.Future[Lease | Refusal | None]] = {}

    @property
    def num_waiting(self) -> int:
        """Calls that have no answer yet."""
        return len(self._waiting)

    def request(
        self, call: str, model: str, *, background: bool = False, was_admitted: bool = False
    ) -> "tuple[asyncio.Future[Lease | Refusal | None], list[Load | Unload]]":
        """Ask for `model`; return also what will hold the answer, which is None after `give_up`."""
        self._last_ticket += 1
        ticket = self._tickets[call] = self._last_ticket
        future = self._waiting[ticket] = asyncio.get_running_loop().create_future()
        now = time.monotonic()
        effects = self.state.request(ticket, model, now, background=background, was_admitted=was_admitted)
        return future, self.carry_out(effects)

    def leave(self, call: str) -> list[Load | Unload]:
        """A call is over. If it waits, it gets no answer: its future is cancelled."""
        ticket = self._tickets.pop(call, None)
        if ticket is None:
            return []
        if (future := self._waiting.pop(ticket, None)) is not None:
            future.cancel()
        return self.carry_out(self.state.leave(ticket, time.monotonic()))

    def give_up(self) -> None:
        """Answer all calls that wait with None."""
        for future in self._waiting.values():
            if not future.done():
                future.set_result(None)
        self._waiting.clear()

    def carry_out(self, effects: Iterable[SlotEffect]) -> list[Load | Unload]:
        """Answer the calls that `effects` grant or refuse; return the loads and unloads."""
        left: list[Load | Unload] = []
        for effect in effects:
            match effect:
                case Grant():
                    self._answer(effect.ticket, self._lease_of(effect))
                case Refuse():
                    self._answer(effect.ticket, Refusal(effect.kind, effect.reason, effect.retry_after_s))
                case Load() | Unload():
                    left.append(effect)
        return left

    def _answer(self, ticket: int, outcome: Lease | Refusal) -> None:
        future = self._waiting.pop(ticket, None)
        if future is not None and not future.done():
            future.set_result(outcome)
