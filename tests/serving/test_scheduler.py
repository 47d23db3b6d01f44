"""The slot's scheduler: each rule by itself, random histories against a ledger, and its fairness and throughput."""

import math
import random
from dataclasses import replace

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from moe_ray.serving.scheduler import Grant, Load, Refuse, SlotEffect, SlotLimits, SlotScheduler, Unload
from tests.serving.slots import Pace, Play, steady_pace

LIMITS = SlotLimits(max_running=2, max_queued=4, max_wait_s=10)


def state(slot: SlotScheduler) -> str:
    """The state; a function, because mypy would remember what an attribute was before an event."""
    return slot.state


def slot_with(model: str | None, limits: SlotLimits = LIMITS) -> SlotScheduler:
    """A slot for models A, B and C at second 0, which holds `model`."""
    slot = SlotScheduler(["A", "B", "C"], limits)
    if model is not None:
        slot.request(-1, model, -3)
        slot.loaded(model, -1)
        slot.leave(-1, 0)
    return slot


def granted(effects: list[SlotEffect]) -> list[int]:
    return [effect.ticket for effect in effects if isinstance(effect, Grant)]


def refused(effects: list[SlotEffect]) -> list[tuple[int, str]]:
    return [(effect.ticket, effect.kind) for effect in effects if isinstance(effect, Refuse)]


def retry_after_s(effects: list[SlotEffect]) -> float:
    (refusal,) = [effect for effect in effects if isinstance(effect, Refuse)]
    return refusal.retry_after_s


# Loading and granting


def test_the_first_request_loads_its_model_and_is_granted_when_it_is_loaded() -> None:
    slot = slot_with(None)
    assert slot.state == "empty"
    assert slot.request(1, "A", 0) == [Load(model="A")]
    assert slot.request(2, "A", 1) == []
    assert (slot.state, slot.model, slot.loaded_model) == ("loading", "A", None)
    assert slot.num_waiting == {"A": 2, "B": 0, "C": 0}
    assert slot.loaded("A", 5) == [
        Grant(ticket=1, model="A", waited_s=5, swap_s=5),
        Grant(ticket=2, model="A", waited_s=4, swap_s=4),
    ]
    assert (slot.state, slot.loaded_model, slot.num_running) == ("ready", "A", 2)


def test_a_request_for_the_loaded_model_is_granted_at_once() -> None:
    slot = slot_with("A")
    assert slot.request(1, "A", 7) == [Grant(ticket=1, model="A", waited_s=0, swap_s=0)]


def test_a_request_beyond_max_running_waits_for_one_that_leaves() -> None:
    slot = slot_with("A")
    assert [granted(slot.request(ticket, "A", 0)) for ticket in (1, 2, 3)] == [[1], [2], []]
    assert slot.leave(2, 4) == [Grant(ticket=3, model="A", waited_s=4, swap_s=0)]


def test_an_idle_model_is_swapped_at_once() -> None:
    slot = slot_with("A")
    assert slot.request(1, "B", 0) == [Unload(model="A")]
    assert slot.state == "stopping"
    assert slot.unloaded("A", 2) == [Load(model="B")]
    assert slot.loaded("B", 5) == [Grant(ticket=1, model="B", waited_s=5, swap_s=5)]
    assert slot.num_swaps == 1


def test_the_time_of_a_swap_is_told_apart_from_the_rest_of_the_wait() -> None:
    slot = slot_with("A")
    slot.request(1, "A", 0)
    slot.request(2, "B", 1)
    assert slot.leave(1, 4) == [Unload(model="A")]
    slot.unloaded("A", 5)
    assert slot.loaded("B", 7) == [Grant(ticket=2, model="B", waited_s=6, swap_s=3)]


def test_the_model_of_the_oldest_waiter_is_loaded_next() -> None:
    slot = slot_with("A")
    slot.request(1, "A", 0)
    slot.request(2, "C", 1)
    slot.request(3, "B", 2)
    slot.leave(1, 3)
    assert slot.unloaded("A", 4) == [Load(model="C")]


