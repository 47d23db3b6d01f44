"""Chats and completions are written as OpenAI's own client reads them."""

import json
import math
from typing import Any

import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from moe_ray.engines.base import Delta, TokenLogprob, failed_generation
from moe_ray.serving.calls import ApiError
from moe_ray.serving.openai.bodies import route_body, tokenize_body
from tests.serving.openai.requests import call, user
from tests.serving.openai.streams import LAST, VERDICT, chunks, events, generation, stream, writer

TOLD = {
    "requested": "auto",
    "expert": "law",
    "probabilities": {"law": 0.75, "medicine": 0.25},
    "confidence": 0.75,
    "out_of_domain": False,
    "fell_back": False,
    "pinned": None,
    "router_ms": 1.235,
    "queue_ms": 0.0,
    "swap_ms": 0.0,
}
TOKENS = (
    TokenLogprob("So", 7, -0.5, (("So", 7, -0.5), ("No", 9, -1.5))),
    TokenLogprob(" be", 8, -2.0, ((" it", 10, -0.25), (" be", 8, -2.0))),
)


def test_a_chat_is_read_by_the_client() -> None:
    asked = call("chat", model="auto", n=2)
    answers = [
        generation("Yes.", reasoning="hm", num_reasoning_tokens=1),
        generation("No", finish_reason="length"),
    ]
    sent = json.loads(writer(asked).whole(answers))
    found = ChatCompletion.model_validate(sent, strict=True)
    assert (found.model, sent["router_model_name"], sent["moe_ray"]) == ("law", "auto", TOLD)
    assert [(one.index, one.message.content, one.finish_reason) for one in found.choices] == [
        (0, "Yes.", "stop"),
        (1, "No", "length"),
    ]
    assert sent["choices"][0]["message"]["reasoning_content"] == "hm"
    assert sent["usage"] == {
        "prompt_tokens": 3,
        "completion_tokens": 4,
        "total_tokens": 7,
        "completion_tokens_details": {"reasoning_tokens": 1},
    }


@pytest.mark.parametrize("include_usage", [True, False])
def test_a_stream_of_a_chat_is_read_by_the_client(include_usage: bool) -> None:
    asked = call("chat", model="auto", n=2, stream=True, stream_options={"include_usage": include_usage})
    deltas = [
        (0, Delta(reasoning="hm", num_tokens=1)),
        (1, Delta(text="No")),
        (0, Delta(text="Y\u00e9s\u2028")),
        (1, Delta(text="", num_tokens=1)),
        (0, LAST),
        (1, Delta(text=".", finish_reason="length", num_prompt_tokens=3, num_completion_tokens=2)),
    ]
    sent = chunks(stream(asked, deltas))
    found = [ChatCompletionChunk.model_validate(one, strict=True) for one in sent]
    assert {(one.id, one.created, one.model) for one in found} == {("chatcmpl-r1", 1_700_000_000, "law")}
    assert {one["router_model_name"] for one in sent} == {"auto"}
    assert [one.choices[0].delta.role for one in found[:2]] == ["assistant", "assistant"]
    texts = ["", ""]
    for one in found:
        for choice in one.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == ["Y\u00e9s\u2028", "No."]
    assert sent[2]["choices"][0]["delta"] == {"reasoning_content": "hm"}
    assert sent[0]["moe_ray"] == sent[-1]["moe_ray"] == TOLD
    assert [choice.finish_reason for one in found for choice in one.choices if choice.finish_reason] == [
        "stop",
        "length",
    ]
    if include_usage:
        assert {one["usage"] for one in sent[:-1]} == {None}
        assert (sent[-1]["choices"], sent[-1]["usage"]["total_tokens"]) == ([], 10)
        assert sent[-1]["usage"]["completion_tokens_details"] == {"reasoning_tokens": 2}
    else:
        assert not any("usage" in one for one in sent)


def test_a_stream_of_a_completion_has_no_event_before_its_first_text() -> None:
    asked = call("completions", prompt=["a", "b"], stream=True, stream_options={"include_usage": True})
    deltas = [(1, Delta(text="x")), (0, Delta(text="y")), (1, Delta(text="z")), (0, LAST), (1, LAST)]
    assert writer(asked).start() == b""
    sent = chunks(stream(asked, deltas))
    found = [Completion.model_validate(_finished(one)) for one in sent]
    assert [(one.choices[0].index, one.choices[0].text) for one in found[:3]] == [(1, "x"), (0, "y"), (1, "z")]
    assert ["moe_ray" in one for one in sent] == [True, False, False, True, True, True]
    assert sent[-1]["usage"]["prompt_tokens"] == 6


def _finished(chunk: Any) -> Any:
    """The chunk with a finish reason, which the client's type demands, though OpenAI's streams leave it null."""
    return {**chunk, "choices": [{**one, "finish_reason": one["finish_reason"] or "stop"} for one in chunk["choices"]]}


def test_prompts_count_once_however_many_answers_they_have() -> None:
    asked = call("completions", prompt=["a", "b"], n=2)
    answers = [generation("", num_prompt_tokens=number) for number in (3, 3, 10, 10)]
    assert json.loads(writer(asked).whole(answers))["usage"]["prompt_tokens"] == 13


