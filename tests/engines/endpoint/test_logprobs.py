"""Log-probabilities and echoes of the endpoint engine: those of the API, or a refusal; streamed or whole."""

from dataclasses import replace
from typing import Any

import httpx2
import pytest

from moe_ray.engines.base import NO_ECHO, NO_LOGPROBS, GenerateRequest, Generation
from moe_ray.engines.endpoint.engine import EndpointEngine
from moe_ray.engines.endpoint.logprobs import read_logprobs
from moe_ray.prompts.messages import Prompt
from moe_ray.serving.openai.logprobs import chat_logprobs, completion_logprobs, echoed_logprobs
from tests.engines.asking import ask, completion
from tests.engines.endpoint.conftest import Connect
from tests.engines.openai_api import Api

IDS = Prompt(messages=(), style="completion", token_ids=(3, 14, 15))
PATHS = {"chat": "/chat/completions", "completion": "/completions"}


def asked(prompt: str | Prompt = "one two three", *, num: int = 4, **fields: Any) -> GenerateRequest:
    return replace(ask(prompt, num=num), **{"num_logprobs": 2, **fields})


def upstream(api: Api, style: str, **body: Any) -> Any:
    """The API's own choice for a body."""
    prompt = {"messages": [{"role": "user", "content": "one two three"}]} if style == "chat" else {}
    body = {"model": "tiny", "max_tokens": 4, "temperature": 0.0, **prompt, **body}
    return httpx2.post(api.base_url + PATHS[style], json=body).raise_for_status().json()["choices"][0]


def both(engine: EndpointEngine, request: GenerateRequest) -> Generation:
    """The answer of `submit`, whose deltas join to it, and which `generate` gives too."""
    stream = engine.submit(request)
    deltas = list(stream)
    streamed, (whole,) = stream.result(), engine.generate([request])
    assert tuple(one for delta in deltas for one in delta.logprobs) == streamed.logprobs == whole.logprobs
    assert (streamed.text, streamed.error, streamed.refused) == (whole.text, whole.error, whole.refused)
    assert (streamed.prompt_text, streamed.prompt_logprobs) == (whole.prompt_text, whole.prompt_logprobs)
    return streamed


@pytest.mark.parametrize("streams", [True, False])
@pytest.mark.parametrize("num", [0, 2])
def test_log_probabilities_are_those_of_the_api(api: Api, connect: Connect, streams: bool, num: int) -> None:
    api.streams = streams
    found = both(connect(style="chat"), asked(num_logprobs=num))
    own = upstream(api, "chat", logprobs=True, top_logprobs=num)
    assert chat_logprobs(found.logprobs) == own["logprobs"]
    assert [len(one.top) for one in found.logprobs] == [num] * 4
    found = both(connect(), asked(num_logprobs=num))
    own = upstream(api, "completion", prompt="one two three", logprobs=num)
    given = completion_logprobs(found.logprobs)
    assert [given[key] for key in ("tokens", "token_logprobs", "text_offset")] == [
        own["logprobs"][key] for key in ("tokens", "token_logprobs", "text_offset")
    ]
    if num:
        assert given["top_logprobs"] == own["logprobs"]["top_logprobs"]


@pytest.mark.parametrize(
    ("prompt", "sent"), [("one two three", "one two three"), (IDS, [3, 14, 15])], ids=["a text", "token ids"]
)
def test_an_echo_is_that_of_the_api(api: Api, connect: Connect, prompt: str | Prompt, sent: Any) -> None:
    found = both(connect(), asked(prompt, echo=True))
    own = upstream(api, "completion", prompt=sent, logprobs=2, echo=True)
    assert found.prompt_text + found.text == own["text"]
    assert found.prompt_text == ("one two three" if prompt != IDS else "w3 w14 w15")
    given = echoed_logprobs(found)
    for key in ("tokens", "token_logprobs", "text_offset", "top_logprobs"):
        assert given[key] == own["logprobs"][key]


def test_an_echo_without_log_probabilities_is_the_text_alone(connect: Connect) -> None:
    found = both(connect(), asked(num_logprobs=None, echo=True))
    assert (found.prompt_text, found.text) == ("one two three", " one two three one")
    assert found.logprobs == found.prompt_logprobs == ()


@pytest.mark.parametrize(
    ("ability", "fields", "reason"),
    [
        ({"logprobs": "refused"}, {}, "logprobs are not supported by this model"),
        ({"logprobs": "ignored"}, {}, NO_LOGPROBS),
        ({"logprobs": "ignored"}, {"echo": True}, NO_LOGPROBS),
        ({"likelihoods": ()}, {"echo": True}, NO_ECHO),
        ({"likelihoods": ()}, {"echo": True, "num_logprobs": None}, NO_ECHO),
        ({"gives_usage": False}, {"echo": True}, NO_ECHO),
        ({"context_length": 5}, {}, "maximum context length is 5"),
    ],
)
@pytest.mark.parametrize("streams", [True, False])
def test_what_the_api_does_not_give_is_the_requests_refusal(
    api: Api, connect: Connect, streams: bool, ability: dict[str, Any], fields: dict[str, Any], reason: str
) -> None:
    for name, value in {"streams": streams, **ability}.items():
        setattr(api, name, value)
    engine = connect()
    found = both(engine, asked(**fields))
    assert found.refused
    assert reason in (found.error or "")
    assert next(engine.submit(asked(**fields))).refused, "nothing was sent before the refusal"


def test_log_probabilities_end_with_the_text_at_a_stop_that_the_api_did_not_heed(connect: Connect) -> None:
    stops = ("#", "%", "~", "^", "three o")
    found = both(connect(), asked(completion("one two three", stop=stops), num=6))
    assert found.text == " one two "
    assert [one.token for one in found.logprobs] == [" one", " two", " three"]


def test_a_prompt_with_a_style_of_its_own_goes_to_that_styles_path(api: Api, connect: Connect) -> None:
    chat, text = replace(completion("one two"), style="chat"), replace(completion("one two"), style="completion")
    assert connect(style="chat").submit(ask(text, num=1)).result().text == " one"
    assert api.bodies[-1]["prompt"] == "one two"
    assert connect().submit(ask(chat, num=2)).result().text == " [user] one"
    assert api.bodies[-1]["messages"] == [{"role": "user", "content": "one two"}]
    assert connect(style="chat").submit(ask(IDS, num=1)).result().text == " w3"
    assert api.bodies[-1]["prompt"] == [3, 14, 15]


@pytest.mark.parametrize(
    "given",
    [
        None,
        True,
        [],
        {"content": [{"token": 1, "logprob": -1.0}]},
        {"content": [{"token": "a", "logprob": "low"}]},
        {"content": [{"token": "a", "logprob": -1.0, "top_logprobs": 7}]},
        {"content": 3},
        {"tokens": ["a", "b"], "token_logprobs": [-1.0]},
        {"tokens": ["a", "b"], "token_logprobs": [-1.0, None]},
        {"tokens": ["a"], "token_logprobs": [-(10**400)]},
        {"tokens": ["a"], "token_logprobs": [-1.0], "top_logprobs": [[1]]},
        {"tokens": ["a"], "token_logprobs": [True]},
    ],
)
def test_log_probabilities_that_cannot_be_read_count_as_absent(given: Any) -> None:
    assert read_logprobs({"logprobs": given}) == ()
