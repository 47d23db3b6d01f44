"""Responses are written as OpenAI's own client reads them."""

import json
from typing import Any

import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from moe_ray.engines.base import Delta
from moe_ray.serving.calls import ApiError
from tests.serving.openai.requests import call
from tests.serving.openai.streams import LAST, events, generation, stream, writer

_EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


def _read(sent: bytes) -> list[Any]:
    """The events, each of which the client knows by its type; they are numbered from 0."""
    found = events(sent)
    assert [name for name, _ in found] == [data["type"] for _, data in found]
    assert [data["sequence_number"] for _, data in found] == list(range(len(found)))
    return [_EVENT.validate_python(data) for _, data in found]


def test_a_response_is_read_by_the_client() -> None:
    asked = call("responses", instructions="Be short.", temperature=0.5)
    sent = json.loads(writer(asked).whole([generation("Yes.", reasoning="hm", num_reasoning_tokens=1)]))
    found = Response.model_validate(sent)
    assert (found.output_text, found.status, found.model, found.instructions) == (
        "Yes.",
        "completed",
        "law",
        "Be short.",
    )
    assert [item.type for item in found.output] == ["reasoning", "message"]
    assert found.usage is not None
    assert (found.usage.total_tokens, found.usage.output_tokens_details.reasoning_tokens) == (5, 1)
    assert sent["moe_ray"]["expert"] == "law"


def test_a_response_that_was_cut_is_incomplete() -> None:
    sent = json.loads(writer(call("responses")).whole([generation("Ye", finish_reason="length")]))
    found = Response.model_validate(sent)
    assert found.status == "incomplete"
    assert found.incomplete_details is not None
    assert found.incomplete_details.reason == "max_output_tokens"
    assert sent["output"][0]["status"] == "incomplete"


def test_a_stream_of_a_response_is_read_by_the_client() -> None:
    deltas = [
        (0, Delta(reasoning="h")),
        (0, Delta(reasoning="m")),
        (0, Delta(text="Y\u00e9")),
        (0, Delta(text="s")),
        (0, LAST),
    ]
    found = _read(stream(call("responses", stream=True), deltas))
    assert [one.type.removeprefix("response.") for one in found] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "reasoning_text.delta",
        "reasoning_text.delta",
        "reasoning_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    last = found[-1].response
    assert (last.output_text, last.usage.total_tokens, last.status) == ("Y\u00e9s", 8, "completed")
    assert last.output == [one.item for one in found if one.type == "response.output_item.done"]
    assert found[13].text == "Y\u00e9s"


@pytest.mark.parametrize(("reason", "last"), [("stop", "response.completed"), ("length", "response.incomplete")])
def test_an_empty_answer_is_still_an_item(reason: Any, last: str) -> None:
    found = _read(stream(call("responses", stream=True), [(0, Delta(finish_reason=reason))]))
    assert (found[-1].type, found[-1].response.output_text) == (last, "")
    assert [item.type for item in found[-1].response.output] == ["message"]


@pytest.mark.parametrize("deltas", [[], [Delta(text="a")]], ids=["at once", "after text"])
def test_a_stream_that_breaks_ends_with_a_failed_response(deltas: list[Delta]) -> None:
    out = writer(call("responses", stream=True))
    sent = out.start() + b"".join(out.delta(0, one) for one in deltas)
    failed = _read(sent + out.failure(ApiError(503, "the engine died", kind="server_error")))[-1].response
    assert (failed.status, failed.error.code, failed.error.message) == ("failed", "server_error", "the engine died")
    assert [item.status for item in failed.output] == ["incomplete"] * len(deltas)
