"""`RemoteChat` over real HTTP, against the fake of the served API."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from moe_ray.errors import ConfigError, UserError
from moe_ray.prompts.messages import Message
from moe_ray.runs.chat import ChatEnd, ChatError, ChatEvent, ChatPiece, ChatVerdict
from moe_ray.runs.chat_client import RemoteChat, read_key
from tests.support.fake_api import TIMEOUT_S, UNTIL_CLOSED, FakeApi, Reply, end, served_api, text, thoughts, verdict

QUESTION = Message(role="user", content="Does aspirin help?")


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with served_api() as found:
        yield found


def ask(api: FakeApi, reply: Reply | None = None, *, key: str | None = None) -> list[ChatEvent]:
    if reply is not None:
        api.reply = lambda _body: reply
    chat = RemoteChat(api.url, key)
    try:
        return list(chat.answer([QUESTION], "auto"))
    finally:
        chat.close()


def test_the_verdict_the_reasoning_the_text_and_the_figures_are_passed_on(api: FakeApi) -> None:
    told = verdict(probabilities={"biomedical": 0.9, "legal": 0.1}, confidence=0.9, out_of_domain=False)
    steps = [text("", moe_ray=told), thoughts("Hm."), text("Yes"), text("."), *end(num_completion=3, moe_ray=told)]
    events = ask(api, Reply(steps=steps))
    assert isinstance(events[0], ChatVerdict)
    assert events[0].verdict.expert == "biomedical-expert"
    assert events[0].verdict.probabilities == {"biomedical": 0.9, "legal": 0.1}
    assert events[1:] == [ChatPiece(reasoning="Hm."), ChatPiece("Yes"), ChatPiece("."), ChatEnd("stop", 3)]


def test_the_conversation_is_sent_as_it_is_with_the_key(api: FakeApi) -> None:
    api.key = "a-key-of-sixteen-characters"
    chat = RemoteChat(f"{api.url}v1/", api.key)
    list(chat.answer([QUESTION, Message(role="assistant", content="Yes."), QUESTION], "legal-expert"))
    chat.close()
    body = api.next_request().body
    assert body["model"] == "legal-expert"
    assert [message["role"] for message in body["messages"]] == ["user", "assistant", "user"]
    assert body["stream"] is True


def test_auto_comes_first_whatever_the_server_lists_first(api: FakeApi) -> None:
    api.models.reverse()
    chat = RemoteChat(api.url)
    assert chat.names[0] == "auto"
    chat.close()


def test_closing_the_answer_hangs_up(api: FakeApi) -> None:
    reply = Reply(steps=[text("Yes"), UNTIL_CLOSED])
    api.reply = lambda _body: reply
    chat = RemoteChat(api.url)
    events = cast(Any, chat.answer([QUESTION], "auto"))
    assert next(events) == ChatPiece("Yes")
    events.close()
    assert reply.is_closed.wait(TIMEOUT_S)
    chat.close()


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (Reply(error="130 requests wait", status=503, headers={"Retry-After": "7"}), "130 requests wait .*in 7 s"),
        (Reply(error="the prompt is too long", status=400), "the prompt is too long"),
        (Reply(steps=[text("a"), {"error": {"message": "the model's process has ended"}}]), "process has ended"),
        (Reply(steps=[text("a")], is_complete=False), "broke off"),
    ],
    ids=["overload", "refused", "error event", "broken stream"],
)
def test_what_goes_wrong_fails_the_question_with_the_servers_words(api: FakeApi, reply: Reply, said: str) -> None:
    with pytest.raises(ChatError, match=said):
        ask(api, reply)


def test_a_server_that_sends_anything_fails_the_question_and_nothing_else(api: FakeApi) -> None:
    strange: list[Any] = [
        {"choices": "none", "usage": 7, "moe_ray": {"expert": 3}},
        {"choices": [None]},
        {"choices": [{"delta": {"content": 5}}], "moe_ray": {"expert": "a", "probabilities": [1]}},
    ]
    events = ask(api, Reply(steps=[*strange, text("Yes"), *end()]))
    assert ChatPiece("Yes") in events


def test_a_missing_key_names_the_option(api: FakeApi) -> None:
    api.key = "a-key-of-sixteen-characters"
    with pytest.raises(UserError, match="API key is wrong") as error:
        RemoteChat(api.url)
    assert "--api-key-file" in str(error.value)


@pytest.mark.parametrize(
    "url", ["", "localhost:8000", "ftp://localhost/", "http://", "http://[::1", "file:///etc/passwd"]
)
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="not a URL"):
        RemoteChat(url)


def test_another_server_at_the_address_is_refused(api: FakeApi) -> None:
    with pytest.raises(UserError, match="no list of models"):
        RemoteChat(f"{api.url}other")


def test_the_first_key_of_a_file_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("# mine\n\n  a-key-of-sixteen-characters\nanother\n")
    assert read_key(path) == "a-key-of-sixteen-characters"
    path.write_text("# nothing\n")
    with pytest.raises(ConfigError, match="holds no key"):
        read_key(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_key(tmp_path / "missing")
