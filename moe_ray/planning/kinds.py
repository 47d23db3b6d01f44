"""The kinds of cells: what is asked of an engine, what comes back, and what the answer table keeps of it.

A further kind is a class here, an entry of `KINDS`, and its columns in `moe_ray.store.answers`: keys, shards, replicas,
resuming and reuse take it from there.
"""

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from moe_ray.config.schema import DecodingConfig, ModelConfig
from moe_ray.engines.base import (
    Engine,
    GenerateRequest,
    Generation,
    Likelihood,
    LikelihoodRequest,
    Timing,
)
from moe_ray.planning.cells import Cell
from moe_ray.prompts.messages import Prompt
from moe_ray.prompts.reasoning import move_trace, splitter_of

_SEED_BITS = 63


class CellResult(Protocol):
    """What the results of all kinds have."""

    @property
    def num_prompt_tokens(self) -> int: ...
    @property
    def num_truncated_tokens(self) -> int: ...
    @property
    def error(self) -> str | None: ...
    @property
    def timing(self) -> Timing: ...


RequestT = TypeVar("RequestT")
ResultT = TypeVar("ResultT", bound=CellResult)


class CellKind(ABC, Generic[RequestT, ResultT]):
    """A kind of work. `columns` are those of the answer table that its rows fill beside the columns of every row."""

    name: ClassVar[str]
    columns: ClassVar[tuple[str, ...]]

    @abstractmethod
    def num_cells(self, prompt: Prompt, decoding: DecodingConfig) -> int:
        """Return how many cells an example with this prompt has."""

    @abstractmethod
    def settings(self, prompt: Prompt, decoding: DecodingConfig, max_new_tokens: int) -> dict[str, Any]:
        """Return what is asked beside the messages, as the row's `settings` keep it."""

    @abstractmethod
    def settings_in_key(self, settings: Mapping[str, Any], sample_index: int) -> dict[str, Any]:
        """Return what decides the result, from a row's `settings`: the part "decoding" of a cell's key."""

    @abstractmethod
    def settings_follow_from(self, prompt: Prompt) -> Hashable:
        """Return the part of a prompt that `settings` depends on."""

    @abstractmethod
    def request(self, cell: Cell, decoding: DecodingConfig) -> RequestT:
        """Return what an engine is asked for `cell`."""

    @abstractmethod
    def ask(self, engine: Engine, requests: Sequence[RequestT]) -> list[ResultT]:
        """Return the engine's result for each request, in their order."""

    @abstractmethod
    def row(self, cell: Cell, result: ResultT, model: ModelConfig) -> dict[str, Any]:
        """Return the values of `columns`."""

    @abstractmethod
    def is_whole(self, row: Mapping[str, Any]) -> bool:
        """Say whether a stored row without an error holds what this kind asks for."""

    def max_new_tokens(self, limit: int) -> int:  # noqa: ARG002 - subclasses read it
        """Return how many tokens a cell may draw where the experiment allows `limit`."""
        return 0

    def num_characters_after(self, prompt: Prompt) -> int:  # noqa: ARG002 - subclasses read it
        """Return the length of the longest text that is read after the prompt's messages."""
        return 0


