"""From the body of a request to a call.

Every refusal is an `ApiError` of status 400 whose `param` names the field at fault, and whose message repeats nothing
of the request. Whether the model exists is not checked here.
"""

from collections.abc import Mapping
from typing import Any

from moe_ray.prompts.messages import Message, Prompt
from moe_ray.serving.calls import AUTO, ApiCall, CallLimits
from moe_ray.serving.openai.checking import obeyed_values, printable_names, refused
from moe_ray.serving.openai.conversation import chat_prompt, messages_of, user_turns
from moe_ray.serving.openai.fields import CHAT, COMPLETION, RESPONSES, ROUTE, TOKENIZE
from moe_ray.serving.openai.strict_json import read_json

_SEEDS = 2**63


def chat_call(body: bytes, *, limits: CallLimits) -> ApiCall:
    """Read a request to /v1/chat/completions."""
    ignored: list[str] = []
    values = obeyed_values(read_json(body), CHAT, ignored)
    messages = messages_of(values["messages"], "messages", ignored)
    num_logprobs = _chat_logprobs(values)
    if values["model"] == AUTO:
        _check_routable(user_turns(messages), "messages", num_logprobs)
    return ApiCall(
        endpoint="chat",
        prompts=(chat_prompt(messages, _stops(values)),),
        query=user_turns(messages),
        num_logprobs=num_logprobs,
        ignored=printable_names(ignored),
        **_drawing(values, num_prompts=1, limits=limits),
    )


def completion_call(body: bytes, *, limits: CallLimits) -> ApiCall:
    """Read a request to /v1/completions."""
    ignored: list[str] = []
    values = obeyed_values(read_json(body), COMPLETION, ignored)
    prompts = _completion_prompts(values["prompt"], _stops(values))
    query = prompts[0].messages[0].content if len(prompts) == 1 and prompts[0].messages else None
    if values["model"] == AUTO:
        _check_routable(query, "prompt", values.get("logprobs"))
    echo = bool(values.get("echo"))
    if echo:
        _check_echo(values)
    if values.get("best_of", values.get("n", 1)) != values.get("n", 1):
        raise refused("best_of", "best_of must equal n: all answers that are drawn are sent", "unsupported_value")
    return ApiCall(
        endpoint="completions",
        prompts=prompts,
        query=query,
        num_logprobs=_whole(values.get("logprobs")),
        echo=echo,
        ignored=printable_names(ignored),
        **_drawing(values, num_prompts=len(prompts), limits=limits),
    )


def responses_call(body: bytes) -> ApiCall:
    """Read a request to /v1/responses, of which only what is stateless and made of text is supported."""
    ignored: list[str] = []
    values = obeyed_values(read_json(body), RESPONSES, ignored)
    given = values["input"]
    spoken = (Message(role="user", content=given),) if isinstance(given, str) else messages_of(given, "input", ignored)
    instructions = values.get("instructions")
    heard = (Message(role="system", content=instructions),) if instructions else ()
    if values["model"] == AUTO:
        _check_routable(user_turns(spoken), "input", None)
    return ApiCall(
        endpoint="responses",
        model=values["model"],
        prompts=(chat_prompt((*heard, *spoken)),),
        query=user_turns(spoken),
        stream=values.get("stream", False),
        max_new_tokens=_whole(values.get("max_output_tokens")),
        temperature=values.get("temperature"),
        top_p=values.get("top_p"),
        store=values.get("store"),
        instructions=instructions,
        ignored=printable_names(ignored),
    )


def route_call(body: bytes) -> ApiCall:
    """Read a request to /v1/route: one of `messages`, `prompt` and `input`, whose text is the call's query."""
    ignored: list[str] = []
    values = obeyed_values(read_json(body), ROUTE, ignored)
    prompt = _only_prompt(values, ("messages", "prompt", "input"), ignored)
    query = user_turns(prompt.messages)
    if query is None:
        raise refused("messages", "messages must hold a turn of the user, which is what is routed")
    return ApiCall(endpoint="route", model=AUTO, prompts=(prompt,), query=query, ignored=printable_names(ignored))


