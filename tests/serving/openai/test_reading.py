"""Requests become calls."""

import json
from collections.abc import Callable
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_ray.serving.calls import ApiCall, ApiError, CallLimits, Endpoint
from moe_ray.serving.openai.schema import TABLES
from moe_ray.serving.openai.strict_json import MAX_DEPTH, read_json
from tests.serving.openai.requests import CANARY, CLIENTS, MALFORMED, PLAIN, call, read, user

T = TypeVar("T")


@pytest.mark.parametrize(("endpoint", "body", "param"), MALFORMED, ids=lambda value: repr(value)[:60])
def test_a_malformed_request_is_refused_by_naming_its_field_and_repeating_nothing(
    endpoint: Endpoint, body: bytes, param: str | None
) -> None:
    with pytest.raises(ApiError) as raised:
        read(endpoint, body)
    error = raised.value
    assert (error.status, error.kind, error.param) == (400, "invalid_request_error", param)
    assert len(error.message) < 400
    assert CANARY not in error.message
    assert "471" not in error.message


@pytest.mark.parametrize("client", CLIENTS)
def test_the_requests_of_well_known_clients_are_accepted(client: str) -> None:
    endpoint, body = CLIENTS[client]
    assert read(endpoint, json.dumps(body).encode()).model == body["model"]


def test_what_a_chat_obeys_is_in_the_call() -> None:
    found = call(
        "chat",
        model="auto",
        messages=[{"role": "developer", "content": "Be short."}, *user("one"), *_said("a"), *user("two")],
        stream=True,
        stream_options={"include_usage": True},
        max_completion_tokens=7,
        temperature=0.5,
        top_p=0.9,
        stop="END",
        seed=-1,
        n=2,
        store=False,
    )
    (prompt,) = found.prompts
    assert [(one.role, one.content) for one in prompt.messages] == [
        ("system", "Be short."),
        ("user", "one"),
        ("assistant", "a"),
        ("user", "two"),
    ]
    assert (prompt.style, prompt.stop) == ("chat", ("END",))
    assert found == ApiCall(
        endpoint="chat",
        model="auto",
        prompts=(prompt,),
        query="one\ntwo",
        stream=True,
        include_usage=True,
        max_new_tokens=7,
        temperature=0.5,
        top_p=0.9,
        seed=2**63 - 1,
        n=2,
        store=False,
    )


def _said(text: str) -> list[dict[str, Any]]:
    return [{"role": "assistant", "content": text}]


def test_what_a_completion_obeys_is_in_the_call() -> None:
    found = call("completions", prompt=[[1, 2], [3]], echo=True, logprobs=0, n=2, best_of=2, stop=["a", "", "b"])
    assert [(one.token_ids, one.style, one.stop) for one in found.prompts] == [
        ((1, 2), "completion", ("a", "b")),
        ((3,), "completion", ("a", "b")),
    ]
    assert (found.echo, found.num_logprobs, found.n, found.query) == (True, 0, 2, None)


def test_text_parts_are_joined_by_a_line_break() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert call("chat", messages=user(parts)).query == "a\nb"


def test_one_text_in_a_list_can_be_routed() -> None:
    assert call("completions", model="auto", prompt=["hello"]).query == "hello"


def test_null_means_that_a_field_is_absent() -> None:
    for endpoint, table in TABLES.items():
        nulls = {name: None for name, field in table.items() if name not in PLAIN[endpoint]}
        assert call(endpoint, **nulls) == call(endpoint)


def test_a_number_without_a_fraction_is_an_integer() -> None:
    found = call("chat", max_tokens=5.0, seed=3.0, logprobs=True, top_logprobs=2.0)
    assert [found.max_new_tokens, found.seed, found.num_logprobs] == [5, 3, 2]
    assert {type(value) for value in (found.max_new_tokens, found.seed, found.num_logprobs)} == {int}


def test_the_instructions_of_a_response_come_before_its_input() -> None:
    found = call("responses", instructions="Be short.", max_output_tokens=9)
    assert [(one.role, one.content) for one in found.prompts[0].messages] == [("system", "Be short."), ("user", "hi")]
    assert (found.instructions, found.query, found.max_new_tokens) == ("Be short.", "hi", 9)


