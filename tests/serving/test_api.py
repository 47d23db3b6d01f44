"""The HTTP API over a fake owner of slots: the order of refusals and the shape of errors."""

import asyncio
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import pytest
from ray.exceptions import ActorDiedError

from moe_ray.serving.leases import Refusal
from moe_ray.serving.openai.schema import PATHS
from moe_ray.serving.status_paths import STUCK_S
from tests.serving.fakes import generation, settled
from tests.serving.openai.requests import CANARY, CLIENTS, MALFORMED, PLAIN
from tests.serving.scenes import CHAT, Scene, play, require_error

KEY = "the-key-of-these-tests"


def test_a_chat_is_answered_with_the_verdict_in_body_and_headers() -> None:
    async def scene(it: Scene) -> None:
        response = await it.chat("auto")
        assert response.status_code == 200
        body = response.json()
        assert (body["model"], body["router_model_name"]) == ("law", "auto")
        assert (body["moe_ray"]["expert"], body["moe_ray"]["confidence"]) == ("law", 0.9)
        assert response.headers["x-moe-ray-model"] == "law"
        assert response.headers["x-moe-ray-confidence"] == "0.9000"
        assert response.headers["x-moe-ray-fell-back"] == "false"
        assert "access-control-allow-origin" not in response.headers

    assert play(scene).statuses() == {"200": 1}


@pytest.mark.parametrize("endpoint", ["chat", "completions", "responses"])
def test_a_stream_is_released_and_its_tokens_are_counted(endpoint: Any) -> None:
    async def scene(it: Scene) -> None:
        response = await it.client.post(PATHS[endpoint], json={**PLAIN[endpoint], "stream": True})
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        assert "Hello there." in response.text

    made = play(scene)
    assert made.owner.held == []
    assert made.statuses() == {"200": 1}
    assert made.backend.metrics.counts["moe_ray_completion_tokens_total", (("model", "law"),)] == 2
    assert made.backend.metrics.counts["moe_ray_prompt_tokens_total", (("model", "law"),)] == 3


@pytest.mark.parametrize("name", sorted(CLIENTS))
def test_recorded_requests_of_clients_are_answered(name: str) -> None:
    endpoint, body = CLIENTS[name]

    async def scene(it: Scene) -> None:
        response = await it.client.post(PATHS[endpoint], json=_of_these_models(body))
        assert response.status_code == 200, response.text

    play(scene)


def _of_these_models(body: Mapping[str, Any]) -> dict[str, Any]:
    named = body.get("model")
    return {**body, "model": "law"} if named not in (None, "auto") else dict(body)


@pytest.mark.parametrize(("endpoint", "content", "param"), MALFORMED)
def test_malformed_requests_are_refused_in_openais_shape_and_repeat_nothing(
    endpoint: Any, content: bytes, param: str | None
) -> None:
    async def scene(it: Scene) -> None:
        response = await it.client.post(PATHS[endpoint], content=content, headers={"content-type": "application/json"})
        error = require_error(response, 400, response.json()["error"]["code"])
        assert error["param"] == param
        assert CANARY not in response.text

    assert play(scene).owner.claims == []


def test_a_request_is_refused_by_host_then_key_then_room_then_type_then_size_then_json() -> None:
    wrong: dict[str, Any] = {
        "headers": {"host": "evil.test", "authorization": "Bearer no", "content-type": "text/plain"},
        "content": b"{" + b" " * (1 << 20),
    }

    async def scene(it: Scene) -> None:
        async def refused(status: int, code: str | None, **changed: str) -> None:
            wrong["headers"] |= changed
            require_error(await it.client.post(CHAT, **wrong), status, code)

        it.owner.may_grant.clear()
        waiting = [asyncio.ensure_future(it.chat(headers={"x-api-key": KEY})) for _ in range(4)]
        await settled()
        await refused(403, "host_not_allowed")
        await refused(401, "invalid_api_key", host="localhost")
        await refused(503, "queue_full", authorization=f"Bearer {KEY}")
        it.owner.may_grant.set()
        assert [one.status_code for one in await asyncio.gather(*waiting)] == [200] * 4
        await refused(415, "unsupported_media_type")
        await refused(413, "request_too_large", **{"content-type": "application/json; charset=utf-8"})
        wrong["content"] = b"{"
        await refused(400, None)

    made = play(scene, keys=_digests(KEY), max_running=1, max_queued=1, max_body_mib=0.5)
    assert made.statuses() == {"403": 1, "401": 1, "503": 1, "200": 4, "415": 1, "413": 1, "400": 1}


