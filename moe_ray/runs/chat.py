"""A conversation with an experiment's models in this process: no Ray, no HTTP, one model loaded at a time."""

import secrets
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from moe_ray.config.load import LoadedExperiment
from moe_ray.config.schema import DecodingConfig, ExperimentConfig, ModelConfig
from moe_ray.engines.base import BatchLimits, GenerateRequest
from moe_ray.errors import ConfigError, MoeRayError, Problems
from moe_ray.fingerprint import fingerprint
from moe_ray.planning.memory import GIB
from moe_ray.prompts.messages import Message, Prompt
from moe_ray.runs.chat_process import ModelGoneError, ModelProcess, ModelSpec
from moe_ray.serving.calls import AUTO, RoutingVerdict
from moe_ray.serving.openai.conversation import chat_prompt, user_turns
from moe_ray.suggestions import choice_of

if TYPE_CHECKING:
    from moe_ray.routing.router import Router


class ChatVerdict(NamedTuple):
    """Which model answers, and why."""

    verdict: RoutingVerdict


class ChatLoading(NamedTuple):
    """The model is being loaded; another was unloaded for it."""

    model: str


class ChatPiece(NamedTuple):
    """More of the answer, or of the reasoning before it."""

    text: str = ""
    reasoning: str = ""


class ChatEnd(NamedTuple):
    """The answer is whole. `num_tokens` is None where it is not known."""

    finish_reason: str
    num_tokens: int | None


ChatEvent = ChatVerdict | ChatLoading | ChatPiece | ChatEnd


class ChatError(MoeRayError):
    """A question could not be answered; the conversation can go on."""


class ChatModels(Protocol):
    """What one chats with. `names` are what `model` may be: `auto` first where there is a router."""

    @property
    def names(self) -> tuple[str, ...]: ...

    def answer(self, messages: Sequence[Message], model: str) -> Iterator[ChatEvent]:
        """Yield a verdict, the pieces of the answer, and its end. Closing the iterator stops the answer.

        Raises `ChatError`.
        """
        ...

    def close(self) -> None:
        """Unload the model, close connections."""
        ...


def require_name(models: ChatModels, name: str, *, where: str) -> str:
    """Return `name`. Raises `ConfigError` unless it can be chosen."""
    if name in models.names:
        return name
    if name == AUTO:
        raise ConfigError("there is no router, which auto needs", where=where, remedy=f"name {models.names[0]}")
    raise ConfigError(f"no model is called {name!r}", where=where, remedy=choice_of(name, models.names))


def open_chat(path: Path, overrides: tuple[str, ...] = (), *, trust: bool = False) -> "LocalChat":
    """Return the models of an experiment file or a run directory, none of them loaded yet, and their router.

    Raises `ConfigError` for an experiment whose router is not trained yet: training needs Ray.
    """
    from moe_ray.routing.router import Router
    from moe_ray.runs.inputs import inspect_checkpoints
    from moe_ray.runs.serve import open_served, router_directory_of
    from moe_ray.runs.work import pinned

    experiment, problems = open_served(path, overrides, trust=trust), Problems()
    checkpoints = inspect_checkpoints(experiment, problems)
    problems.raise_if_any()
    config = pinned(experiment.config, checkpoints)
    directory = router_directory_of(experiment, _trained_router)
    return LocalChat(config, None if directory is None else Router.load(directory))


def _trained_router(experiment: LoadedExperiment) -> Path:
    from moe_ray.runs.inputs import located, read_inputs
    from moe_ray.runs.wanted_router import wanted_router

    inputs = read_inputs(experiment, with_models=False)
    with located(experiment):
        wanted = wanted_router(inputs)
    if not (wanted.is_there and wanted.is_certain):
        raise ConfigError(
            "this router is not trained yet",
            where=experiment.where("router"),
            remedy=f"moe-ray router train {experiment.path}, or name a run directory that has one",
        )
    return wanted.directory


class LocalChat:
    """Implements `ChatModels`: the router stays loaded, the models take turns.

    A model of prompt style `completion` reads the last question alone, as a text to continue.
    """

    def __init__(self, config: ExperimentConfig, router: "Router | None") -> None:
        self._models: Mapping[str, ModelConfig] = config.models
        self._experts = {name: domain.expert for name, domain in config.domains.items() if domain.expert is not None}
        self._fallback = config.baseline
        self._decoding: DecodingConfig = config.decoding
        self._runtime = config.runtime
        self._router = router
        self._process: ModelProcess | None = None
        self._loaded: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """See `ChatModels`; without a router the baseline comes first."""
        first = (AUTO,) if self._router is not None else tuple(filter(None, (self._fallback,)))
        return tuple(dict.fromkeys((*first, *self._models)))

    def answer(self, messages: Sequence[Message], model: str) -> Iterator[ChatEvent]:
        """Route, load, stream; see `ChatModels.answer`."""
        verdict = self._judge(tuple(messages), model)
        yield ChatVerdict(verdict)
        name = verdict.expert
        try:
            if self._process is None or self._loaded != name or not self._process.is_alive:
                yield ChatLoading(name)
                self._process = self._swapped(name)
            for delta in self._process.stream(self._request(tuple(messages), self._models[name])):
                if delta.finish_reason == "error":
                    raise ChatError(f"{name}: {delta.error}")
                if delta.text or delta.reasoning:
                    yield ChatPiece(delta.text, delta.reasoning)
                if delta.finish_reason is not None:
                    yield ChatEnd(delta.finish_reason, delta.num_completion_tokens or None)
        except ModelGoneError as error:
            raise ChatError(f"{name}: {error}") from error

    def close(self) -> None:
        """End the model's process."""
        process, self._process, self._loaded = self._process, None, None
        if process is not None:
            process.close()

    def _swapped(self, name: str) -> ModelProcess:
        self.close()
        runtime = self._runtime
        limits = BatchLimits(max_rows=runtime.batch_size, cache_memory_bytes=int(runtime.batch_memory_gib * GIB))
        spec = ModelSpec(model=self._models[name], limits=limits, cpu_threads=runtime.cpu_threads)
        process = ModelProcess(spec)
        self._loaded = name
        return process

    def _judge(self, messages: tuple[Message, ...], model: str) -> RoutingVerdict:
        if model != AUTO:
            return RoutingVerdict(requested=model, expert=model)
        from moe_ray.serving.querying import verdict_of

        assert self._router is not None
        (route,) = self._router.route([user_turns(messages) or ""])
        verdict = verdict_of(route, self._experts, self._fallback, router_ms=1000 * route.seconds)
        if verdict is None:
            raise ChatError("no model answers the domain of this text: choose one with /model")
        return verdict

    def _request(self, messages: tuple[Message, ...], model: ModelConfig) -> GenerateRequest:
        id, decoding = secrets.token_hex(12), self._decoding
        prompt = chat_prompt(messages) if model.prompt_style == "chat" else Prompt(messages=messages[-1:])
        return GenerateRequest(
            id=id,
            prompt=prompt,
            max_new_tokens=decoding.max_new_tokens,
            temperature=decoding.temperature,
            top_p=decoding.top_p,
            seed=int(fingerprint(id)[:8], 16),
        )
