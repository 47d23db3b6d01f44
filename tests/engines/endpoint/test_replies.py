"""Replies of any shape: each is a reply whose parts have their types, or a broken one."""

import json
import time

from hypothesis import given, settings
from hypothesis import strategies as st

from moe_ray.characters import whole_characters
from moe_ray.engines.endpoint.replies import BrokenReplyError, ReplyReader, error_message

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


def read(body: bytes, content_type: str) -> None:
    """Read `body` as a reply, and check what comes out."""
    pieces: list[str] = []
    is_stream = content_type == "text/event-stream"
    reader = ReplyReader(
        is_stream=is_stream, start_s=time.perf_counter(), on_piece=lambda text, _reasoning: pieces.append(text)
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
