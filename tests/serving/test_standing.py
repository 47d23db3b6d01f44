"""Standing replicas: an ingress admits calls to them itself, and sends what they cannot take to the owner."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from moe_ray.serving.leases import Lease, Refusal, StandingReplica
from moe_ray.serving.scheduler import SlotLimits
from moe_ray.serving.standing import StandingSlots

LIMITS = SlotLimits(max_running=2, max_queued=1, max_wait_s=10)
FIRST, SECOND = (StandingReplica(name, "law", object()) for name in ("law-1", "law-2"))


def play(scene: Coroutine[Any, Any, None]) -> None:
    asyncio.run(scene)


def slots(*replicas: StandingReplica) -> StandingSlots:
    made = StandingSlots(LIMITS)
    made.update({one.name: one for one in replicas})
    return made


async def waiting(held: StandingSlots, call: str) -> "asyncio.Task[Lease | Refusal | None]":
    """A call that has had its turn on the event loop, admitted or not."""
    task = asyncio.ensure_future(held.acquire("law", call))
    await asyncio.sleep(0)
    return task


def test_a_model_without_a_standing_replica_is_the_owners() -> None:
    async def scene() -> None:
        assert await slots(FIRST).acquire("med", "a") is None
        assert await slots().acquire("law", "a") is None

    play(scene())


def test_calls_run_up_to_the_limit_then_wait_and_then_are_refused() -> None:
    async def scene() -> None:
        held = slots(FIRST)
        admitted = [await held.acquire("law", call) for call in "ab"]
        assert [isinstance(one, Lease) for one in admitted] == [True, True]
        third = await waiting(held, "c")
        assert not third.done()
        assert held.load == {"law": (1, 2)}
        refused = await held.acquire("law", "d")
        assert isinstance(refused, Refusal)
        assert (refused.kind, refused.retry_after_s) == ("full", 1.0)
        assert held.release("a")
        assert isinstance(await third, Lease)
        assert held.num_running == 2

    play(scene())


def test_calls_go_to_the_replica_with_the_fewest() -> None:
    async def scene() -> None:
        held = slots(FIRST, SECOND)
        admitted = [await held.acquire("law", call) for call in "abcd"]
        names = [one.replica_name for one in admitted if isinstance(one, Lease)]
        assert sorted(names) == ["law-1", "law-1", "law-2", "law-2"]

    play(scene())


def test_a_waiting_call_whose_replica_is_gone_is_sent_to_the_owner() -> None:
    async def scene() -> None:
        held = slots(FIRST)
        for call in "ab":
            await held.acquire("law", call)
        third = await waiting(held, "c")
        held.update({})
        assert await third is None
        assert await held.acquire("law", "d") is None
        assert held.num_running == 2  # their callers have not noticed yet that the replica is gone
        assert held.release("a")
        assert held.release("b")
        assert held.num_running == 0

    play(scene())


def test_a_call_that_gives_up_frees_its_place_in_the_queue() -> None:
    async def scene() -> None:
        held = slots(FIRST)
        for call in "ab":
            await held.acquire("law", call)
        third = await waiting(held, "c")
        third.cancel()
        await asyncio.gather(third, return_exceptions=True)
        assert held.release("c")
        fourth = await waiting(held, "d")
        assert held.load == {"law": (1, 2)}
        held.release("a")
        assert isinstance(await fourth, Lease)

    play(scene())


def test_a_call_that_is_not_known_is_not_released_here() -> None:
    assert not slots(FIRST).release("a")