# Collation and its end


def test_newcomers_for_the_loaded_model_go_first_until_another_has_waited_too_long() -> None:
    slot = slot_with("A")
    slot.request(1, "A", 0)
    slot.request(2, "B", 1)
    assert slot.next_tick() == 11
    assert granted(slot.request(3, "A", 10.9)) == [3]
    slot.leave(1, 10.9)
    assert slot.request(4, "A", 11) == []
    assert state(slot) == "draining"
    assert slot.leave(3, 12) == [Unload(model="A")]
    assert slot.unloaded("A", 13) == [Load(model="B")]


def test_a_tick_closes_the_fast_path() -> None:
    slot = slot_with("A")
    slot.request(1, "A", 0)
    slot.request(2, "B", 1)
    assert slot.tick(10.9) == []
    assert state(slot) == "ready"
    assert slot.tick(11) == []
    assert state(slot) == "draining"
    assert slot.next_tick() is None


def test_a_backlog_is_served_for_max_wait_although_others_have_waited_longer() -> None:
    """Else each load would serve one batch under overload, and the slot would spend its time on swaps."""
    slot = slot_with(None)
    for ticket in (1, 2, 3, 4):
        slot.request(ticket, "AABA"[ticket - 1], 0)
    slot.loaded("A", 20)
    assert slot.next_tick() == 30
    assert granted(slot.leave(1, 29)) == [4]
    assert slot.next_tick() == 30
    slot.tick(30)
    assert state(slot) == "draining"


def test_without_a_backlog_an_overdue_waiter_ends_the_turn_at_once() -> None:
    """Else the slot would wait for the newcomers of a rarely used model while others have a backlog."""
    slot = slot_with(None)
    for ticket in (1, 2, 3, 4):
        slot.request(ticket, "AABA"[ticket - 1], 0)
    slot.loaded("A", 20)
    slot.leave(1, 21)
    assert state(slot) == "ready"
    slot.leave(2, 22)
    assert state(slot) == "draining"
    assert slot.request(5, "A", 23) == []
    assert slot.leave(4, 24) == [Unload(model="A")]


def test_models_with_a_backlog_alternate() -> None:
    """The waiters that A left behind are older than that of B, which still comes before them."""
    limits = replace(LIMITS, max_running=1)
    slot = slot_with("A", limits)
    for ticket in (1, 2, 3):
        slot.request(ticket, "A", 0)
    slot.request(4, "B", 1)
    slot.tick(11)
    slot.leave(1, 12)
    assert slot.unloaded("A", 13) == [Load(model="B")]


def test_a_draining_model_is_not_revived_while_the_waiter_is_there() -> None:
    slot = slot_with("A")
    slot.request(1, "A", 0)
    slot.request(2, "B", 0)
    slot.request(3, "C", 5)
    slot.tick(10)
    assert slot.request(4, "A", 12) == []
    assert slot.leave(3, 13) == []
    assert state(slot) == "draining"


def test_a_draining_model_takes_requests_again_when_the_last_long_waiter_goes_away() -> None:
    slot = slot_with("A")
    slot.request(1, "A", 0)
    slot.request(2, "B", 0)
    slot.request(3, "C", 5)
    slot.tick(10)
    slot.request(4, "A", 12)
    assert slot.leave(2, 13) == [Grant(ticket=4, model="A", waited_s=1, swap_s=0)]
    assert (slot.state, slot.next_tick()) == ("ready", 15)


def test_a_load_whose_last_waiter_left_completes_before_other_waiters_are_served() -> None:
    slot = slot_with(None)
    slot.request(1, "A", 0)
    slot.request(2, "B", 1)
    assert slot.leave(1, 2) == []
    assert slot.loaded("A", 3) == [Unload(model="A")]
    slot = slot_with(None)
    slot.request(1, "A", 0)
    slot.leave(1, 2)
    assert slot.loaded("A", 3) == []
    assert granted(slot.request(2, "A", 9)) == [2]


