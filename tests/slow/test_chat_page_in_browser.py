"""The chat page in a real browser, against a server that streams what the test tells it to."""

import re
import threading
from typing import Any

import pytest

pytest.importorskip("websockets", reason="the browser is driven over a web socket")

from tests.support.chat_page import CERTAIN, IDLE, ask, ask_and_wait, click, shown
from tests.support.chromium import CHROMIUM, Tab
from tests.support.fake_api import UNTIL_CLOSED, FakeApi, Reply, end, model, text, thoughts, verdict

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")]


def test_an_answer_is_shown_while_it_streams_and_each_block_is_rendered_once(chat: Tab, api: FakeApi) -> None:
    middle, last = threading.Event(), threading.Event()
    first = "# Metformin\n\nIt lowers **blood gluc"
    api.reply = lambda body: Reply([text(first, moe_ray=CERTAIN), middle, text("ose**.\n\n- one\n- t"), last, *end()])
    ask(chat)
    chat.wait_for("document.querySelector('.text p')?.textContent === 'It lowers **blood gluc'")
    assert shown(chat, ".answer > h3") == ["biomedical-expert"]
    assert shown(chat, "#stop") == ["Stop"]
    chat.evaluate("document.querySelector('.text h3').dataset.first = 'yes'")
    middle.set()
    chat.wait_for("document.querySelectorAll('.text li').length === 2")
    assert shown(chat, ".text strong") == ["blood glucose"]
    assert chat.evaluate("document.querySelector('.text h3').dataset.first") == "yes"
    last.set()
    chat.wait_for(IDLE)
    assert chat.evaluate("document.getElementById('live').textContent") == "biomedical-expert has answered."
    assert chat.log == []


def test_a_request_carries_the_conversation_and_asks_for_a_stream_with_its_usage(chat: Tab, api: FakeApi) -> None:
    ask_and_wait(chat, "One?")
    ask_and_wait(chat, "Two?")
    assert api.next_request().body["messages"] == [{"role": "user", "content": "One?"}]
    body = api.next_request().body
    assert body.pop("messages") == [
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "Two?"},
    ]
    assert body == {"model": "auto", "stream": True, "stream_options": {"include_usage": True}}


def test_settings_are_sent_only_where_they_are_set_and_valid(chat: Tab, api: FakeApi) -> None:
    chat.evaluate("document.getElementById('temperature').value = '0.3'")
    chat.evaluate("document.getElementById('max_tokens').value = '-4'")
    ask_and_wait(chat)
    body = api.next_request().body
    assert body["temperature"] == 0.3
    assert "max_tokens" not in body


def test_below_an_answer_stand_the_routers_probabilities_and_the_timings(chat: Tab, api: FakeApi) -> None:
    final = CERTAIN | {"swap_ms": 2140.0}
    api.reply = lambda body: Reply([text("Yes.", moe_ray=CERTAIN), *end(moe_ray=final)])
    ask_and_wait(chat)
    assert shown(chat, ".why") == ["The router chose biomedical-expert, 94 % confident."]
    assert shown(chat, ".bars li") == ["biomedical94 %", "legal5 %", "code< 1 %"]
    widths = chat.evaluate("[...document.querySelectorAll('.fill')].map((node) => parseFloat(node.style.width))")
    assert widths == [94.2, 5.4, 0.4]
    timings = shown(chat, ".timings div")
    assert [re.match(r"[a-z/ ]+", line)[0] for line in timings[:2]] == ["first token", "total"]  # type: ignore[index]
    assert timings[-4:] == ["tokens20 in, 80 out", "router4 ms", "queue12 ms", "swap2.1 s"]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (
            {"expert": "general-7b", "out_of_domain": True, "fell_back": True},
            "Out of domain: the question fits no expert. Fell back to the baseline, general-7b.",
        ),
        ({"pinned": "session"}, "Not routed: the session stays with its expert."),
        ({"pinned": "background"}, "Not routed: a background request."),
        ({"confidence": 0.9999}, "The router chose biomedical-expert, > 99 % confident."),
        ({"requested": "code-expert", "expert": "code-expert"}, "Not routed: you chose this model."),
    ],
)
def test_why_a_model_answered_is_said_in_words(chat: Tab, api: FakeApi, fields: dict[str, Any], said: str) -> None:
    api.reply = lambda body: Reply([text("Yes.", moe_ray=verdict() | fields), *end()])
    ask_and_wait(chat)
    assert shown(chat, ".why") == [said]
    assert shown(chat, ".flag") == (["out of domain", "fell back to the baseline"] if "fell_back" in fields else [])