def _digests(key: str) -> tuple[bytes, ...]:
    return (hashlib.sha256(key.encode()).digest(),)


def test_a_full_server_says_when_to_come_back_and_counts_streams_until_their_last_byte() -> None:
    async def scene(it: Scene) -> None:
        it.owner.replica.may_answer.clear()
        waiting = [asyncio.ensure_future(it.chat(stream=place % 2 == 0)) for place in range(4)]
        await settled()
        response = await it.chat()
        require_error(response, 503, "queue_full")
        assert response.headers["retry-after"] == "1"
        assert "x-should-retry" not in response.headers
        it.owner.replica.may_answer.set()
        await asyncio.gather(*waiting)
        assert (await it.chat()).status_code == 200

    play(scene, max_running=1, max_queued=1)


@pytest.mark.parametrize("path", ["/v1/models", "/metrics", "/tokenizer_info"])
def test_what_is_read_needs_a_key_too(path: str) -> None:
    async def scene(it: Scene) -> None:
        require_error(await it.client.get(path), 401, "invalid_api_key")
        assert (await it.client.get(path, headers={"x-api-key": KEY})).status_code == 200
        require_error(await it.client.get(path, headers={"host": "evil.test"}), 403, "host_not_allowed")

    play(scene, keys=_digests(KEY))


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/"])
def test_a_probe_and_the_page_need_no_key(path: str) -> None:
    async def scene(it: Scene) -> None:
        assert (await it.client.get(path)).status_code == 200

    play(scene, keys=_digests(KEY))


def test_a_stream_that_breaks_ends_with_an_error_event_and_done() -> None:
    async def scene(it: Scene) -> None:
        it.owner.replica.breaks = ActorDiedError()
        response = await it.chat(stream=True)
        assert response.status_code == 200
        *_, error, done = response.text.strip().split("\n\n")
        assert json.loads(error.removeprefix("data: "))["error"]["code"] == "engine_died"
        assert done == "data: [DONE]"

    assert play(scene).owner.held == []


def test_a_fault_of_this_server_amid_a_stream_is_an_error_event_too() -> None:
    async def scene(it: Scene) -> None:
        it.owner.replica.breaks = RuntimeError(CANARY)
        response = await it.chat(stream=True)
        *_, error, done = response.text.strip().split("\n\n")
        assert json.loads(error.removeprefix("data: "))["error"]["type"] == "server_error"
        assert (done, CANARY in response.text) == ("data: [DONE]", False)

    assert play(scene).owner.held == []


@pytest.mark.parametrize("stream", [False, True])
def test_an_error_before_the_first_byte_keeps_its_status(stream: bool) -> None:
    too_long = generation("", finish_reason="error", error="300 tokens do not fit the context of 128", refused=True)

    async def scene(it: Scene) -> None:
        it.owner.replica.reply = lambda request: too_long
        error = require_error(await it.chat(stream=stream), 400, "context_length_exceeded")
        assert error["param"] == "messages"
        body = {"model": "law", "prompt": "hi", "stream": stream}
        assert (await it.client.post(PATHS["completions"], json=body)).json()["error"]["param"] == "prompt"
        it.owner.refusal = Refusal("failed", "law cannot be loaded", 7.0)
        response = await it.chat(stream=stream)
        require_error(response, 503, "model_failed")
        assert response.headers["retry-after-ms"] == "7000"

    assert play(scene).owner.held == []


def test_what_the_server_did_not_expect_is_500_in_openais_shape_and_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scene(it: Scene) -> None:
        it.owner.broken = ZeroDivisionError(CANARY)
        response = await it.chat()
        require_error(response, 500)
        assert CANARY not in response.text
        assert response.headers["x-should-retry"] == "false"
        response = await it.client.get("/metrics")
        require_error(response, 500)
        assert CANARY not in response.text

    assert play(scene).statuses() == {"500": 1}
    assert any(record.exc_info for record in caplog.records)


