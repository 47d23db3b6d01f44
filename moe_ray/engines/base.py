"""The interface of an engine, which generates text with a model.

An engine is made inside its actor, on the device that the actor was given, by
`Engine(model: ModelConfig, limits: BatchLimits)`, which loads the weights. Every later way to make text (a
server, an endpoint, another library) fits behind these four methods.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from moe_ray.config.schema import ModelConfig
from moe_ray.prompts.messages import Prompt
from moe_ray.prompts.reasoning import ReasoningSplitter

FinishReason = Literal["stop", "length", "error"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLimits:
    """The shape of batches. It follows from the experiment, never from the device, so that batches repeat."""

    max_rows: int
    cache_memory_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateRequest:
    """Draw one text. `id` names the example (only the scripted engine reads it); `seed` matters above temperature 0."""

    id: str
    prompt: Prompt
    max_new_tokens: int
    temperature: float
    top_p: float
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LikelihoodRequest:
    """Measure the log-likelihood of each of `prompt.continuations` after the prompt."""

    id: str
    prompt: Prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """When a row's answer was there, in seconds from the start of the batch that held it."""

    batch_rows: int
    time_to_first_token_s: float | None
    total_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """One drawn text. With finish_reason "error" the text is empty and `error` says why.

    `num_truncated_tokens` of the prompt were cut from its left to make it fit; `num_prompt_tokens` were read.
    An engine that learns how many tokens were drawn but not which leaves `token_ids` empty and gives
    `num_counted_tokens`; one that learns neither counts 0. `reasoning` is the trace where the engine tells it from the
    text, which then holds the answer alone; None elsewhere. `num_reasoning_tokens` are those of the drawn tokens that
    the trace took, None where that is not known.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    num_prompt_tokens: int
    timing: Timing
    num_truncated_tokens: int = 0
    num_counted_tokens: int | None = None
    error: str | None = None
    reasoning: str | None = None
    num_reasoning_tokens: int | None = None

    @property
    def num_completion_tokens(self) -> int:
        """Tokens that were drawn."""
        return len(self.token_ids) if self.num_counted_tokens is None else self.num_counted_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Likelihood:
    """Log-likelihoods in nats, and token counts, one of each per continuation; or `error` and empty tuples.

    A continuation that does not fit the context after the prompt has the log-likelihood None, and its token count
    (0 where the engine cannot count without measuring).
    """

    loglikelihoods: tuple[float | None, ...]
    num_tokens: tuple[int, ...]
    num_prompt_tokens: int
    timing: Timing
    num_truncated_tokens: int = 0
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineMemory:
    """Memory of this engine, in bytes; None where the device cannot say, or where the model is somebody else's.

    `process_ids` are the processes beside this one that hold the model: their memory is counted with this one's.
    `batching` says how rows share the device, where the engine chooses.
    """

    device: str
    weights_bytes: int | None
    peak_torch_bytes: int | None
    reserved_torch_bytes: int | None
    process_ids: tuple[int, ...] = ()
    batching: str | None = None


class Engine(Protocol):
    """A loaded model that answers. One thread uses it at a time."""

    def __init__(self, model: ModelConfig, limits: BatchLimits) -> None:
        """Load the model. Raises `ModelError` when it is no model that this engine can load."""
        ...

    def generate(self, requests: Sequence[GenerateRequest]) -> list[Generation]:
        """Return one generation for each request, in their order. A row that cannot be answered carries its error."""
        ...

    def loglikelihoods(self, requests: Sequence[LikelihoodRequest]) -> list[Likelihood]:
        """Return one likelihood record for each request, in their order."""
        ...

    def memory(self) -> EngineMemory:
        """Return the memory used now and at the peak."""
        ...

    def close(self) -> None:
        """Release what ending the process would not (servers, files). Weights leave with the process."""
        ...


def stop_position(text: str, stops: Iterable[str]) -> int | None:
    """Return where the first of `stops` begins in `text`, None when none of them is there."""
    return min((text.find(stop) for stop in stops if stop and stop in text), default=None)


def move_trace(out: Generation, splitter: ReasoningSplitter, *, opened: bool = False) -> Generation:
    """Return `out` with its reasoning trace moved out of the text, unless the engine has done so.

    `opened` says that the prompt ended within a trace.
    """
    if out.reasoning is not None or out.finish_reason == "error":
        return out
    split = splitter.split(out.text, opened=opened)
    return out if split.reasoning is None else replace(out, text=split.answer, reasoning=split.reasoning)