def test_the_next_model_is_chosen_when_the_memory_is_free_and_not_before() -> None:
    slot = slot_with("A")
    slot.request(1, "B", 0)
    slot.request(2, "C", 1)
    slot.leave(1, 2)
    assert slot.unloaded("A", 3) == [Load(model="C")]


def test_an_unload_whose_waiter_left_ends_in_an_empty_slot() -> None:
    slot = slot_with("A")
    slot.request(1, "B", 0)
    slot.leave(1, 1)
    assert slot.unloaded("A", 3) == []
    assert (slot.state, slot.model) == ("empty", None)


# Failures


def test_a_failed_load_fails_only_the_waiters_of_its_model() -> None:
    slot = slot_with(None)
    slot.request(1, "A", 0)
    slot.request(2, "B", 1)
    slot.request(3, "A", 2)
    effects = slot.load_failed("A", "no such file", 3)
    assert refused(effects) == [(1, "failed"), (3, "failed")]
    assert effects[-1] == Unload(model="A")
    assert slot.unloaded("A", 4) == [Load(model="B")]
    assert granted(slot.loaded("B", 6)) == [2]


def test_a_model_that_failed_is_refused_until_its_retry_and_then_tried_again() -> None:
    slot = slot_with(None)
    slot.request(1, "A", 0)
    slot.load_failed("A", "no such file", 3)
    slot.unloaded("A", 3)
    (refusal,) = slot.request(2, "A", 4)
    assert refusal == Refuse(ticket=2, kind="failed", reason="no such file", retry_after_s=4)
    assert slot.request(3, "A", 8) == [Load(model="A")]


def test_the_pause_doubles_up_to_its_bound() -> None:
    slot = slot_with(None, replace(LIMITS, retry_s=5, max_retry_s=30))
    now, pauses = 0.0, []
    for ticket in range(40):
        slot.request(ticket, "A", now)
        pauses.append(retry_after_s(slot.load_failed("A", "no such file", now)))
        slot.unloaded("A", now)
        now += pauses[-1]
    assert pauses[:5] == [5, 10, 20, 30, 30]
    assert pauses[-1] == 30


def test_a_model_unloaded_in_good_order_has_its_failures_forgotten() -> None:
    slot = slot_with(None)
    slot.request(1, "A", 0)
    slot.load_failed("A", "no such file", 1)
    slot.unloaded("A", 1)
    slot.request(2, "A", 10)
    slot.loaded("A", 11)
    slot.leave(2, 12)
    slot.request(3, "B", 13)
    slot.unloaded("A", 14)
    slot.load_failed("B", "no such file", 14)
    slot.unloaded("B", 14)
    slot.request(4, "A", 15)
    assert retry_after_s(slot.load_failed("A", "no such file", 16)) == LIMITS.retry_s


def test_a_lost_model_is_loaded_again_for_its_waiters() -> None:
    slot = slot_with("A")
    for ticket in (1, 2, 3):
        slot.request(ticket, "A", 0)
    assert slot.model_lost("A", "killed", 4) == [Unload(model="A")]
    assert slot.num_running == 0
    assert slot.leave(1, 4) == []
    assert slot.unloaded("A", 5) == [Load(model="A")]
    assert granted(slot.loaded("A", 6)) == [3]


def test_a_loss_ends_the_turn_of_the_model() -> None:
    slot = slot_with("A")
    for ticket in (1, 2, 3):
        slot.request(ticket, "A", 0)
    slot.request(4, "B", 1)
    slot.model_lost("A", "killed", 4)
    assert slot.unloaded("A", 5) == [Load(model="B")]


def test_a_model_that_dies_again_and_again_is_given_a_pause() -> None:
    slot = slot_with("A")
    for ticket in (1, 2, 3):
        slot.request(ticket, "A", 0)
    slot.model_lost("A", "killed", 1)
    slot.unloaded("A", 1)
    slot.loaded("A", 2)
    slot.request(4, "A", 2)
    slot.request(5, "A", 2)
    assert refused(slot.model_lost("A", "killed", 3)) == [(5, "failed")]
    assert refused(slot.request(6, "A", 4)) == [(6, "failed")]


