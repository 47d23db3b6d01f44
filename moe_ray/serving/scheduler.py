"""The scheduler of one slot: a GPU or a CPU that holds one model at a time and swaps several models in turn.

It is a pure state machine: every event carries the time and returns effects, which an actor carries out.

**Turns.** A request for the loaded model runs at once while fewer than `max_running` run. An idle model is unloaded
when a request waits for another. A busy one takes newcomers until a request for another model is overdue, that is, has
waited `max_wait_s`; if the model has a backlog of its own, until its turn has lasted `max_wait_s` too. Then the slot
drains: newcomers wait, and the model is unloaded after its last running request, or takes requests again if all
overdue ones go away before. The next model is the one with the oldest claim, which dates from the arrival of its oldest
waiter or from the end of its last turn, whichever is later. Without a backlog this is the order of arrival; with one,
the models alternate in turns that pay for their swaps.

**Bound on the wait.** Let K models share the slot, W = `max_wait_s`, R = the longest time from a grant to its `leave`,
U = the longest unload, L = the longest load. While a request waits, a turn of another model ends W + R after its load
at the latest, and no other model gets two. So the first waiter of a model waits at most

    (K - 1) (L + W + R + U) + R + U + L

where R + U is the end of its own model's turn, if the request came during the drain. With n ordinary requests for its
own model in front of it, it runs in the turn 1 + n // max_running of its model at the latest:

    (1 + n // max_running) K (L + W + R + U) + R

Every loss of its own model (`model_lost`) costs one turn of each model more; other models' losses and failed loads
only shorten their turns. The scheduler never ends a running request: the caller's timeout is what bounds R.

**Background.** A background request runs while its model is loaded and takes requests, after the ordinary ones. It
brings its model only if it has waited for `max_wait_s`, nothing runs, and no ordinary request waits; so it never makes
a drain, and a conversation's model stays in place between messages. Its wait has no bound.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

SlotState = Literal["empty", "loading", "ready", "draining", "stopping"]
RefusalKind = Literal["full", "failed", "closing"]
_NEWEST_SHARE = 0.2  # of a moving average


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotLimits:
    """What a slot accepts, and for how long the loaded model may keep others waiting.

    Args:
        max_running: requests that run at the same time.
        max_queued: requests that wait, for all models together; further ones are refused.
        max_wait_s: how long waiters for another model are passed over, and the longest turn while such are overdue.
        retry_s: how long a model is not tried again after its first failure; twice as long after each further one.
        max_retry_s: the longest such pause. A model that stays loaded for this long has its failures forgotten.
    """

    max_running: int
    max_queued: int
    max_wait_s: float
    retry_s: float = 5.0
    max_retry_s: float = 120.0

    def __post_init__(self) -> None:
        for name in ("max_running", "max_queued", "max_wait_s", "retry_s", "max_retry_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be greater than 0, not {getattr(self, name)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Load `model`; the slot's memory is free. Report `loaded` or `load_failed`."""

    model: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Unload:
    """End what is left of the model's processes, wait for their memory, report `unloaded`. It follows every `Load`."""

    model: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """Run the request now, and report `leave` when it is over, whatever its end was.

    `swap_s` is the part of `waited_s` during which the slot loaded or unloaded a model.
    """

    ticket: int
    model: str
    waited_s: float
    swap_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Refuse:
    """Answer the request with an error; the ticket is forgotten. Clients may try again in 1 to 120 s."""

    ticket: int
    kind: RefusalKind
    reason: str
    retry_after_s: float


SlotEffect = Load | Unload | Grant | Refuse


@dataclass(frozen=True, slots=True)
class _Waiter:
    model: str
    background: bool
    since: float
    swapped_s_before: float


@dataclass(slots=True)
class _History:
    turn_ended: float = -math.inf
    load_s: float | None = None
    num_failures: int = 0  # failed loads and deaths since the model last proved healthy
    retry_at: float = -math.inf
    last_failure: str = ""


