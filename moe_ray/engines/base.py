"""The interface of an engine, which generates text with a model.

An engine is made inside its actor, on the device that the actor was given, by
`Engine(model: ModelConfig, limits: BatchLimits)`, which loads the weights.

`Engine` is required of every engine, and is all that an evaluation calls. `StreamingEngine` adds `submit`, which is
optional: `moe_ray.engines.streams.streaming` gives it to an engine that lacks it. All engines that ship have it.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from moe_ray.config.schema import ModelConfig
from moe_ray.prompts.messages import Prompt

FinishReason = Literal["stop", "length", "error"]

# Reasons of refused requests.
NO_LOGPROBS = "the engine of this model gives no log-probabilities"
NO_ECHO = "the engine of this model cannot echo this prompt"


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
    num_logprobs: int | None = None
    """Alternatives to report for each token, beside the token itself; None for no log-probabilities."""
    echo: bool = False
    """Report the prompt too: its text and, where `num_logprobs` is set, the log-probabilities of its tokens."""


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


NEVER_RAN = Timing(batch_rows=0, time_to_first_token_s=None, total_s=0.0)


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """The natural log-probability of one token, and of the likeliest tokens in its place, likeliest first.

    The distribution is the model's own, before temperature and top-p. `token` is among `top` if it is one of the
    likeliest; of equally likely tokens it comes first, so that a greedy token is the first of `top`.

    An entry of `top` is (token, token id, log-probability); an engine that does not know ids has -1 for them. A token
    that is no whole character has a replacement character in its text. In a prompt, whose texts join, the token that
    completes a character has it whole, and those before it have no text.
    """

    token: str
    token_id: int
    logprob: float
    top: tuple[tuple[str, int, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """One drawn text. With finish_reason "error" the text is empty and `error` says why.

    `num_truncated_tokens` of the prompt were cut from its left to make it fit; `num_prompt_tokens` were read.
    An engine that learns how many tokens were drawn but not which leaves `token_ids` empty and gives
    `num_counted_tokens`; one that learns neither counts 0. `reasoning` is the trace where the engine tells it from the
    text, which then holds the answer alone; None elsewhere. `num_reasoning_tokens` are those of the drawn tokens that
    the trace took, None where that is not known. `refused` says of an error that the request itself is at fault: its
    prompt is too long, or the chat template does not take it.

    Where the request asks for log-probabilities, `logprobs` has one entry for each of `token_ids`, or for each token
    where the engine does not know ids. Where it asks for an
    echo, `prompt_text` is the prompt's text; if for both, `prompt_logprobs` has one entry for each token of the prompt,
    None for the first, and their texts join to the end of `prompt_text`. An end token that was drawn then has a last
    entry in `logprobs`, because readers of an echo find the prompt's tokens by counting back from the end.
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
    refused: bool = False
    logprobs: tuple[TokenLogprob, ...] = ()
    prompt_logprobs: tuple[TokenLogprob | None, ...] = ()
    prompt_text: str = ""

    @property
    def num_completion_tokens(self) -> int:
        """Tokens that were drawn."""
        return len(self.token_ids) if self.num_counted_tokens is None else self.num_counted_tokens


def failed_generation(
    reason: str, *, num_prompt_tokens: int = 0, timing: Timing = NEVER_RAN, refused: bool = False
) -> Generation:
    """Return the generation of a request that got no text."""
    return Generation(
        text="",
        token_ids=(),
        finish_reason="error",
        num_prompt_tokens=num_prompt_tokens,
        timing=timing,
        error=reason,
        refused=refused,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """A piece of one answer, sent as soon as it is drawn.

    `text` is whole characters, possibly none: a token may spell half a character, or what may become a stop string.
    `num_tokens` are the tokens that this delta brought, 0 where the engine learns their number only at the end, and
    `token_ids` those tokens where the engine knows them.
    `reasoning` is a piece of the trace, where the engine separates it from the text.
    `logprobs` has one entry for each of `token_ids` where the request asks for log-probabilities; the last delta may
    have that of an end token too, as `Generation.logprobs`.

    `finish_reason` and the totals are set on the last delta only; with "error", `error` says why. A total that the
    engine does not know is 0.
    """

    text: str = ""
    reasoning: str = ""
    token_ids: tuple[int, ...] = ()
    num_tokens: int = 0
    finish_reason: FinishReason | None = None
    num_prompt_tokens: int | None = None
    num_completion_tokens: int | None = None
    num_reasoning_tokens: int | None = None
    error: str | None = None
    refused: bool = False
    logprobs: tuple[TokenLogprob, ...] = ()


class Stream(Protocol):
    """One answer in the making. Iterating yields its deltas and waits for the next; the last has a finish reason.

    The joined texts are the text of `result`, and the joined reasoning its reasoning. One exception: where a model
    closes a reasoning trace that neither it nor the prompt had opened, text was sent before it was known to be a trace.
    All methods may be called from any thread; several threads that iterate share the deltas.
    """

    def __iter__(self) -> Iterator[Delta]: ...

    def __next__(self) -> Delta: ...

    def cancel(self) -> None:
        """End the stream now: deltas that were not read yet are dropped, and no last delta comes.

        The engine stops drawing within two tokens. Does nothing after the end, or a second time.
        """
        ...

    def result(self) -> Generation:
        """Wait for the end; return the whole answer, read or not. Of a cancelled stream, a generation with an error."""
        ...


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
    """Memory of this engine, in bytes; None where the device does not report it, or where the model runs elsewhere.

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
    """A loaded model that answers. One thread calls `generate` or `loglikelihoods` at a time."""

    def __init__(self, model: ModelConfig, limits: BatchLimits) -> None:
        """Load the model. Raises `ModelError` when this engine cannot load it."""
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
        """Release what ending the process would not (servers, files). Weights leave with the process.

        Open streams end with an error.
        """
        ...


class StreamingEngine(Engine, Protocol):
    """An engine that also answers single requests as they come."""

    def submit(self, request: GenerateRequest) -> Stream:
        """Begin to answer `request` and return at once. Any number of threads may submit, at any time.

        New requests are admitted while others decode, in their order if there is room, and concurrently with
        `generate`. A request that fails or is refused ends its own stream with an error, and no other. The greedy text
        is that of `generate`. Raises `EngineLostError` once the engine is closed or can answer nothing any more.
        """
        ...


def stop_position(text: str, stops: Iterable[str]) -> int | None:
    """Return where the first of `stops` begins in `text`, None when none of them is there."""
    return min((text.find(stop) for stop in stops if stop and stop in text), default=None)
