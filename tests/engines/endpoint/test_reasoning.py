"""Reasoning that an API tells apart from its answer, in each of the forms that APIs use."""

import json
from typing import Any

import pytest

from moe_ray.config.schema import ModelConfig
from moe_ray.engines.base import Generation
from moe_ray.engines.endpoint.engine import EndpointEngine
from moe_ray.engines.registry import validate_engine
from moe_ray.errors import ConfigError
from tests.engines.asking import ROOMY, ask
from tests.engines.openai_api import Api, Fault

USAGE = {"prompt_tokens": 5, "completion_tokens": 9, "completion_tokens_details": {"reasoning_tokens": 7}}


def asked(api: Api, body: str, *, content_type: str = "application/json", **model: Any) -> Generation:
    """Ask a chat model whose API answers with `body`."""
    settings = {"base_url": api.base_url, **model.pop("engine_settings", {})}
    config = ModelConfig.model_validate({"path": "tiny", "engine": "endpoint", "engine_settings": settings, **model})
    validate_engine(config)
    engine = EndpointEngine(config, ROOMY)
    api.broken = lambda _: Fault(status=200, body=body, content_type=content_type)
    try:
        (answer,) = engine.generate([ask("Does it?")])
    finally:
        engine.close()
    return answer


def whole(message: dict[str, Any], finish_reason: str = "stop", usage: Any = USAGE) -> str:
    return json.dumps({"choices": [{"message": message, "finish_reason": finish_reason}], "usage": usage})


@pytest.mark.parametrize(
    "message",
    [
        {"content": "Yes.", "reasoning_content": "\nit says no\n"},
        {"content": "Yes.", "reasoning": "it says no"},
        {"content": "Yes.", "reasoning": "it says no", "reasoning_content": "it says no"},
        {"content": "Yes.", "reasoning": "it says no", "reasoning_content": None},
        {
            "content": [
                {"type": "thinking", "thinking": [{"type": "text", "text": "it says no"}]},
                {"type": "text", "text": "Yes."},
            ]
        },
    ],
)
def test_reasoning_is_read_from_every_place_where_apis_put_it(api: Api, message: dict[str, Any]) -> None:
    answer = asked(api, whole(message))
    assert (answer.text, answer.reasoning) == ("Yes.", "it says no")
    assert (answer.num_completion_tokens, answer.num_reasoning_tokens) == (9, 7)


def test_a_stream_of_reasoning_and_answer_is_joined_by_kind(api: Api) -> None:
    deltas: list[dict[str, Any]] = [
        {"role": "assistant", "content": None},
        {"reasoning_content": "it "},
        {"reasoning_content": "says no"},
        {"content": "Yes"},
        {"content": "."},
    ]
    events: list[dict[str, Any]] = [{"choices": [{"delta": delta, "finish_reason": None}]} for delta in deltas]
    events += [{"choices": [{"delta": {}, "finish_reason": "stop"}]}, {"choices": [], "usage": USAGE}]
    body = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
    answer = asked(api, body, content_type="text/event-stream")
    assert (answer.text, answer.reasoning, answer.num_reasoning_tokens) == ("Yes.", "it says no", 7)
    assert answer.timing.time_to_first_token_s is not None


def test_an_answer_cut_inside_its_reasoning_has_no_text(api: Api) -> None:
    answer = asked(api, whole({"content": None, "reasoning_content": "it says"}, "length"))
    assert (answer.text, answer.reasoning, answer.finish_reason) == ("", "it says", "length")


@pytest.mark.parametrize(
    "usage",
    [None, {}, {"completion_tokens_details": None}, {"completion_tokens_details": {"reasoning_tokens": "7"}},
     {"completion_tokens_details": {"reasoning_tokens": True}}, {"completion_tokens_details": [7]}],
)  # fmt: skip
def test_reasoning_tokens_that_are_not_reported_are_unknown(api: Api, usage: object) -> None:
    answer = asked(api, whole({"content": "Yes.", "reasoning": 12}, usage=usage))
    assert (answer.text, answer.reasoning, answer.num_reasoning_tokens) == ("Yes.", None, None)


def test_template_switches_are_a_part_of_every_request(api: Api) -> None:
    settings = {"extra_body": {"top_k": 1}}
    asked(api, whole({"content": "Yes."}), chat_template_kwargs={"enable_thinking": False}, engine_settings=settings)
    assert api.bodies
    assert all(body["chat_template_kwargs"] == {"enable_thinking": False} for body in api.bodies)
    assert all(body["top_k"] == 1 for body in api.bodies)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"prompt_style": "completion"}, "no chat template"),
        ({"chat_template_kwargs": {"tokenize": True}}, "tokenize follow"),
        ({"engine_settings": {"extra_body": {"chat_template_kwargs": {}}}}, "given twice"),
    ],
)
def test_switches_that_could_not_be_followed_are_refused(api: Api, changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        asked(api, "", **{"chat_template_kwargs": {"enable_thinking": False}, **changes})
    assert caught.value.where == "chat_template_kwargs"
