"""The router inside an ingress: batches of what waits, remembered verdicts, errors that reach their callers."""

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from moe_ray.config.schema import RouterConfig
from moe_ray.routing.router import Route, Router
from moe_ray.routing.training import fit_router
from moe_ray.serving.querying import MAX_BATCH, QueryRouter
from tests.routing.queries import DOMAINS, nothing_reported, queries, router_texts

TIMEOUT_S = 60.0


class HeldRouter:
    """Routes every text to itself, once `may_go` is set. `batches` are the texts that it was asked together."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.has_begun = threading.Event()
        self.may_go = threading.Event()
        self.fails = False

    def route(self, texts: Sequence[str]) -> list[Route]:
        self.batches.append(list(texts))
        self.has_begun.set()
        assert self.may_go.wait(TIMEOUT_S)
        if self.fails:
            raise ValueError("the router failed")
        return [
            Route(probabilities={"a": 1.0}, domain=text, score=1.0, is_out_of_domain=False, seconds=0.0)
            for text in texts
        ]


def router_of(held: Any, **options: Any) -> QueryRouter:
    return QueryRouter(held, num_threads=1, **options)


async def begun(held: HeldRouter) -> None:
    assert await asyncio.to_thread(held.has_begun.wait, TIMEOUT_S)


async def waiting(*calls: Any) -> list["asyncio.Task[Route]"]:
    tasks = [asyncio.ensure_future(call) for call in calls]
    await asyncio.sleep(0)  # each runs to where it waits
    return tasks


def test_queries_that_come_while_others_are_read_are_read_together() -> None:
    held = HeldRouter()

    async def scene() -> list[str]:
        router = router_of(held)
        tasks = await waiting(router.route("first"))
        await begun(held)
        tasks += await waiting(*(router.route(f"query {place}") for place in range(MAX_BATCH + 3)))
        held.may_go.set()
        return [route.domain for route in await asyncio.gather(*tasks)]

    assert asyncio.run(scene()) == ["first", *(f"query {place}" for place in range(MAX_BATCH + 3))]
    assert [len(batch) for batch in held.batches] == [1, MAX_BATCH, 3]


def test_a_query_that_was_judged_is_not_read_again_until_it_is_forgotten() -> None:
    held = HeldRouter()
    held.may_go.set()

    async def scene() -> None:
        router = router_of(held, remembers=2)
        for query in ("a", "b", "a", "c", "a", "b"):
            assert (await router.route(query)).domain == query

    asyncio.run(scene())
    assert held.batches == [["a"], ["b"], ["c"], ["b"]]


def test_the_same_query_of_several_callers_is_read_once() -> None:
    held = HeldRouter()

    async def scene() -> None:
        router = router_of(held)
        tasks = await waiting(router.route("first"))
        await begun(held)
        tasks += await waiting(router.route("same"), router.route("same"))
        held.may_go.set()
        await asyncio.gather(*tasks)

    asyncio.run(scene())
    assert held.batches == [["first"], ["same"]]


def test_an_error_reaches_all_who_asked_and_the_next_are_answered() -> None:
    held = HeldRouter()
    held.fails = True
    held.may_go.set()

    async def scene() -> None:
        router = router_of(held)
        failed = await asyncio.gather(router.route("a"), router.route("a"), router.route("b"), return_exceptions=True)
        assert [str(error) for error in failed] == ["the router failed"] * 3
        held.fails = False
        assert (await router.route("a")).domain == "a"

    asyncio.run(scene())


def test_a_caller_that_gives_up_takes_nothing_from_the_others() -> None:
    held = HeldRouter()

    async def scene() -> None:
        router = router_of(held)
        gone, stays = await waiting(router.route("same"), router.route("same"))
        await begun(held)
        gone.cancel()
        held.may_go.set()
        assert (await stays).domain == "same"
        assert gone.cancelled()
        assert (await router.route("next")).domain == "next"

    asyncio.run(scene())


@pytest.fixture(scope="module")
def trained() -> Router:
    config = RouterConfig(kind="tfidf")
    return fit_router(config, router_texts(), device="cpu", report=nothing_reported)[0]


def test_verdicts_are_those_of_the_router_on_each_text_alone(trained: Router) -> None:
    asked = [text.text for text in queries([*DOMAINS, "sports"], 12, first=70_000)] + ["", "\x00", "?"]

    async def scene() -> list[Route]:
        router = router_of(trained)
        return await asyncio.gather(*map(router.route, asked))

    for query, found in zip(asked, asyncio.run(scene()), strict=True):
        (alone,) = trained.route([query])
        assert found.probabilities == pytest.approx(alone.probabilities, abs=1e-6)
        assert (found.domain, found.is_out_of_domain) == (alone.domain, alone.is_out_of_domain)