def test_a_loss_long_after_the_last_one_counts_as_the_first() -> None:
    slot = slot_with("A")
    slot.model_lost("A", "killed", 1)
    slot.unloaded("A", 1)
    slot.request(1, "A", 2)
    slot.loaded("A", 3)
    slot.request(2, "A", 3)
    slot.request(3, "A", 3)
    assert slot.model_lost("A", "killed", 3 + LIMITS.max_retry_s) == [Unload(model="A")]


def test_a_model_that_dies_while_it_loads_has_failed_to_load() -> None:
    slot = slot_with(None)
    slot.request(1, "A", 0)
    assert refused(slot.model_lost("A", "killed", 4)) == [(1, "failed")]


def test_reports_that_do_not_fit_the_state_are_ignored() -> None:
    slot = slot_with("A")
    slot.request(1, "A", 0)
    before = (slot.state, slot.model, slot.num_running, slot.progress)
    assert slot.loaded("A", 1) == slot.loaded("B", 1) == slot.load_failed("A", "late", 1) == []
    assert slot.unloaded("A", 1) == slot.unloaded("B", 1) == slot.model_lost("B", "late", 1) == []
    assert slot.leave(99, 1) == []
    assert (slot.state, slot.model, slot.num_running, slot.progress) == before
    slot.leave(1, 2)
    slot.request(2, "B", 3)
    assert slot.model_lost("A", "killed by the unload", 4) == []
    assert slot.state == "stopping"


def test_a_ticket_is_used_once_and_for_a_known_model() -> None:
    slot = slot_with("A")
    slot.request(1, "A", 0)
    slot.request(2, "B", 0)
    for ticket, model in ((1, "A"), (2, "A"), (3, "D")):
        with pytest.raises(ValueError, match=f"ticket {ticket} is in use, or {model} is not one of A, B, C"):
            slot.request(ticket, model, 1)