def test_a_pinned_expert_gets_the_rest_of_the_conversation_and_a_new_chat_is_routed_again(
    chat: Tab, api: FakeApi
) -> None:
    api.reply = lambda body: Reply([text("Yes.", moe_ray=verdict(requested=body["model"])), *end()])
    ask_and_wait(chat)
    click(chat, "Pin biomedical-expert")
    assert shown(chat, ".picker .name") == ["Pinned: biomedical-expert"]
    ask_and_wait(chat)
    chat.press("k", control=True)
    assert shown(chat, ".picker .name") == ["Auto"]
    assert shown(chat, ".turn") == []
    ask_and_wait(chat)
    assert [api.next_request().body["model"] for _ in range(3)] == ["auto", "biomedical-expert", "auto"]
    assert chat.evaluate("document.querySelectorAll('.turn').length") == 1


def test_two_models_answer_side_by_side_and_each_is_asked_with_its_own_past(chat: Tab, api: FakeApi) -> None:
    def reply(body: dict[str, Any]) -> Reply:
        said = verdict("general-7b" if body["model"] == "general-7b" else "code-expert", requested=body["model"])
        return Reply([text(f"I am {body['model']}.", moe_ray=said), *end()])

    api.reply = reply
    click(chat, "Compare")
    assert shown(chat, ".picker .name") == ["Auto", "general-7b"]
    ask_and_wait(chat)
    assert shown(chat, ".text") == ["I am auto.", "I am general-7b."]
    tops, lefts = (
        chat.evaluate(f"[...document.querySelectorAll('.answer')].map((node) => node.getBoundingClientRect().{side})")
        for side in ("top", "left")
    )
    assert tops[0] == tops[1]
    assert lefts[0] < lefts[1]
    ask_and_wait(chat, "And?")
    said = {}
    for _ in range(4):
        body = api.next_request().body
        said[body["model"]] = [message["content"] for message in body["messages"]]
    assert said == {name: ["What is metformin?", f"I am {name}.", "And?"] for name in ("auto", "general-7b")}
    chat.look_as(360)
    tops = chat.evaluate("[...document.querySelectorAll('.answer')].map((node) => node.getBoundingClientRect().top)")
    assert tops == sorted(set(tops))


@pytest.mark.parametrize("way", ["button", "Escape", "new chat"])
def test_stopping_closes_the_connection(chat: Tab, api: FakeApi, way: str) -> None:
    reply = Reply([text("Once upon", moe_ray=CERTAIN), UNTIL_CLOSED])
    api.reply = lambda body: reply
    ask(chat)
    chat.wait_for("document.querySelector('.text')?.textContent === 'Once upon'")
    if way == "Escape":
        chat.press("Escape")
    else:
        click(chat, {"button": "Stop", "new chat": "New chat"}[way])
    assert reply.is_closed.wait(60)
    chat.wait_for(IDLE)
    if way != "new chat":
        assert shown(chat, ".note") == ["Stopped."]
        assert shown(chat, ".text") == ["Once upon"]
    assert chat.evaluate("document.activeElement.id") == "question"


def test_reasoning_stands_apart_and_is_not_sent_back(chat: Tab, api: FakeApi) -> None:
    api.reply = lambda body: Reply([thoughts("Let me <b>see</b>."), text("Yes.", moe_ray=CERTAIN), *end()])
    ask_and_wait(chat)
    assert shown(chat, ".reasoning > summary") == ["Reasoning"]
    assert shown(chat, ".thoughts") == []
    chat.evaluate("document.querySelector('.reasoning').open = true")
    assert shown(chat, ".thoughts") == ["Let me <b>see</b>."]
    assert shown(chat, ".text") == ["Yes."]
    ask_and_wait(chat, "And?")
    api.next_request()
    assert [message["content"] for message in api.next_request().body["messages"]][1] == "Yes."


def test_while_a_model_is_swapped_in_the_page_polls_and_says_so(chat: Tab, api: FakeApi) -> None:
    go = threading.Event()
    api.models[2] = model("legal-expert", status="loading", domains=["legal"])
    api.reply = lambda body: Reply([go, text("Yes.", moe_ray=verdict("legal-expert")), *end()])
    assert api.num_polls == 1
    ask(chat)
    assert shown(chat, ".waiting") == ["Choosing an expert…"]
    chat.wait_for("document.querySelector('.waiting').textContent === 'Loading legal-expert…'")
    assert chat.evaluate("document.getElementById('live').textContent") == "Loading legal-expert…"
    go.set()
    chat.wait_for(IDLE)
    assert shown(chat, ".waiting") == []


