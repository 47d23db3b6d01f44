"""Replies of any shape: each is a reply whose parts have their types, or a broken one."""

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_ray.characters import whole_characters
from moe_ray.engines.base import Generation
from moe_ray.engines.endpoint import replies
from moe_ray.engines.endpoint.replies import BrokenReplyError, ReplyReader, error_message
from tests.engines.asking import ask
from tests.engines.endpoint.conftest import Connect
from tests.engines.openai_api import Api, Fault

TEXT = st.text(st.characters(codec=None, exclude_categories=()), max_size=20)
ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
MESSAGE = ANY | st.fixed_dictionaries({"content": ANY})
CHOICE = ANY | st.fixed_dictionaries(
    {}, optional={"text": ANY, "message": MESSAGE, "delta": MESSAGE, "finish_reason": ANY}
)
USAGE = ANY | st.fixed_dictionaries({"prompt_tokens": ANY, "completion_tokens": ANY})
PAYLOAD = ANY | st.fixed_dictionaries(
    {}, optional={"choices": ANY | st.lists(CHOICE, max_size=2), "usage": USAGE, "error": ANY}
)

END = 'data: {"choices": [{"text": "", "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n'
UNREADABLE = {
    "not JSON": (Fault(status=200, body="{"), "the reply is not JSON: {"),
    "too deep": (Fault(status=200, body="[" * 200_000 + "]" * 200_000), "the reply is not JSON"),
    "a number of 5,000 digits": (Fault(status=200, body='{"choices": %s}' % ("9" * 5000)), "the reply is not JSON"),
    "too large": (Fault(status=200, body=" " * 3000), "the reply is larger than 0 MiB"),
    "a stream of one line without an end": (
        Fault(status=200, content_type="text/event-stream", body="data: " + "a" * 3000),
        "the reply is larger than 0 MiB",
    ),
    "no object": (Fault(status=200, body="[1]"), "the reply is not a JSON object"),
    "no choices": (Fault(status=200, body="{}"), "the reply holds no choices"),
}


def read(body: bytes, content_type: str) -> None:
    """Read `body` as a reply, and check what comes out."""
    pieces: list[str] = []
    is_stream = content_type == "text/event-stream"
    reader = ReplyReader(
        is_stream=is_stream, start_s=time.perf_counter(), on_piece=lambda piece: pieces.append(piece.text)
    )
    try:
        for at in range(0, len(body), 7):
            reader.feed(body[at : at + 7])
        reply = reader.reply()
    except BrokenReplyError:
        return
    assert isinstance(reply.text, str)
    assert "".join(pieces) == reply.text
    assert reply.finish_reason is None or isinstance(reply.finish_reason, str)
    for count in (reply.num_prompt_tokens, reply.num_completion_tokens):
        assert count is None or 0 <= count < 2**31
    whole_characters(reply.text).encode()


@settings(max_examples=600, deadline=None)
@given(PAYLOAD)
def test_any_json_is_a_reply_or_a_broken_one(payload: object) -> None:
    read(json.dumps(payload).encode(), "application/json")


@settings(max_examples=400, deadline=None)
@given(st.lists(PAYLOAD, max_size=4), st.booleans())
def test_any_stream_of_json_is_a_reply_or_a_broken_one(events: list[object], is_ended: bool) -> None:
    body = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + ("data: [DONE]\n\n" if is_ended else "")
    read(body.encode(), "text/event-stream")


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.sampled_from(["application/json", "text/event-stream", "text/html", ""]))
def test_any_bytes_are_a_reply_or_a_broken_one(body: bytes, content_type: str) -> None:
    read(body, content_type)
    read(b"data: " + body, content_type)


@settings(max_examples=300, deadline=None)
@given(PAYLOAD)
def test_any_errors_body_has_one_line_that_can_be_stored(payload: object) -> None:
    message = error_message(json.dumps(payload))
    assert 0 < len(message) <= 300
    assert message.splitlines() == [message]
    message.encode()