def test_log_probabilities_of_a_chat_are_read_by_the_client() -> None:
    asked = call("chat", logprobs=True, top_logprobs=2)
    whole = json.loads(writer(asked).whole([generation("So be", logprobs=TOKENS)]))
    expected = [
        {
            "token": "So",
            "bytes": [83, 111],
            "logprob": -0.5,
            "top_logprobs": [
                {"token": "So", "bytes": [83, 111], "logprob": -0.5},
                {"token": "No", "bytes": [78, 111], "logprob": -1.5},
            ],
        }
    ]
    ChatCompletion.model_validate(whole, strict=True)
    assert whole["choices"][0]["logprobs"]["content"][:1] == expected
    sent = chunks(stream(asked, [(0, Delta(text="So", logprobs=TOKENS[:1])), (0, LAST)]))
    assert sent[1]["choices"][0]["logprobs"]["content"] == expected
    ChatCompletionChunk.model_validate(sent[1], strict=True)


def test_an_echoed_prompt_is_scored_as_lm_eval_reads_it() -> None:
    asked = call("completions", prompt=[[1, 5, 6]], echo=True, logprobs=1, max_tokens=1)
    scored = (
        None,
        TokenLogprob(" is", 5, -1.0, ((" was", 4, -0.5),)),
        TokenLogprob(" so", 6, -0.25, ((" so", 6, -0.25),)),
    )
    answer = generation(" be", prompt_logprobs=scored, prompt_text="It is so", logprobs=TOKENS[1:])
    (choice,) = json.loads(writer(asked).whole([answer]))["choices"]
    assert choice["text"] == "It is so be"
    told = choice["logprobs"]
    assert told == {
        "tokens": ["It", " is", " so", " be"],
        "token_logprobs": [None, -1.0, -0.25, -2.0],
        "top_logprobs": [None, {" was": -0.5, " is": -1.0}, {" so": -0.25}, {" it": -0.25, " be": -2.0}],
        "text_offset": [0, 2, 5, 8],
    }
    context = 1
    measured = list(zip(told["token_logprobs"], told["top_logprobs"], strict=True))[context:-1]
    assert [value == max(top.values()) for value, top in measured] == [False, True]


def test_offsets_of_a_stream_go_on_from_piece_to_piece() -> None:
    asked = call("completions", logprobs=0, stream=True)
    deltas = [(0, Delta(text="So", logprobs=TOKENS[:1])), (0, Delta(text=" be", logprobs=TOKENS[1:])), (0, LAST)]
    told = [one["choices"][0]["logprobs"] for one in chunks(stream(asked, deltas))]
    assert [one and one["text_offset"] for one in told] == [[0], [2], None]


def test_what_json_lacks_is_replaced() -> None:
    odd = TokenLogprob("\ufffd", 7, -math.inf, (("\ud800", 3, math.nan), ("\ufffd", 4, -1.0)))
    chat = json.loads(writer(call("chat", logprobs=True)).whole([generation("\ud800", logprobs=(odd,))]))
    (told,) = chat["choices"][0]["logprobs"]["content"]
    assert chat["choices"][0]["message"]["content"] == "\ufffd"
    assert (told["logprob"], told["bytes"]) == (-9999.0, None)
    completion = json.loads(writer(call("completions", logprobs=1)).whole([generation("x", logprobs=(odd,))]))
    assert completion["choices"][0]["logprobs"]["top_logprobs"] == [{"\ufffd": -1.0}]


@pytest.mark.parametrize("endpoint", ["chat", "completions"])
def test_a_stream_that_breaks_ends_with_an_error(endpoint: Any) -> None:
    out = writer(call(endpoint, stream=True))
    sent = (
        out.start() + out.delta(0, Delta(text="a")) + out.failure(ApiError(500, "the engine died", kind="server_error"))
    )
    *_, error, done = events(sent)
    assert error == (
        None,
        {"error": {"message": "the engine died", "type": "server_error", "param": None, "code": None}},
    )
    assert done == (None, "[DONE]")


def test_a_failed_answer_is_never_written_as_an_answer() -> None:
    with pytest.raises(ValueError, match="failure"):
        writer(call("chat")).whole([failed_generation("no memory")])


def test_names_with_quotes_stay_json() -> None:
    out = writer(call("chat", messages=user("a")))
    assert chunks(out.start() + out.delta(0, Delta(text='"\\\n\x00')) + out.end())[1]["choices"][0]["delta"] == {
        "content": '"\\\n\x00'
    }


def test_a_decision_alone_lists_the_likeliest_first() -> None:
    body = route_body(VERDICT, request_id="r1")
    assert (body["selected_model"], body["selection_reason"], body["moe_ray"]) == ("law", "router", TOLD)
    assert body["classifications"] == [{"label": "law", "score": 0.75}, {"label": "medicine", "score": 0.25}]


def test_token_ids_are_counted() -> None:
    assert tokenize_body((1, 2), context_length=9) == {"count": 2, "max_model_len": 9, "tokens": [1, 2]}
