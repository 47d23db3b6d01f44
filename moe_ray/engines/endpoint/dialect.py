"""Detect which request format an API supports for a model, with minimal requests."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from moe_ray.config.schema import PromptStyle
from moe_ray.engines.api_settings import ApiSettings
from moe_ray.engines.base import GenerateRequest
from moe_ray.engines.endpoint.client import EndpointClient
from moe_ray.engines.endpoint.logprobs import logprob_keys
from moe_ray.engines.endpoint.replies import Reply, RequestRefusedError, UnansweredError
from moe_ray.errors import ModelError
from moe_ray.prompts.messages import Message, Prompt

NO_KEY_STATUSES = (401, 403)
# OpenAI accepts no more; answers are cut at the others after they arrive.
MAX_STOPS = 4
SEED_BITS = 31
MAX_NAMED_MODELS = 10
PLAIN_PROMPT = Prompt(messages=(Message(role="user", content="Hello"),))
PATHS: dict[PromptStyle, str] = {"chat": "/chat/completions", "completion": "/completions"}
# Best first: a stream gives the time to the first token, and some APIs count tokens in a stream only on request.
STREAMING: tuple[dict[str, Any], ...] = (
    {"stream": True, "stream_options": {"include_usage": True}},
    {"stream": True},
    {},
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """The model's name at the API, the path for its prompt style, and the body's keys that decide streaming.

    A prompt with a style of its own goes to that style's path, which was not tried at the start.
    """

    model: str
    style: PromptStyle
    streaming: dict[str, Any]
    settings: ApiSettings

    @property
    def path(self) -> str:
        """Where to post, below the base URL."""
        return PATHS[self.style]

    def path_of(self, prompt: Prompt) -> str:
        """Where to post `prompt`, below the base URL."""
        return PATHS[self._style_of(prompt)]

    def generation(self, request: GenerateRequest) -> dict[str, Any]:
        """Return the body that draws one text. An echo is asked for whole, so that its parts can be told apart."""
        body = self.body(request.prompt) | ({} if request.echo else self.streaming)
        body |= logprob_keys(request, self._style_of(request.prompt))
        body |= {self.settings.max_tokens_key: request.max_new_tokens, "temperature": request.temperature}
        if request.temperature > 0:
            body |= {"top_p": request.top_p, "seed": request.seed % (1 << SEED_BITS)}
        stops = [stop for stop in request.prompt.stop if stop][:MAX_STOPS]
        return body | ({"stop": stops} if stops else {})

    def body(self, prompt: Prompt) -> dict[str, Any]:
        """Return the keys that every body about `prompt` has."""
        asked: dict[str, Any] = (
            {"prompt": list(prompt.token_ids) or completion_text(prompt)}
            if self._style_of(prompt) == "completion"
            else {"messages": [{"role": one.role, "content": one.content} for one in prompt.messages]}
        )
        return self.settings.extra_body | {"model": self.model} | asked

    def plain(self) -> dict[str, Any]:
        """Return the smallest body that any model answers: one token after a word."""
        request = GenerateRequest(id="", prompt=PLAIN_PROMPT, max_new_tokens=1, temperature=0.0, top_p=1.0, seed=0)
        return self.generation(request)

    def _style_of(self, prompt: Prompt) -> PromptStyle:
        return prompt.style or self.style


def completion_text(prompt: Prompt) -> str:
    """The whole text of the completion style."""
    return "".join(message.content for message in prompt.messages)


def find_dialect(
    client: EndpointClient, model: str, style: PromptStyle, settings: ApiSettings, *, or_the_only_one: bool = False
) -> Dialect:
    """Return the first way in which the API answers as `model`, best with a count of tokens.

    With `or_the_only_one`, an API that does not know the name but lists one model alone is asked for that one.
    Raises `ModelError`; where the name is refused, with the names that the API lists.
    """
    try:
        return _as_model(client, model, style, settings)
    except RequestRefusedError as refused:
        if refused.status in NO_KEY_STATUSES:
            raise _wrong_key(client, refused) from refused
        listed = _listed_models(client)
        if or_the_only_one and listed is not None and len(listed) == 1 and listed != [model]:
            return find_dialect(client, listed[0], style, settings)
        raise _refusal(client, model, style, refused, listed) from refused


def _as_model(client: EndpointClient, model: str, style: PromptStyle, settings: ApiSettings) -> Dialect:
    ways = STREAMING if settings.stream else STREAMING[-1:]
    answered, refused = _ways(client, [_dialect(model, style, settings, one) for one in ways])
    counted = [dialect for dialect, reply in answered if reply.num_completion_tokens is not None]
    if answered:
        return counted[0] if counted else answered[0][0]
    assert refused is not None
    raise refused


def _dialect(name: str, style: PromptStyle, settings: ApiSettings, streaming: dict[str, Any]) -> Dialect:
    return Dialect(model=name, style=style, streaming=streaming, settings=settings)


def _ways(
    client: EndpointClient, dialects: Iterable[Dialect]
) -> tuple[list[tuple[Dialect, Reply]], RequestRefusedError | None]:
    """Try `dialects` until one is answered with a count of tokens; return those that were, and the last refusal."""
    answered: list[tuple[Dialect, Reply]] = []
    refused = None
    for dialect in dialects:
        try:
            reply = client.post(dialect.path, dialect.plain())
        except RequestRefusedError as error:
            refused = error
            if error.status in NO_KEY_STATUSES:
                break
        except UnansweredError as error:
            raise _unreachable(client, error) from error
        else:
            answered.append((dialect, reply))
            if reply.num_completion_tokens is not None:
                break
    return answered, refused


def _listed_models(client: EndpointClient) -> list[str] | None:
    """Return the names that the API lists, None where it has no readable list."""
    try:
        payload = client.get("/models")
    except (RequestRefusedError, UnansweredError):
        return None
    data = payload.get("data") if isinstance(payload, dict) else None
    return [str(one["id"]) for one in data if isinstance(one, dict) and "id" in one] if isinstance(data, list) else None


def _unreachable(client: EndpointClient, error: Exception) -> ModelError:
    """Return the error of an API that does not answer at the start."""
    return ModelError(
        str(error), where=client.base_url, remedy="check base_url, and that the server runs and is reachable"
    )


def _wrong_key(client: EndpointClient, error: RequestRefusedError) -> ModelError:
    return ModelError(
        f"authentication failed ({error})",
        where=client.base_url,
        remedy="name the environment variable that holds a valid key with engine_settings.api_key_env",
    )


def _refusal(
    client: EndpointClient, model: str, style: PromptStyle, error: RequestRefusedError, listed: Sequence[str] | None
) -> ModelError:
    known = "it does not list its models" if listed is None else f"its models: {_named(listed)}"
    return ModelError(
        f"no answer as model {model!r} in the {style} style ({error}); {known}",
        where=client.base_url + PATHS[style],
        remedy="check the model's name (path) and prompt_style",
    )


def _named(models: Sequence[str]) -> str:
    named = ", ".join(models[:MAX_NAMED_MODELS]) or "none"
    return named + (f" and {len(models) - MAX_NAMED_MODELS} more" if len(models) > MAX_NAMED_MODELS else "")
