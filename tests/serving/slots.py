"""Plays a slot's scheduler in fake time: carries its effects out, and checks them against a ledger of its own."""

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from moe_ray.serving.scheduler import Grant, Load, Refuse, SlotEffect, SlotLimits, SlotScheduler, Unload


@dataclass(slots=True, kw_only=True)
class Entry:
    """What the ledger knows of a request."""

    model: str
    since: float
    background: bool
    num_ahead: int
    """Ordinary requests for the same model that waited on its arrival."""
    num_losses: int = 0
    """Losses of its model while it waited."""
    outcome: str = "waiting"
    grant: Grant | None = None
    refusal: Refuse | None = None


@dataclass(slots=True, kw_only=True)
class Pace:
    """How long things take, in seconds. The functions must not exceed `longest_*`, which the bound is computed from."""

    load: Callable[[str], float]
    unload: Callable[[str], float]
    run: Callable[[int], float]
    longest_load: float
    longest_unload: float
    longest_run: float


def steady_pace(load: float, unload: float, run: float) -> Pace:
    return Pace(
        load=lambda _: load,
        unload=lambda _: unload,
        run=lambda _: run,
        longest_load=load,
        longest_unload=unload,
        longest_run=run,
    )


@dataclass(slots=True)
class Play:
    """A slot in fake time. Loads and unloads take what `pace` says; a granted request leaves by itself."""

    models: Sequence[str]
    limits: SlotLimits
    pace: Pace
    now: float = 0.0
    failing: set[str] = field(default_factory=set)
    """Models whose next load fails."""
    effects: list[SlotEffect] = field(default_factory=list)
    ledger: dict[int, Entry] = field(default_factory=dict)
    memory: str | None = None
    """The model in the slot's memory, from its `Load` to the end of its `Unload`."""
    is_up: bool = False
    turn_began: float = 0.0
    turn_ended: dict[str, float] = field(default_factory=dict)
    has_drained: bool = False
    """Whether the slot has drained since it last took requests."""
    is_closing: bool = False
    worst_share_of_bound: float = 0.0
    slot: SlotScheduler = field(init=False)
    _live: dict[int, Entry] = field(default_factory=dict)
    _timers: list[tuple[float, int, Callable[[], list[SlotEffect]]]] = field(default_factory=list)
    _num_timers: int = 0
    _num_losses: int = 0

    def __post_init__(self) -> None:
        self.slot = SlotScheduler(self.models, self.limits)

    def ask(self, model: str, *, background: bool = False) -> int:
        ticket = len(self.ledger)
        ahead = [e for e in self.waiting() if e.model == model and not e.background]
        entry = Entry(model=model, since=self.now, background=background, num_ahead=len(ahead))
        self.ledger[ticket] = self._live[ticket] = entry
        self.carry_out(self.slot.request(ticket, model, self.now, background=background))
        return ticket

    def leave(self, ticket: int) -> None:
        """The client goes away."""
        if (entry := self._live.get(ticket)) is not None:
            self._end(ticket, "cancelled" if entry.outcome == "waiting" else "done")
        self.carry_out(self.slot.leave(ticket, self.now))

    def lose(self) -> None:
        """The process in memory dies; the callers of its requests notice it one second later."""
        assert self.memory is not None
        model, was_up, self.is_up = self.memory, self.is_up, False
        self._num_losses += 1
        for ticket, entry in list(self._live.items()):
            if was_up and entry.outcome == "running":
                self._end(ticket, "broken")
                self._after(1.0, partial(self._report_leave, ticket))
            elif entry.model == model:
                entry.num_losses += was_up
        self.carry_out(self.slot.model_lost(model, "killed", self.now))

    def close(self) -> None:
        self.is_closing = True
        self.carry_out(self.slot.close(self.now))

    def run_for(self, seconds: float) -> None:
        """Let time pass, with every report and every tick at its time."""
        end = self.now + seconds
        while True:
            tick_at = self.slot.next_tick()
            timer_at = self._timers[0][0] if self._timers else None
            due = min((at for at in (tick_at, timer_at) if at is not None), default=None)
            if due is None or due > end:
                break
            assert due >= self.now
            self.now = due
            if due == timer_at:
                self.carry_out(heapq.heappop(self._timers)[2]())
            else:
                effects = self.slot.tick(self.now)
                assert effects or self.slot.state == "draining", "a tick that was asked for has an effect"
                self.carry_out(effects)
            if self.slot.next_tick() != self.now:
                self.check()
        self.now = end

    def waiting(self) -> list[Entry]:
        return [entry for entry in self._live.values() if entry.outcome == "waiting"]

    def running(self) -> list[Entry]:
        return [entry for entry in self._live.values() if entry.outcome == "running"]

    def grants(self) -> list[Grant]:
        return [effect for effect in self.effects if isinstance(effect, Grant)]

    def loads(self) -> list[str]:
        return [effect.model for effect in self.effects if isinstance(effect, Load)]

    def bound(self, entry: Entry) -> float:
        """The longest wait that the scheduler's docstring allows."""
        pace = self.pace
        turn = pace.longest_load + self.limits.max_wait_s + pace.longest_run + pace.longest_unload
        if not entry.num_ahead and not entry.num_losses:
            return (len(self.models) - 1) * turn + pace.longest_run + pace.longest_unload + pace.longest_load
        num_turns = 1 + entry.num_ahead // self.limits.max_running + entry.num_losses
        return num_turns * len(self.models) * turn + pace.longest_run

    def carry_out(self, effects: list[SlotEffect]) -> None:
        for effect in effects:
            self.effects.append(effect)
            match effect:
                case Load():
                    self._load(effect)
                case Unload():
                    self._unload(effect)
                case Grant():
                    self._grant(effect)
                case Refuse():
                    self._refuse(effect)

    def check(self) -> None:
        """What holds at any time between events."""
        slot, limits, waiting = self.slot, self.limits, self.waiting()
        assert slot.num_running == len(self.running()) <= limits.max_running
        assert sum(slot.num_waiting.values()) == len(waiting) <= limits.max_queued
        assert slot.model == self.memory
        assert slot.loaded_model == (self.memory if self.is_up else None)
        ordinary = [entry for entry in waiting if not entry.background]
        for entry in ordinary:
            self._compare_with_bound(entry, self.now - entry.since)
        is_overdue = self._is_overdue()
        if slot.state == "ready":
            assert not (is_overdue and self.has_drained), "a draining model is not revived"
            self.has_drained = False
            if is_overdue:
                assert slot.num_running == limits.max_running
                assert self.now < self.turn_began + limits.max_wait_s
            assert self.running() or not ordinary, "an idle slot has no ordinary waiters"
            assert slot.num_running == limits.max_running or not [e for e in waiting if e.model == self.memory]
        elif slot.state == "draining":
            assert is_overdue or self.is_closing
            self.has_drained = True
        elif slot.state == "empty":
            assert not ordinary

    def _is_overdue(self) -> bool:
        """Whether an ordinary request for a model that is not in memory has waited `max_wait_s`."""
        others = [e for e in self.waiting() if e.model != self.memory and not e.background]
        return any(entry.since + self.limits.max_wait_s <= self.now for entry in others)

    def _after(self, seconds: float, report: Callable[[], list[SlotEffect]]) -> None:
        self._num_timers += 1
        heapq.heappush(self._timers, (self.now + seconds, self._num_timers, report))

    def _end(self, ticket: int, outcome: str) -> None:
        self._live.pop(ticket).outcome = outcome

    def _report_leave(self, ticket: int) -> list[SlotEffect]:
        return self.slot.leave(ticket, self.now)

    def _load(self, effect: Load) -> None:
        assert self.memory is None, "a model is loaded only when the memory is free"
        ordinary = [entry for entry in self.waiting() if not entry.background]
        claims = [(max(e.since, self.turn_ended.get(e.model, -1)), e.since, e.model) for e in ordinary]
        if claims:
            oldest = min(claims)
            assert effect.model in [model for *claim, model in claims if claim == [*oldest[:2]]]
        else:
            arrivals = [entry.since for entry in self.waiting() if entry.model == effect.model]
            assert min(arrivals) + self.limits.max_wait_s <= self.now, "a background request waits before it loads"
        self.memory = effect.model
        losses = self._num_losses

        def report() -> list[SlotEffect]:
            if losses != self._num_losses:
                return []
            if effect.model in self.failing:
                self.failing.remove(effect.model)
                return self.slot.load_failed(effect.model, "no such file", self.now)
            self.is_up, self.turn_began, self.has_drained = True, self.now, False
            return self.slot.loaded(effect.model, self.now)

        self._after(self.pace.load(effect.model), report)

    def _unload(self, effect: Unload) -> None:
        assert effect.model == self.memory
        assert not self.running(), "nothing is unloaded while a granted request runs"
        self.is_up, self.turn_ended[effect.model] = False, self.now

        def report() -> list[SlotEffect]:
            self.memory = None
            return self.slot.unloaded(effect.model, self.now)

        self._after(self.pace.unload(effect.model), report)

    def _grant(self, effect: Grant) -> None:
        entry = self.ledger[effect.ticket]
        assert entry.outcome == "waiting", "a request is granted once, and only while it waits"
        assert effect.model == entry.model == self.memory
        assert self.is_up
        assert not (self.has_drained and self._is_overdue()), "a draining model takes no newcomers"
        assert effect.waited_s == self.now - entry.since
        assert 0 <= effect.swap_s <= effect.waited_s
        if not entry.background:
            self._compare_with_bound(entry, effect.waited_s)
        entry.outcome, entry.grant = "running", effect
        assert len(self.running()) <= self.limits.max_running

        def report() -> list[SlotEffect]:
            if entry.outcome != "running":
                return []
            self._end(effect.ticket, "done")
            return self.slot.leave(effect.ticket, self.now)

        self._after(self.pace.run(effect.ticket), report)

    def _refuse(self, effect: Refuse) -> None:
        entry = self.ledger[effect.ticket]
        assert entry.outcome == "waiting", "a request is refused once, and only while it waits"
        assert 1 <= effect.retry_after_s <= 120
        if effect.kind == "full":
            assert len(self.waiting()) == self.limits.max_queued + 1
        entry.refusal = effect
        self._end(effect.ticket, "refused")

    def _compare_with_bound(self, entry: Entry, waited_s: float) -> None:
        bound = self.bound(entry)
        assert waited_s <= bound, f"{entry} waits {waited_s} s; the bound is {bound} s"
        self.worst_share_of_bound = max(self.worst_share_of_bound, waited_s / max(bound, 1))