def only(answers: list[Generation]) -> Generation:
    (answer,) = answers
    return answer


def _whole(choice: dict[str, Any], **more: Any) -> Fault:
    """A reply to a completion, at once."""
    return Fault(status=200, body=json.dumps({"choices": [choice], **more}))


def _stream(*pieces: str) -> Fault:
    """A reply to a completion in events; each of `pieces` is the JSON of a string."""
    events = "".join(f'data: {{"choices": [{{"text": {piece}}}]}}\n\n' for piece in pieces)
    return Fault(status=200, content_type="text/event-stream", body=events + END)


STORED = {
    "half a character": (_whole({"text": "a\ud800b", "finish_reason": "stop"}), "a\ufffdb"),
    "half a character in a stream": (_stream('"a\\ud800"', '"b"'), "a\ufffdb"),
    "a character in two events": (_stream('"a\\ud83d"', '"\\ude00b"'), "a\U0001f600b"),
    "line ends that end no line of a stream": (_stream('"a\u2028b\u0085c"'), "a\u2028b\u0085c"),
    "a null character": (_whole({"text": "a\0b", "finish_reason": "stop"}), "a\0b"),
    "bytes that are no UTF-8": (
        Fault(status=200, body='{"choices": [{"text": "a\udcffb", "finish_reason": "stop"}]}'),
        "a\ufffdb",
    ),
    "no content": (_whole({"message": {"content": None}, "finish_reason": "stop"}), ""),
    "counts that are none": (
        _whole({"text": "a", "finish_reason": "stop"}, usage={"prompt_tokens": 10**30, "completion_tokens": "many"}),
        "a",
    ),
}


@pytest.mark.parametrize("name", STORED)
def test_whatever_text_an_api_sends_is_an_answer_that_can_be_stored(api: Api, connect: Connect, name: str) -> None:
    fault, text = STORED[name]
    engine = connect()
    api.faults.append(fault)
    answer = only(engine.generate([ask("q", num=3)]))
    assert (answer.error, whole_characters(answer.text)) == (None, text)
    assert 0 <= answer.num_prompt_tokens < 2**31
    assert 0 <= answer.num_completion_tokens < 2**31


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_reply_that_cannot_be_read_is_its_answers_error_when_other_requests_are_answered(
    api: Api, connect: Connect, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    fault, words = UNREADABLE[name]
    engine = connect(max_retries=1)
    if "larger" in words:
        monkeypatch.setattr(replies, "MAX_REPLY_BYTES", 2000)
    api.broken = lambda body: fault if "poison" in body["prompt"] else None
    good, bad = engine.generate([ask("fine", num=1), ask("poison", num=1)])
    assert (good.text, good.error) == (" fine", None)
    assert (bad.text, bad.finish_reason) == ("", "error")
    assert words in (bad.error or "")
    assert sum("poison" in body["prompt"] for body in api.bodies) == 2, "tried twice, and no more"


@pytest.mark.parametrize("body", ["[" * 200_000, '{"error": {"message": "a\\ud800"}}', "\udcff" * 3_000_000])
def test_an_errors_body_is_read_whatever_it_is(api: Api, connect: Connect, body: str) -> None:
    engine = connect()
    api.faults.append(Fault(status=400, body=body))
    answer = only(engine.generate([ask("q", num=1)]))
    assert (answer.error or "").startswith("the endpoint refused this prompt: 400: ")
    assert len((answer.error or "").encode()) < 1000


@pytest.mark.parametrize("reason", [["stop"], {"a": 1}, 7, "\ud800"])
def test_a_finish_reason_that_is_none_is_the_answers_error(api: Api, connect: Connect, reason: object) -> None:
    engine = connect()
    api.faults.append(_whole({"text": "a", "finish_reason": reason}))
    answer = only(engine.generate([ask("q", num=1)]))
    assert (answer.finish_reason, answer.text) == ("error", "")
    assert "for the reason" in (answer.error or "")
