"""Clients that leave, that send too much and that wait too long."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.serving.fakes import settled
from tests.serving.scenes import CHAT, Connection, Scene, play, require_error, scope


def test_a_body_without_a_length_is_refused_before_all_of_it_has_come() -> None:
    sent = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 1
            yield b" " * 100_000

    async def scene(it: Scene) -> None:
        headers = {"content-type": "application/json"}
        received: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        source = body()

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": await anext(source), "more_body": True}

        await it.app(scope(CHAT, headers), receive, received.put)
        assert (await received.get())["status"] == 413

    play(scene, max_body_mib=1)
    assert sent == 11


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_while_it_waits_gives_its_place_up(stream: bool) -> None:
    async def scene(it: Scene) -> None:
        it.owner.may_grant.clear()
        connection = Connection(stream=stream)
        call = connection.call(it.app)
        await settled()
        assert len(it.owner.held) == 1
        connection.leaves.set()
        await call

    made = play(scene)
    assert (len(made.owner.claims), made.owner.held) == (1, [])
    assert made.statuses() == {"499": 1}


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_before_the_first_word_stops_the_generation(stream: bool) -> None:
    async def scene(it: Scene) -> None:
        it.owner.replica.may_answer.clear()
        connection = Connection(stream=stream)
        call = connection.call(it.app)
        await it.owner.replica.has_begun.wait()
        connection.leaves.set()
        await call

    made = play(scene)
    assert made.owner.held == []
    assert made.owner.replica.cancelled == [one.call for one in made.owner.claims]


def test_a_client_that_leaves_amid_a_stream_stops_the_generation() -> None:
    async def scene(it: Scene) -> None:
        connection = Connection(stream=True)
        never = asyncio.Event()

        async def send(message: dict[str, Any]) -> None:
            await Connection.send(connection, message)
            if connection.has_got_text.is_set():
                connection.leaves.set()
                await never.wait()

        connection.send = send  # type: ignore[method-assign]
        await connection.call(it.app)
        assert connection.has_got_text.is_set()

    made = play(scene)
    assert made.owner.held == []
    assert made.owner.replica.cancelled == [one.call for one in made.owner.claims]
    assert made.backend.metrics.counts["moe_ray_requests_total", (("path", CHAT), ("status", "200"))] == 1


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_that_takes_too_long_is_504_and_is_not_to_be_sent_again(stream: bool) -> None:
    async def scene(it: Scene) -> None:
        it.owner.replica.may_answer.clear()
        response = await it.chat(stream=stream)
        require_error(response, 504, "timeout")
        assert response.headers["x-should-retry"] == "false"

    assert play(scene, request_timeout_s=0.05).owner.held == []


def test_a_body_that_never_ends_is_504() -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    async def scene(it: Scene) -> None:
        connection = Connection()
        connection.to_send = [{"type": "http.request", "body": b"{", "more_body": True}]
        await connection.call(it.app)
        assert connection.got[0]["status"] == 504

    play(scene, request_timeout_s=0.05)