@pytest.mark.parametrize("name", ["max_running", "max_queued", "max_wait_s", "retry_s", "max_retry_s"])
def test_a_limit_is_positive(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be greater than 0, not 0"):
        replace(LIMITS, **{name: 0})


# The queue's bound and Retry-After


def test_a_request_beyond_the_queue_is_refused_at_once() -> None:
    slot = slot_with(None)
    effects = [slot.request(ticket, "ABC"[ticket % 3], 0) for ticket in range(5)]
    assert [refused(some) for some in effects] == [[], [], [], [], [(4, "full")]]
    (refusal,) = effects[-1]
    assert isinstance(refusal, Refuse)
    assert refusal.reason == "4 requests wait, of 4 that may"


def test_a_full_queue_does_not_refuse_what_can_run_at_once() -> None:
    slot = slot_with("A")
    slot.request(0, "A", 0)
    for ticket in (1, 2, 3, 4):
        slot.request(ticket, "B", 1)
    assert granted(slot.request(5, "A", 2)) == [5]
    assert refused(slot.request(6, "A", 2)) == [(6, "full")]


def test_a_decision_is_never_made_on_the_state_before_a_late_tick() -> None:
    """A has a free lane, but B is overdue by now: the request would have to wait, and the queue is full."""
    slot = slot_with("A")
    slot.request(0, "A", 0)
    for ticket in (1, 2, 3, 4):
        slot.request(ticket, "B", 1)
    assert refused(slot.request(5, "A", 11)) == [(5, "full")]


def test_retry_after_adds_up_measured_loads_and_the_service_of_the_queue() -> None:
    slot = SlotScheduler(["A", "B"], replace(LIMITS, max_running=2, max_queued=1))
    slot.request(1, "A", 0)
    slot.loaded("A", 30)
    slot.leave(1, 36)
    for ticket in (2, 3, 4):
        slot.request(ticket, "A", 36)
    assert retry_after_s(slot.request(5, "A", 36)) == 3, "one waiter of 6 s on two lanes, and A is loaded"
    assert retry_after_s(slot.request(6, "B", 36)) == 33, "B loads like A, which was measured"
    slot.leave(2, 37)
    slot.request(7, "A", 37)
    assert retry_after_s(slot.request(8, "A", 37)) == 2.5, "the newest service of 1 s counts for a fifth"


@pytest.mark.parametrize(("load_s", "expected"), [(0.1, 1), (1000, 120)])
def test_retry_after_is_kept_between_1_and_120_seconds(load_s: float, expected: float) -> None:
    slot = SlotScheduler(["A", "B"], replace(LIMITS, max_running=1, max_queued=1))
    slot.request(1, "A", 0)
    slot.loaded("A", load_s)
    slot.request(2, "A", load_s)
    assert retry_after_s(slot.request(3, "B", load_s)) == expected


# Background requests


def test_a_request_that_was_admitted_before_is_queued_beyond_the_limit() -> None:
    slot = slot_with("A", replace(LIMITS, max_running=1, max_queued=1))
    assert granted(slot.request(1, "A", 0)) == [1]
    assert slot.request(2, "A", 0) == []
    assert [type(effect) for effect in slot.request(3, "A", 0)] == [Refuse]
    assert slot.request(4, "A", 0, was_admitted=True) == []
    assert granted(slot.leave(1, 1)) == [2]
    assert granted(slot.leave(2, 2)) == [4]


def test_a_background_request_runs_with_the_loaded_model_after_the_ordinary_ones() -> None:
    slot = slot_with("A", replace(LIMITS, max_running=1))
    assert granted(slot.request(1, "A", 0, background=True)) == [1]
    slot.request(2, "A", 1, background=True)
    slot.request(3, "A", 2)
    assert granted(slot.leave(1, 3)) == [3]
    assert granted(slot.leave(3, 4)) == [2]


def test_a_background_request_makes_no_drain() -> None:
    slot = slot_with("A")
    slot.request(1, "A", 0)
    slot.request(2, "B", 1, background=True)
    assert slot.next_tick() is None
    assert granted(slot.request(3, "A", 1000)) == [3]


def test_a_background_request_is_granted_when_another_brings_its_model() -> None:
    slot = slot_with("A")
    slot.request(1, "B", 0, background=True)
    assert state(slot) == "ready"
    assert slot.request(2, "B", 1) == [Unload(model="A")]
    slot.unloaded("A", 2)
    assert granted(slot.loaded("B", 3)) == [2, 1]


@pytest.mark.parametrize("loaded", [None, "A"])
def test_a_background_request_brings_its_model_to_an_idle_slot_after_max_wait(loaded: str | None) -> None:
    slot = slot_with(loaded)
    assert slot.request(1, "B", 0, background=True) == []
    assert slot.next_tick() == 10
    assert slot.tick(9) == []
    assert slot.tick(10) == ([Load(model="B")] if loaded is None else [Unload(model="A")])


def test_an_ordinary_request_goes_before_a_background_request_that_waited_longer() -> None:
    slot = slot_with("A")
    slot.request(1, "A", 0)
    slot.request(2, "B", 0, background=True)
    slot.request(3, "C", 50)
    slot.leave(1, 51)
    assert slot.unloaded("A", 52) == [Load(model="C")]


# Shutdown


def test_closing_refuses_waiters_and_newcomers_and_unloads_after_the_last_running_request() -> None:
    slot = slot_with("A")
    slot.request(1, "A", 0)
    slot.request(2, "B", 1)
    assert refused(slot.close(2)) == [(2, "closing")]
    assert state(slot) == "draining"
    assert refused(slot.request(3, "A", 3)) == [(3, "closing")]
    assert slot.leave(1, 4) == [Unload(model="A")]
    assert slot.unloaded("A", 5) == []
    assert (slot.state, slot.num_swaps) == ("empty", 0)


def test_closing_during_a_load_unloads_when_it_is_complete() -> None:
    slot = slot_with(None)
    slot.request(1, "A", 0)
    assert refused(slot.close(1)) == [(1, "closing")]
    assert slot.loaded("A", 2) == [Unload(model="A")]


def test_closing_an_empty_slot_needs_nothing() -> None:
    slot = slot_with(None)
    assert slot.close(0) == slot.close(1) == []
    assert slot.state == "empty"


# Metrics


def test_progress_counts_what_moves_and_not_the_waiters_that_give_up() -> None:
    slot = slot_with(None)
    seen = []
    slot.request(1, "A", 0)
    slot.request(2, "A", 0)
    slot.leave(2, 1)
    seen.append(slot.progress)
    slot.loaded("A", 2)
    seen.append(slot.progress)
    slot.leave(1, 3)
    seen.append(slot.progress)
    slot.request(3, "B", 4)
    slot.unloaded("A", 5)
    seen.append(slot.progress)
    assert seen == [0, 2, 3, 4]


# Random histories

MODELS = ("A", "B", "C", "D")
RARELY = st.sampled_from([False, False, False, True])


class SlotHistories(RuleBasedStateMachine):
    """Any events in any order; `Play` checks each effect, and `check` the state between events.

    Times are whole seconds, so that many things happen at the same time.
    """

    @initialize(
        num_models=st.sampled_from([1, 2, 2, 3, 3, 4]),
        limits=st.builds(
            SlotLimits,
            max_running=st.integers(1, 3),
            max_queued=st.integers(1, 16),
            max_wait_s=st.integers(1, 12),
            retry_s=st.just(3),
            max_retry_s=st.just(20),
        ),
        longest=st.tuples(st.integers(0, 8), st.integers(0, 4), st.integers(0, 12)),
        seed=st.integers(0, 1 << 32),
        closes_after=st.sampled_from([1, 10, 30, 60, 1000, 1000, 1000, 1000]),
    )
    def start(
        self, num_models: int, limits: SlotLimits, longest: tuple[int, int, int], seed: int, closes_after: int
    ) -> None:
        rng = random.Random(seed)
        load, unload, run = longest
        pace = Pace(
            load=lambda _: rng.randint(0, load),
            unload=lambda _: rng.randint(0, unload),
            run=lambda _: rng.randint(0, run),
            longest_load=load,
            longest_unload=unload,
            longest_run=run,
        )
        self.play = Play(MODELS[:num_models], limits, pace)
        self.closes_after = closes_after

    @rule(seconds=st.integers(0, 6), requests=st.lists(st.tuples(st.integers(0, 3), RARELY), min_size=1, max_size=6))
    def ask(self, seconds: int, requests: list[tuple[int, bool]]) -> None:
        self.play.run_for(seconds)
        for number, background in requests:
            self.play.ask(self.play.models[number % len(self.play.models)], background=background)
            if len(self.play.ledger) == self.closes_after:
                self.play.close()

    @rule(seconds=st.integers(0, 6), number=st.integers(0, 3))
    def ask_once(self, seconds: int, number: int) -> None:
        self.ask(seconds, [(number, False)])

    @rule(seconds=st.integers(1, 20))
    def wait(self, seconds: int) -> None:
        self.play.run_for(seconds)

    @rule(seconds=st.integers(0, 6), back=st.integers(0, 8))
    def leave(self, seconds: int, back: int) -> None:
        """One of the newest requests, which may be waiting, running, refused or over."""
        self.play.run_for(seconds)
        if self.play.ledger:
            self.play.leave(max(0, len(self.play.ledger) - 1 - back))

    @rule(seconds=st.integers(0, 6), is_due=RARELY)
    def lose(self, seconds: int, is_due: bool) -> None:
        self.play.run_for(seconds)
        if is_due and self.play.memory is not None:
            self.play.lose()

    @rule(number=st.integers(0, 3), is_due=RARELY)
    def fail_the_next_load(self, number: int, is_due: bool) -> None:
        if is_due:
            self.play.failing.add(MODELS[number])

    @invariant()
    def the_state_is_as_the_ledger_says(self) -> None:
        self.play.check()

    def teardown(self) -> None:
        """Without newcomers the slot comes to rest, and every request has ended in exactly one way."""
        if not hasattr(self, "play"):
            return
        self.play.run_for(10_000)
        self.play.check()
        assert not self.play.waiting()
        assert not self.play.running()
        assert self.play.slot.state == ("empty" if self.play.is_closing or self.play.memory is None else "ready")


TestSlotHistories = SlotHistories.TestCase


# Fairness and throughput


def test_one_request_for_another_model_is_served_within_the_bound_beside_a_steady_stream() -> None:
    """A uses 90 % of the capacity, so that it is never idle; on llama-swap and Ollama the request for B never runs."""
    limits = SlotLimits(max_running=4, max_queued=1000, max_wait_s=30)
    play = Play(["A", "B"], limits, steady_pace(load=8, unload=2, run=4))
    tickets = []
    for arrival in range(600):
        play.ask("A")
        if arrival == 100:
            tickets.append(play.ask("B"))
        play.run_for(4 / (4 * 0.9))
        play.check()
    (ticket,) = tickets
    grant = play.ledger[ticket].grant
    assert grant is not None
    assert 30 <= grant.waited_s <= 30 + 4 + 2 + 8, "a full turn of A, its drain, and the swap"
    assert grant.waited_s <= play.bound(play.ledger[ticket]) == 58
    assert play.loads() == ["A", "B", "A"]
    play.run_for(1000)
    assert all(entry.outcome == "done" for entry in play.ledger.values())


def test_a_batch_for_three_models_takes_as_long_as_its_collated_order() -> None:
    """ABCABC... arrives at once. AA..BB..CC.. needs three loads and two unloads, and every request full lanes."""
    num_each, num_lanes, run_s, load_s, unload_s = 80, 4, 2.0, 10.0, 3.0
    limits = SlotLimits(max_running=num_lanes, max_queued=3 * num_each, max_wait_s=60)
    play = Play(["A", "B", "C"], limits, steady_pace(load=load_s, unload=unload_s, run=run_s))
    for _ in range(num_each):
        for model in play.models:
            play.ask(model)
    ideal_s = 3 * load_s + 2 * unload_s + 3 * num_each * run_s / num_lanes
    play.run_for(ideal_s - 0.1)
    assert len(play.running()) == num_lanes
    play.run_for(0.1)
    assert all(entry.outcome == "done" for entry in play.ledger.values())
    assert play.loads() == ["A", "B", "C"]


@pytest.mark.parametrize("seed", range(2))
def test_overload_of_three_models_is_served_nearly_as_fast_as_in_collated_order(seed: int) -> None:
    """Ten minutes of three Poisson streams at twice the capacity, with requests of 1 to 5 s and a full queue.

    The ideal serves the same requests model by model, on full lanes, in the fewest turns of `max_wait_s`.
    """
    rng = random.Random(seed)
    num_lanes, max_wait_s, load_s, unload_s, total_s = 4, 45.0, 12.0, 3.0, 600.0
    limits = SlotLimits(max_running=num_lanes, max_queued=150, max_wait_s=max_wait_s)
    durations: dict[int, float] = {}
    pace = replace(steady_pace(load_s, unload_s, 5.0), run=durations.__getitem__)
    play = Play(["A", "B", "C"], limits, pace)
    while play.now < total_s:
        durations[len(play.ledger)] = rng.uniform(1, 5)
        play.ask(rng.choices(play.models, [5, 3, 2])[0])
        play.run_for(rng.expovariate(2 * num_lanes / 3))
    ideal_s = 0.0
    for model in play.models:
        done = [ticket for ticket, entry in play.ledger.items() if entry.model == model and entry.outcome == "done"]
        work_s = sum(durations[ticket] for ticket in done) / num_lanes
        ideal_s += work_s + math.ceil(work_s / max_wait_s) * (load_s + unload_s)
    assert ideal_s / play.now >= 0.9
    assert play.worst_share_of_bound <= 1