class SlotScheduler:
    """Decides which model a slot holds and when each request runs. Rules and bounds are in the module's docstring.

    Every event takes `now`, the seconds of a monotonic clock, and returns the effects to carry out, in order. Reports
    that do not fit the state are ignored: of an unknown ticket, of a model that the slot does not hold. The caller
    reports nothing about a model's process after its `unloaded`.
    """

    def __init__(self, models: Sequence[str], limits: SlotLimits) -> None:
        self.state: SlotState = "empty"
        """`ready` takes requests for the model it holds; `draining` waits for those that run, then unloads."""
        self.model: str | None = None
        """The model that the slot loads, holds or unloads; None if it is empty."""
        self.num_swaps = 0
        """Times that a model was unloaded to make room for another."""
        self.progress = 0
        """Counts grants, running requests that left, loads and unloads; it stands still while the slot is stuck."""
        self._limits = limits
        self._histories = {model: _History() for model in models}
        self._began = 0.0  # the load, the turn (ready and draining) or the unload
        self._waiting: dict[int, _Waiter] = {}
        self._running: dict[int, float] = {}
        self._closing = False
        self._service_s: float | None = None
        self._swapped_s = 0.0

    @property
    def loaded_model(self) -> str | None:
        """The model that is loaded, also while the slot drains."""
        return self.model if self.state in ("ready", "draining") else None

    @property
    def num_running(self) -> int:
        """Requests granted that have not left."""
        return len(self._running)

    @property
    def num_waiting(self) -> dict[str, int]:
        """Waiting requests by model, background requests included."""
        numbers = Counter(waiter.model for waiter in self._waiting.values())
        return {model: numbers[model] for model in self._histories}

    def request(
        self, ticket: int, model: str, now: float, *, background: bool = False, was_admitted: bool = False
    ) -> list[SlotEffect]:
        """A request arrived; a full queue takes one that `was_admitted`. ValueError: ticket in use, unknown model."""
        if model not in self._histories or ticket in self._waiting or ticket in self._running:
            raise ValueError(f"ticket {ticket} is in use, or {model} is not one of {', '.join(self._histories)}")
        effects = self._settle(now)
        if refusal := self._refusal(ticket, model, now, was_admitted=was_admitted):
            return [*effects, refusal]
        self._waiting[ticket] = _Waiter(model, background, now, self._swap_s(now))
        return effects + self._settle(now)

    def leave(self, ticket: int, now: float) -> list[SlotEffect]:
        """A running request is over or its client went away, or a waiting one was cancelled."""
        self._waiting.pop(ticket, None)
        if (granted_at := self._running.pop(ticket, None)) is not None:
            self.progress += 1
            self._service_s = _average(self._service_s, now - granted_at)
        return self._settle(now)

    def loaded(self, model: str, now: float) -> list[SlotEffect]:
        """The load is complete: the model's turn begins."""
        if model != self.model or self.state != "loading":
            return []
        self.progress += 1
        self._histories[model].load_s = _average(self._histories[model].load_s, now - self._began)
        self._enter("ready", model, now)
        return self._settle(now)

    def load_failed(self, model: str, reason: str, now: float) -> list[SlotEffect]:
        """The load failed. The model's waiters are refused, and so are its requests until a retry is due."""
        if model != self.model or self.state != "loading":
            return []
        self._histories[model].num_failures += 1
        return [*self._break(model, reason, now), self._unload(model, now)]

    def model_lost(self, model: str, reason: str, now: float) -> list[SlotEffect]:
        """The model's process died. Its requests are over; its waiters stay, unless it is a repeated failure."""
        if model != self.loaded_model:
            return self.load_failed(model, reason, now)
        self._running.clear()
        history = self._histories[model]
        history.num_failures = 1 if now - self._began >= self._limits.max_retry_s else history.num_failures + 1
        refusals = self._break(model, reason, now) if history.num_failures > 1 else []
        return [*refusals, self._unload(model, now)]

    def unloaded(self, model: str, now: float) -> list[SlotEffect]:
        """The model's processes have ended, and their memory is free."""
        if model != self.model or self.state != "stopping":
            return []
        self.progress += 1
        self._enter("empty", None, now)
        return self._settle(now)

    def tick(self, now: float) -> list[SlotEffect]:
        """Time passed. `next_tick` says when this has an effect."""
        return self._settle(now)

    def next_tick(self) -> float | None:
        """The time at which `tick` has an effect if no other event comes before; None if it has none."""
        if self.state not in ("empty", "ready"):
            return None
        if (overdue_at := self._overdue_at()) < math.inf:
            return max(overdue_at, self._began + self._limits.max_wait_s) if self._is_full() else overdue_at
        arrivals = self._oldest(background=True).values()
        return min(arrivals) + self._limits.max_wait_s if arrivals and not self._running else None

    def close(self, now: float) -> list[SlotEffect]:
        """Refuse all waiters and newcomers, and unload after the last running request: then the state stays `empty`."""
        self._closing = True
        refusals: list[SlotEffect] = []
        for model in self._histories:
            refusals += self._refuse_waiters(model, "closing", "the server is shutting down", self._wait_s(model))
        return refusals + self._settle(now)

    def _settle(self, now: float) -> list[SlotEffect]:
        """Do all that the state at `now` asks for."""
        if self.state == "empty":
            if (following := self._next_model(now)) is None:
                return []
            self._enter("loading", following, now)
            return [Load(model=following)]
        if (model := self.loaded_model) is None:
            return []
        is_overdue = now >= self._overdue_at()
        is_over = self.state == "draining" or now >= self._began + self._limits.max_wait_s
        must_drain = self._closing or (is_overdue and is_over)
        effects: list[SlotEffect] = [] if must_drain else self._grants(model, now)
        must_drain = must_drain or (is_overdue and not self._is_full())
        self.state = "draining" if must_drain else "ready"
        if not self._running and (must_drain or self._next_model(now) is not None):
            self.num_swaps += not self._closing
            self._histories[model].num_failures = 0
            effects.append(self._unload(model, now))
        return effects

    def _overdue_at(self) -> float:
        """When the oldest ordinary request for another model is overdue; infinity while no such request waits."""
        others = [since for model, since in self._oldest(background=False).items() if model != self.model]
        return min(others, default=math.inf) + self._limits.max_wait_s

    def _is_full(self) -> bool:
        return len(self._running) == self._limits.max_running

    def _next_model(self, now: float) -> str | None:
        """The model to load next in a slot where nothing runs."""
        if wanted := self._oldest(background=False):
            return min(wanted, key=lambda model: (max(wanted[model], self._histories[model].turn_ended), wanted[model]))
        ripe = {m: t for m, t in self._oldest(background=True).items() if t + self._limits.max_wait_s <= now}
        return min(ripe, key=ripe.__getitem__, default=None)

    def _oldest(self, *, background: bool) -> dict[str, float]:
        """The arrival of each model's oldest waiter."""
        arrivals: dict[str, float] = {}
        for waiter in self._waiting.values():
            if waiter.background == background:
                arrivals.setdefault(waiter.model, waiter.since)
        return arrivals

    def _grants(self, model: str, now: float) -> list[SlotEffect]:
        num_free = self._limits.max_running - len(self._running)
        own = [(ticket, waiter) for ticket, waiter in self._waiting.items() if num_free and waiter.model == model]
        own.sort(key=lambda item: item[1].background)  # stable: by arrival otherwise
        grants: list[SlotEffect] = []
        for ticket, waiter in own[:num_free]:
            del self._waiting[ticket]
            self._running[ticket] = now
            self.progress += 1
            waited_s, swap_s = now - waiter.since, self._swapped_s - waiter.swapped_s_before
            grants.append(Grant(ticket=ticket, model=model, waited_s=waited_s, swap_s=swap_s))
        return grants

    def _unload(self, model: str, now: float) -> Unload:
        self._histories[model].turn_ended = now
        self._enter("stopping", model, now)
        return Unload(model=model)

    def _enter(self, state: SlotState, model: str | None, now: float) -> None:
        self._swapped_s = self._swap_s(now)
        self.state, self.model, self._began = state, model, now

    def _swap_s(self, now: float) -> float:
        """Seconds that the slot has spent loading and unloading."""
        return self._swapped_s + (now - self._began if self.state in ("loading", "stopping") else 0.0)

    def _break(self, model: str, reason: str, now: float) -> list[SlotEffect]:
        """Open the circuit breaker of a model: refuse its requests until a retry is due."""
        history = self._histories[model]
        pause_s = min(self._limits.max_retry_s, self._limits.retry_s * 2 ** min(history.num_failures - 1, 30))
        history.last_failure, history.retry_at = reason, now + pause_s
        return self._refuse_waiters(model, "failed", reason, pause_s)

    def _refuse_waiters(self, model: str, kind: RefusalKind, reason: str, retry_s: float) -> list[SlotEffect]:
        own = [ticket for ticket, waiter in self._waiting.items() if waiter.model == model]
        self._waiting = {ticket: waiter for ticket, waiter in self._waiting.items() if waiter.model != model}
        return [_refuse(ticket, kind, reason, retry_s) for ticket in own]

    def _refusal(self, ticket: int, model: str, now: float, *, was_admitted: bool) -> Refuse | None:
        """Say why a new request cannot even wait; None if it can."""
        history = self._histories[model]
        if self._closing:
            return _refuse(ticket, "closing", "the server is shutting down", self._wait_s(model))
        if now < history.retry_at:
            return _refuse(ticket, "failed", history.last_failure, history.retry_at - now)
        can_run = self.state == "ready" and model == self.model and not self._is_full()
        if can_run or was_admitted or len(self._waiting) < self._limits.max_queued:
            return None
        reason = f"{len(self._waiting)} requests wait, of {self._limits.max_queued} that may"
        return _refuse(ticket, "full", reason, self._wait_s(model))

    def _wait_s(self, model: str) -> float:
        """Estimate a newcomer's wait: the loads that are needed (the slowest, if unknown) and the waiters' service."""
        needed = {model, *(waiter.model for waiter in self._waiting.values())} - {self.loaded_model}
        loads_s = {name: history.load_s for name, history in self._histories.items() if history.load_s is not None}
        slowest_s = max(loads_s.values(), default=0.0)
        service_s = len(self._waiting) * (self._service_s or 0.0) / self._limits.max_running
        return sum(loads_s.get(name, slowest_s) for name in needed) + service_s


def _average(average: float | None, newest: float) -> float:
    return newest if average is None else average + _NEWEST_SHARE * (newest - average)


def _refuse(ticket: int, kind: RefusalKind, reason: str, retry_s: float) -> Refuse:
    return Refuse(ticket=ticket, kind=kind, reason=reason, retry_after_s=min(120.0, max(1.0, retry_s)))