@pytest.mark.parametrize("body", [{"prompt": "a\nb"}, {"input": "a\nb"}, {"messages": [*user("a"), *user("b")]}])
def test_a_text_and_a_chat_can_be_routed(body: dict[str, Any]) -> None:
    assert read("route", json.dumps(body).encode()).query == "a\nb"


def test_a_text_and_a_chat_can_be_tokenized() -> None:
    text = call("tokenize", add_special_tokens=False)
    assert (text.model, text.prompts[0].style, text.add_special_tokens) == ("auto", "completion", False)
    chat = call("tokenize", model="law", prompt=None, messages=user("hi"))
    assert (chat.model, chat.prompts[0].style) == ("law", "chat")


@pytest.mark.parametrize("endpoint", TABLES)
def test_every_value_that_the_table_calls_harmless_is_accepted(endpoint: Endpoint) -> None:
    for name, field in TABLES[endpoint].items():
        for value in field.schema.get("enum", ()):
            if field.use != "obeyed":
                assert call(endpoint, **{name: value}) == call(endpoint)


@pytest.mark.parametrize("endpoint", TABLES)
def test_no_unsupported_field_is_ignored(endpoint: Endpoint) -> None:
    for name, field in TABLES[endpoint].items():
        if field.use == "unsupported":
            with pytest.raises(ApiError) as raised:
                call(endpoint, **{name: {"other": 1}})
            assert (raised.value.param, raised.value.code) == (name, "unsupported_parameter")


def test_unknown_fields_are_named_in_printable_and_bounded_form() -> None:
    unknown = {"chat_id": 1, "a\r\nb: c": 2, "\u00fc" * 100: 3, "": 4}
    found = call("chat", **unknown, messages=user("hi", name="ann"))
    assert found.ignored == ("chat_id", "a__b__c", "_" * 64, "_", "messages.name")
    many = call("chat", **{f"x{number}": 0 for number in range(1000)})
    assert len(many.ignored) == 16


def test_a_call_has_at_most_as_many_choices_as_the_limit() -> None:
    body = json.dumps({**PLAIN["completions"], "prompt": ["a", "b"], "n": 2}).encode()
    assert len(read("completions", body, CallLimits(max_choices=4)).prompts) == 2
    with pytest.raises(ApiError):
        read("completions", body, CallLimits(max_choices=3))


def test_json_may_be_as_deep_as_the_limit_and_brackets_in_strings_do_not_count() -> None:
    assert read_json(b'{"a":' * MAX_DEPTH + b"1" + b"}" * MAX_DEPTH)
    assert read_json(b'{"a": "' + b"[" * 1000 + b'"}') == {"a": "[" * 1000}
    assert read_json(b'{"a": [' + b"[]," * 1000 + b"1]}")
    assert read_json(b'{"a": "\\ud83d\\ude00"}') == {"a": "\U0001f600"}


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize("endpoint", TABLES)
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_any_fields_give_a_call_or_an_error_of_the_api(endpoint: Endpoint, data: st.DataObject) -> None:
    names = st.sampled_from(sorted(TABLES[endpoint]))
    fields = data.draw(st.dictionaries(names | st.text(max_size=8), _JSON, max_size=4))
    body = json.dumps({**PLAIN[endpoint], **fields}).encode()
    found = _found(lambda: read(endpoint, body))
    if isinstance(found, ApiError):
        assert found.status == 400
        assert found.param is None or found.param.partition("[")[0] in TABLES[endpoint]
    else:
        assert found.endpoint == endpoint


def _found(reading: Callable[[], T]) -> T | ApiError:
    try:
        return reading()
    except ApiError as error:
        return error


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60) | st.text('{}[]",:\\ud8ae01-.trfnNI', max_size=60).map(str.encode))
def test_any_bytes_give_an_object_or_an_error_of_the_api(body: bytes) -> None:
    found = _found(lambda: read_json(body))
    if isinstance(found, ApiError):
        assert found.status == 400
    else:
        json.dumps(found, ensure_ascii=False, allow_nan=False).encode()