def tokenize_call(body: bytes) -> ApiCall:
    """Read a request to /tokenize: one of `prompt` and `messages`. Without `model` the call's model is `auto`."""
    ignored: list[str] = []
    values = obeyed_values(read_json(body), TOKENIZE, ignored)
    return ApiCall(
        endpoint="tokenize",
        model=values.get("model", AUTO),
        prompts=(_only_prompt(values, ("prompt", "messages"), ignored),),
        query=None,
        add_special_tokens=values.get("add_special_tokens", True),
        ignored=printable_names(ignored),
    )


def _only_prompt(values: Mapping[str, Any], names: tuple[str, ...], ignored: list[str]) -> Prompt:
    given = [name for name in names if name in values]
    if len(given) != 1:
        raise refused(given[-1] if given else names[0], f"give exactly one of {', '.join(names)}")
    if given[0] == "messages":
        return chat_prompt(messages_of(values["messages"], "messages", ignored))
    return _text_prompt(values[given[0]])


def _drawing(values: Mapping[str, Any], *, num_prompts: int, limits: CallLimits) -> dict[str, Any]:
    """The arguments of a call that chats and completions have in common."""
    n = int(values.get("n", 1))
    if n * num_prompts > limits.max_choices:
        field = "prompt" if num_prompts > limits.max_choices else "n"
        raise refused(field, f"more than {limits.max_choices} answers: send fewer prompts at a time, or a smaller n")
    old, new = values.get("max_tokens"), values.get("max_completion_tokens")
    if old is not None and new is not None and old != new:
        raise refused("max_tokens", "max_tokens and max_completion_tokens differ; give one of them")
    seed = _whole(values.get("seed"))
    return {
        "model": values["model"],
        "stream": values.get("stream", False),
        "include_usage": bool(values.get("stream_options", {}).get("include_usage")),
        "max_new_tokens": _whole(old if new is None else new),
        "temperature": values.get("temperature"),
        "top_p": values.get("top_p"),
        "seed": None if seed is None else seed % _SEEDS,
        "n": n,
        "store": values.get("store"),
    }


def _chat_logprobs(values: Mapping[str, Any]) -> int | None:
    asked, top = values.get("logprobs", False), values.get("top_logprobs")
    if top and not asked:
        raise refused("top_logprobs", "top_logprobs needs logprobs to be true")
    return int(top or 0) if asked else None


def _check_routable(query: str | None, field: str, num_logprobs: int | None) -> None:
    """Raise `ApiError` for what `auto` cannot answer: token ids, several texts, or log-probabilities."""
    if num_logprobs is not None:
        raise refused("logprobs", "log-probabilities depend on the model: choose a model in place of auto", None)
    if query is None:
        what = "one text" if field == "prompt" else "a turn of the user"
        raise refused(field, f"{field} must be {what} for auto to route it; or choose a model", None)


def _check_echo(values: Mapping[str, Any]) -> None:
    if values["model"] == AUTO:
        raise refused("echo", "echo depends on the model: choose a model in place of auto", None)
    if values.get("stream"):
        raise refused("echo", "echo is not supported in a stream", "unsupported_value")


def _completion_prompts(given: Any, stop: tuple[str, ...]) -> tuple[Prompt, ...]:
    if isinstance(given, str):
        return (_text_prompt(given, stop),)
    if isinstance(given[0], str):
        return tuple(_text_prompt(text, stop) for text in given)
    lists = given if isinstance(given[0], list) else [given]
    return tuple(
        Prompt(messages=(), stop=stop, style="completion", token_ids=tuple(map(int, token_ids))) for token_ids in lists
    )


def _text_prompt(text: str, stop: tuple[str, ...] = ()) -> Prompt:
    return Prompt(messages=(Message(role="user", content=text),), stop=stop, style="completion")


def _stops(values: Mapping[str, Any]) -> tuple[str, ...]:
    stop = values.get("stop", [])
    return tuple(text for text in ([stop] if isinstance(stop, str) else stop) if text)


def _whole(number: float | None) -> int | None:
    """A checked integer that the client may have spelled with a fraction of zero."""
    return None if number is None else int(number)