class GenerateKind(CellKind[GenerateRequest, Generation]):
    """One drawn text."""

    name = "generate"
    columns = ("text", "reasoning", "token_ids", "finish_reason", "num_completion_tokens", "num_reasoning_tokens")

    def num_cells(self, prompt: Prompt, decoding: DecodingConfig) -> int:  # noqa: ARG002 - kinds may read it
        return decoding.samples_per_example

    def settings(self, prompt: Prompt, decoding: DecodingConfig, max_new_tokens: int) -> dict[str, Any]:
        return {
            "max_new_tokens": max_new_tokens,
            "temperature": decoding.temperature,
            "top_p": decoding.top_p,
            "seed": decoding.seed,
            "stop": list(prompt.stop),
        }

    def settings_in_key(self, settings: Mapping[str, Any], sample_index: int) -> dict[str, Any]:
        drawn = {name: settings[name] for name in ("max_new_tokens", "temperature", "top_p", "stop")}
        return {**drawn, "seed": settings["seed"] if drawn["temperature"] > 0 else None, "sample": sample_index}

    def settings_follow_from(self, prompt: Prompt) -> Hashable:
        return prompt.stop

    def request(self, cell: Cell, decoding: DecodingConfig) -> GenerateRequest:
        return GenerateRequest(
            id=cell.example_id,
            prompt=cell.prompt,
            max_new_tokens=cell.max_new_tokens,
            temperature=decoding.temperature,
            top_p=decoding.top_p,
            # The key holds the seed and the sample's number, so each sample draws another text, the same every time.
            seed=int(cell.key, 16) % (1 << _SEED_BITS),
        )

    def ask(self, engine: Engine, requests: Sequence[GenerateRequest]) -> list[Generation]:
        return engine.generate(requests)

    def row(self, cell: Cell, result: Generation, model: ModelConfig) -> dict[str, Any]:
        failed = result.finish_reason == "error"
        splitter = splitter_of(model)
        # Whether a chat's prompt ends inside a trace only the engine knows: it made the text.
        text = "".join(message.content for message in cell.prompt.messages)
        is_opened = model.prompt_style == "completion" and splitter.is_opened_by(text)
        out = result if failed else move_trace(result, splitter, opened=is_opened)
        return {
            "text": None if failed else out.text,
            "reasoning": None if failed else out.reasoning,
            "token_ids": None if failed or out.num_counted_tokens is not None else list(out.token_ids),
            "finish_reason": out.finish_reason,
            "num_completion_tokens": out.num_completion_tokens,
            "num_reasoning_tokens": None if failed else out.num_reasoning_tokens,
        }

    def is_whole(self, row: Mapping[str, Any]) -> bool:
        return row["text"] is not None

    def max_new_tokens(self, limit: int) -> int:
        return limit


class LikelihoodKind(CellKind[LikelihoodRequest, Likelihood]):
    """The log-likelihoods of a prompt's continuations; a prompt without any has no such cell."""

    name = "likelihood"
    columns = ("finish_reason", "loglikelihoods", "loglikelihood_tokens")

    def num_cells(self, prompt: Prompt, decoding: DecodingConfig) -> int:  # noqa: ARG002 - kinds may read it
        return 1 if prompt.continuations else 0

    def settings(self, prompt: Prompt, decoding: DecodingConfig, max_new_tokens: int) -> dict[str, Any]:  # noqa: ARG002 - kinds may read them
        return {"continuations": list(prompt.continuations)}

    def settings_in_key(self, settings: Mapping[str, Any], sample_index: int) -> dict[str, Any]:  # noqa: ARG002 - kinds may read it
        return {"continuations": settings["continuations"]}

    def settings_follow_from(self, prompt: Prompt) -> Hashable:
        return prompt.continuations

    def request(self, cell: Cell, decoding: DecodingConfig) -> LikelihoodRequest:  # noqa: ARG002 - kinds may read it
        return LikelihoodRequest(id=cell.example_id, prompt=cell.prompt)

    def ask(self, engine: Engine, requests: Sequence[LikelihoodRequest]) -> list[Likelihood]:
        return engine.loglikelihoods(requests)

    def row(self, cell: Cell, result: Likelihood, model: ModelConfig) -> dict[str, Any]:  # noqa: ARG002 - kinds may read them
        return {
            "finish_reason": "error" if result.error else "stop",
            "loglikelihoods": None if result.error else list(result.loglikelihoods),
            "loglikelihood_tokens": None if result.error else list(result.num_tokens),
        }

    def is_whole(self, row: Mapping[str, Any]) -> bool:
        if row["sample_index"] != 0:
            return False
        number = len(self.settings_in_key(_settings_of(row), 0)["continuations"])
        return all(_are_numbers(row[name], number) for name in ("loglikelihoods", "loglikelihood_tokens"))

    def num_characters_after(self, prompt: Prompt) -> int:
        return max((len(text) for text in prompt.continuations), default=0)


def _settings_of(row: Mapping[str, Any]) -> Mapping[str, Any]:
    settings: Mapping[str, Any] = json.loads(row["settings"])
    return settings


def _are_numbers(values: Sequence[float | None] | None, number: int) -> bool:
    return values is not None and len(values) == number and all(v is None or math.isfinite(v) for v in values)


GENERATE = GenerateKind()
LIKELIHOOD = LikelihoodKind()
KINDS: dict[str, CellKind[Any, Any]] = {kind.name: kind for kind in (GENERATE, LIKELIHOOD)}