def test_an_error_is_shown_and_retry_waits_as_long_as_the_server_asks(chat: Tab, api: FakeApi) -> None:
    api.reply = lambda body: Reply(status=503, error="All replicas are busy.", headers={"Retry-After": "1"})
    ask_and_wait(chat)
    assert shown(chat, ".error p") == ["All replicas are busy."]
    assert shown(chat, ".error button") == ["Retry in 1 s"]
    assert chat.evaluate("document.querySelector('.answer .error button').disabled")
    api.reply = lambda body: Reply([text("Yes.", moe_ray=CERTAIN), *end()])
    chat.wait_for("!document.querySelector('.answer .error button').disabled")
    click(chat, "Retry")
    chat.wait_for(f"document.querySelector('.text').textContent === 'Yes.' && {IDLE}")
    assert shown(chat, ".error") == []
    assert [len(api.next_request().body["messages"]) for _ in range(2)] == [1, 1]


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (Reply([text("Half"), {"error": {"message": "The model crashed."}}]), "The model crashed."),
        (Reply([text("Half")], is_complete=False), "The connection ended before the answer was complete."),
    ],
)
def test_an_answer_that_breaks_off_keeps_its_text_and_says_why(
    chat: Tab, api: FakeApi, reply: Reply, message: str
) -> None:
    api.reply = lambda body: reply
    ask_and_wait(chat)
    assert shown(chat, ".error p") == [message]
    assert shown(chat, ".text") == ["Half"]
    assert shown(chat, ".error button") == ["Retry"]


def test_a_question_that_failed_is_left_out_of_the_next_request(chat: Tab, api: FakeApi) -> None:
    api.reply = lambda body: Reply(status=500, error="It failed.")
    ask_and_wait(chat, "One?")
    ask_and_wait(chat, "Two?")
    api.next_request()
    assert api.next_request().body["messages"] == [{"role": "user", "content": "Two?"}]
    assert len(shown(chat, ".error button")) == 1


def test_the_key_is_asked_for_once_sent_with_each_request_and_kept_in_the_tab_only(chat: Tab, api: FakeApi) -> None:
    api.key = "secret-key"
    ask(chat)
    chat.wait_for("document.querySelector('dialog[open]')")
    chat.type("wrong")
    chat.press("Enter")
    chat.wait_for("document.querySelector('dialog[open]') && document.getElementById('key').value === ''")
    chat.type("secret-key")
    chat.press("Enter")
    chat.wait_for(f"document.querySelector('.answer.over') && {IDLE}")
    assert shown(chat, ".text") == ["Hello."]
    assert api.next_request().headers["authorization"] == "Bearer secret-key"
    ask_and_wait(chat)
    assert chat.evaluate("Object.values(sessionStorage)") == ["secret-key"]
    assert chat.evaluate("localStorage.length + document.cookie.length") == 0
    chat.evaluate("sessionStorage.clear()")


def test_without_a_key_the_servers_message_is_shown(chat: Tab, api: FakeApi) -> None:
    api.key = "secret-key"
    ask(chat)
    chat.wait_for("document.querySelector('dialog[open]')")
    click(chat, "Cancel")
    chat.wait_for("document.querySelector('.answer.over')")
    assert shown(chat, ".answer .error p") == ["The API key is wrong."]


def test_the_last_question_is_edited_and_sent_again_in_its_own_place(chat: Tab, api: FakeApi) -> None:
    ask_and_wait(chat, "One?")
    ask_and_wait(chat, "Tow?")
    assert shown(chat, ".edit") == ["Edit"]
    chat.press("ArrowUp")
    assert chat.evaluate("document.getElementById('question').value") == "Tow?"
    chat.press("Escape")
    assert chat.evaluate("document.getElementById('question').value") == ""
    assert shown(chat, "#editing") == []
    click(chat, "Edit")
    chat.evaluate("document.getElementById('question').value = 'Two?'")
    chat.press("Enter")
    chat.wait_for(f"document.querySelectorAll('.answer.over').length === 2 && {IDLE}")
    assert shown(chat, ".question p") == ["One?", "Two?"]
    sent = [[message["content"] for message in api.next_request().body["messages"]] for _ in range(3)]
    assert sent[2] == ["One?", "Hello.", "Two?"]