def test_paths_and_methods_that_are_not_there_are_errors_in_openais_shape() -> None:
    async def scene(it: Scene) -> None:
        require_error(await it.client.get(f"/v1/{CANARY}"), 404)
        response = await it.client.get(CHAT)
        require_error(response, 405)
        assert response.headers["allow"] == "POST"

    play(scene)


def test_readyz_is_red_while_nothing_moves_and_while_the_server_closes_or_its_slots_are_silent() -> None:
    async def scene(it: Scene) -> None:
        async def status() -> int:
            it.backend.status = it.owner.status()
            return (await it.client.get("/readyz")).status_code

        assert await status() == 200
        it.owner.stuck_s = STUCK_S + 1
        assert await status() == 503
        it.owner.stuck_s, it.owner.closing = 0.0, True
        assert await status() == 503
        it.backend.status = None
        assert (await it.client.get("/readyz")).status_code == 503
        assert (await it.client.get("/healthz")).status_code == 200

    play(scene)


def test_an_owner_that_does_not_answer_turns_readyz_red() -> None:
    async def scene(it: Scene) -> None:
        it.owner.broken = ActorDiedError()
        renewing = asyncio.ensure_future(it.backend.renew_forever())
        await settled()
        assert (await it.client.get("/readyz")).status_code == 503
        renewing.cancel()

    play(scene)


def test_models_are_listed_with_auto_first_and_what_each_is() -> None:
    async def scene(it: Scene) -> None:
        it.backend.status = it.owner.status()
        listed = (await it.client.get("/v1/models")).json()["data"]
        assert [one["id"] for one in listed] == ["auto", "base", "law", "med"]
        assert [one["moe_ray"]["role"] for one in listed] == ["router", "baseline", "expert", "expert"]
        assert listed[2]["status"] == {"value": "loaded"}

    play(scene)


def test_without_a_router_auto_is_not_listed() -> None:
    async def scene(it: Scene) -> None:
        listed = (await it.client.get("/v1/models")).json()["data"]
        assert [one["id"] for one in listed] == ["base", "law", "med"]

    play(scene, has_router=False)


def test_tokens_are_those_of_the_named_model_and_of_the_baseline_by_default() -> None:
    async def scene(it: Scene) -> None:
        for body in ({}, {"model": "law"}):
            response = await it.client.post(PATHS["tokenize"], json={"prompt": "hi", **body})
            assert response.json() == {"count": 3, "max_model_len": 128, "tokens": [1, 2, 3]}
        for query in ("", "?model=auto", "?model=med"):
            assert (await it.client.get(f"/tokenizer_info{query}")).json() == {"eos_token": "</s>"}

    made = play(scene, fallback="med")
    assert [one.model for one in made.owner.claims] == ["med", "law", "med", "med", "med"]
    assert made.owner.held == []


def test_a_verdict_alone_takes_no_slot() -> None:
    async def scene(it: Scene) -> None:
        body = (await it.client.post(PATHS["route"], json={"prompt": "med dose"})).json()
        assert (body["selected_model"], body["selection_reason"]) == ("med", "router")
        assert body["classifications"][0] == {"label": "med", "score": 0.8}

    assert play(scene).owner.claims == []


@pytest.mark.parametrize(
    ("headers", "text", "background"),
    [
        ({"x-moe-ray-priority": "background"}, "med dose", True),
        ({"x-moe-ray-priority": "high"}, "med dose", False),
        ({}, "### Task:\nSuggest a title", True),
        ({}, "What is a ### Task:\n", False),
    ],
)
def test_a_clients_own_tasks_are_background(headers: dict[str, str], text: str, background: bool) -> None:
    async def scene(it: Scene) -> None:
        await it.chat("auto", messages=[{"role": "user", "content": text}], headers=headers)

    assert [one.background for one in play(scene).owner.claims] == [background]


@pytest.mark.parametrize(("given", "is_taken"), [("a.B-9_", True), ("x" * 129, False), ("a b", False), ("", False)])
def test_a_sane_request_id_of_the_client_is_taken(given: str, is_taken: bool) -> None:
    async def scene(it: Scene) -> None:
        body = (await it.chat(headers={"x-request-id": given})).json()
        assert (body["id"] == f"chatcmpl-{given}") == is_taken

    play(scene)
