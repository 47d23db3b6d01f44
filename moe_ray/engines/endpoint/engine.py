"""The endpoint engine: a model behind an external OpenAI-compatible API."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from functools import cached_property, partial
from typing import Any, TypeVar

from moe_ray.config.schema import ModelConfig
from moe_ray.engines.api_settings import EndpointSettings, parse_api_settings
from moe_ray.engines.base import (
    NO_ECHO,
    NO_LOGPROBS,
    BatchLimits,
    Delta,
    EngineMemory,
    FinishReason,
    GenerateRequest,
    Generation,
    Likelihood,
    LikelihoodRequest,
    Stream,
    Timing,
    TokenLogprob,
    failed_generation,
    stop_position,
)
from moe_ray.engines.endpoint.client import SERVER_ERROR, CallGroup, EndpointClient
from moe_ray.engines.endpoint.dialect import Dialect, completion_text, find_dialect
from moe_ray.engines.endpoint.likelihood import NO_LIKELIHOODS, Ask, PromptLogprobs, find_prompt_logprobs, measure
from moe_ray.engines.endpoint.logprobs import Entries, ReplyParts, num_within, parts_of_echo
from moe_ray.engines.endpoint.replies import Reply, ReplyPiece, RequestRefusedError, UnansweredError
from moe_ray.engines.streams import CLOSED, QueuedStream, StopGuard
from moe_ray.errors import EngineLostError, first_line

# The request itself is wrong (too long, malformed): nothing to do with the API's health.
OWN_FAULT_STATUSES = (400, 413, 414, 422)
# An API may lack the path of a prompt that has a style of its own.
NO_PATH_STATUSES = (404, 405)
FINISHED: dict[str | None, FinishReason] = {
    "stop": "stop", "eos": "stop", "eos_token": "stop", "stop_sequence": "stop", "end_turn": "stop",
    "length": "length", "max_tokens": "length",
}  # fmt: skip

RequestT = TypeVar("RequestT", GenerateRequest, LikelihoodRequest)
AnswerT = TypeVar("AnswerT")


class ApiEngine:
    """Base of the engines that ask an API: `generate`, `loglikelihoods` and `submit` of `StreamingEngine`.

    An error is either the request's or the API's. The request's: the API refused it, or failed on it (500, or a reply
    that cannot be read) and answers a plain request right afterwards; the answer carries the error. The API's: it did
    not answer, was busy or closed; `EngineLostError` ends the replica, and nothing of the shard is kept. A stream
    carries either as its own error.
    """

    def __init__(self, client: EndpointClient, dialect: Dialect) -> None:
        self._client = client
        self._dialect = dialect
        self._max_threads = dialect.settings.max_concurrent_requests
        self._room = asyncio.Semaphore(self._max_threads)

    def generate(self, requests: Sequence[GenerateRequest]) -> list[Generation]:
        """Draw a text for each request; see `Engine.generate`. `batch_rows` are the requests asked at once."""
        num_rows = min(len(requests), self._max_threads)
        return self._side_by_side(lambda request, ask: self._generation(request, num_rows, ask), requests)

    def loglikelihoods(self, requests: Sequence[LikelihoodRequest]) -> list[Likelihood]:
        """Measure each request's continuations, where the API gives prompt log-probabilities; else say so in each."""
        num_rows = min(len(requests), self._max_threads)
        if self._prompt_logprobs is None:
            return [_unmeasured(NO_LIKELIHOODS) for _ in requests]
        logprobs = self._prompt_logprobs
        return self._side_by_side(lambda request, ask: measure(logprobs, ask, request.prompt, num_rows), requests)

    def submit(self, request: GenerateRequest) -> Stream:
        """Stream the answer; see `StreamingEngine.submit`. At most `max_concurrent_requests` are asked at once.

        An API without streams gives one delta. Cancelling closes the connection. Until its first piece a request is
        tried again as in `generate`; afterwards a failure ends the stream.
        """
        futures: list[Future[None]] = []
        stream = QueuedStream(on_cancel=lambda: futures[0].cancel())
        futures.append(self._client.start(self._stream(request, stream)))
        # A task that is cancelled before its first step cannot end its stream itself.
        futures[0].add_done_callback(lambda _: stream.finish(failed_generation(CLOSED)))
        return stream

    def ask(self, path: str, body: dict[str, Any], group: CallGroup | None = None) -> Reply:
        """Return the reply. Raises `RequestRefusedError` when the request is at fault, else `EngineLostError`."""
        try:
            return self._client.post(path, body, group)
        except RequestRefusedError as error:
            if error.status not in OWN_FAULT_STATUSES:
                self._require_plain_answer()
            raise
        except UnansweredError as error:
            if error.status != SERVER_ERROR and not error.is_reply:
                raise
            self._require_plain_answer()
            raise RequestRefusedError(error.status, str(error)) from error

    @cached_property
    def _prompt_logprobs(self) -> PromptLogprobs | None:
        return find_prompt_logprobs(self._dialect, self.ask)

    def _require_plain_answer(self) -> None:
        try:
            self._client.post(self._dialect.path, self._dialect.plain())
        except RequestRefusedError as error:
            raise EngineLostError(f"{self._client.base_url} answers no more ({error})") from error

    def _side_by_side(self, answer: Callable[[RequestT, Ask], AnswerT], requests: Sequence[RequestT]) -> list[AnswerT]:
        """Ask for all, several at once; the first error that is not an answer's own stops the others of this call."""
        pool = ThreadPoolExecutor(max_workers=self._max_threads)
        group = CallGroup()
        try:
            futures = [pool.submit(answer, request, partial(self.ask, group=group)) for request in requests]
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            for failed in (future for future in done if future.exception() is not None):
                failed.result()
            return [future.result() for future in futures]
        except BaseException:
            group.stop()
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    async def _stream(self, request: GenerateRequest, stream: QueuedStream) -> None:
        sender, path = _Sender(request, stream), self._dialect.path_of(request.prompt)
        try:
            async with self._room:
                reply = await self._client.asked(path, self._dialect.generation(request), sender.send)
            sender.finish(_answer(request, reply, 1))
        except _WithoutLogprobsError:
            stream.finish(failed_generation(NO_LOGPROBS, refused=True))
        except RequestRefusedError as error:
            stream.finish(failed_generation(_refusal(error), refused=self._is_at_fault(request, error)))
        except asyncio.CancelledError:
            # Does nothing where the reader cancelled.
            stream.finish(failed_generation(CLOSED))
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, its reader must not wait for ever
            stream.finish(failed_generation(first_line(error)))

    def _generation(self, request: GenerateRequest, num_rows: int, ask: Ask) -> Generation:
        try:
            reply = ask(self._dialect.path_of(request.prompt), self._dialect.generation(request))
        except RequestRefusedError as error:
            refused = self._is_at_fault(request, error)
            return failed_generation(_refusal(error), timing=_timing(num_rows, None), refused=refused)
        return _answer(request, reply, num_rows)

    def _is_at_fault(self, request: GenerateRequest, error: RequestRefusedError) -> bool:
        other_path = self._dialect.path_of(request.prompt) != self._dialect.path
        return error.status in OWN_FAULT_STATUSES or (other_path and error.status in NO_PATH_STATUSES)


class _WithoutLogprobsError(Exception):
    """The text of a stream comes without the log-probabilities that were asked for."""


class _Sender:
    """Puts the pieces of one reply into its stream, cut at the stop strings that the API did not heed.

    Log-probabilities are sent once the text that they belong to is certain. A reply with an echo is sent at its end.
    """

    def __init__(self, request: GenerateRequest, stream: QueuedStream) -> None:
        self._request = request
        self._stream = stream
        self._guard = StopGuard(request.prompt.stop)
        self._text = ""
        self._reasoning = ""
        self._num_reasoning_sent = 0
        self._waiting: deque[TokenLogprob] = deque()
        self._num_logprobs_sent = 0
        self._num_spelled = 0

    def send(self, piece: ReplyPiece) -> None:
        if self._request.echo:
            return
        certain = self._guard.feed(piece.text)
        self._text += certain
        self._reasoning += piece.reasoning
        thought = self._new_reasoning(self._reasoning.strip())
        logprobs = () if self._request.num_logprobs is None else self._new_logprobs(piece)
        if certain or thought or logprobs:
            self._stream.put(Delta(text=certain, reasoning=thought, logprobs=logprobs))

    def finish(self, answer: Generation) -> None:
        if answer.finish_reason == "error":
            self._stream.finish(answer)
            return
        rest = self._new_reasoning(answer.reasoning or "")
        text = answer.text[len(self._text) :]
        self._stream.finish(answer, text=text, reasoning=rest, num_logprobs=self._num_logprobs_sent)

    def _new_logprobs(self, piece: ReplyPiece) -> tuple[TokenLogprob, ...]:
        """Those that can be sent with a piece: their tokens begin in text that is certain."""
        self._waiting.extend(_known(piece.logprobs))
        if piece.text and not self._waiting and not self._num_logprobs_sent:
            raise _WithoutLogprobsError
        ready = []
        while self._waiting and self._num_spelled < len(self._text):
            ready.append(self._waiting.popleft())
            self._num_spelled += len(ready[-1].token)
        self._num_logprobs_sent += len(ready)
        return tuple(ready)

    def _new_reasoning(self, whole: str) -> str:
        new = whole[self._num_reasoning_sent :]
        self._num_reasoning_sent = len(whole)
        return new


def _refusal(error: RequestRefusedError) -> str:
    return f"the endpoint refused this prompt: {error}"


def _answer(request: GenerateRequest, reply: Reply, num_rows: int) -> Generation:
    timing, num_prompt_tokens = _timing(num_rows, reply), reply.num_prompt_tokens or 0
    parts = _parts(request, reply)
    if isinstance(parts, str):
        return failed_generation(parts, num_prompt_tokens=num_prompt_tokens, timing=timing, refused=True)
    end = stop_position(parts.text, request.prompt.stop)
    finish_reason = "stop" if end is not None else FINISHED.get(reply.finish_reason)
    if finish_reason is None:
        reason = f"the endpoint ended the answer for the reason {reply.finish_reason!r}"
        return failed_generation(reason, num_prompt_tokens=num_prompt_tokens, timing=timing)
    return Generation(
        text=parts.text[:end],
        token_ids=(),
        finish_reason=finish_reason,
        num_prompt_tokens=num_prompt_tokens,
        num_counted_tokens=reply.num_completion_tokens or 0,
        timing=timing,
        reasoning=None if reply.reasoning is None else reply.reasoning.strip(),
        num_reasoning_tokens=reply.num_reasoning_tokens,
        logprobs=parts.logprobs if end is None else parts.logprobs[: num_within(parts.logprobs, end)],
        prompt_logprobs=parts.prompt_logprobs,
        prompt_text=parts.prompt_text,
    )


def _parts(request: GenerateRequest, reply: Reply) -> ReplyParts | str:
    """Return what of a reply is the answer; why it lacks what was asked for."""
    entries = () if request.num_logprobs is None else reply.logprobs
    if request.num_logprobs is not None and reply.text and not entries:
        return NO_LOGPROBS
    if not request.echo:
        return ReplyParts("", reply.text, (), _known(entries))
    sent = None if request.prompt.token_ids else completion_text(request.prompt)
    return parts_of_echo(sent, reply.text, entries, reply.num_completion_tokens) or NO_ECHO


def _known(entries: Entries) -> tuple[TokenLogprob, ...]:
    return tuple(one for one in entries if one is not None)


def _timing(num_rows: int, reply: Reply | None) -> Timing:
    if reply is None:
        return Timing(batch_rows=num_rows, time_to_first_token_s=None, total_s=0.0)
    return Timing(batch_rows=num_rows, time_to_first_token_s=reply.time_to_first_token_s, total_s=reply.total_s)


def _unmeasured(reason: str) -> Likelihood:
    return Likelihood(loglikelihoods=(), num_tokens=(), num_prompt_tokens=0, timing=_timing(0, None), error=reason)


class EndpointEngine(ApiEngine):
    """Implements `moe_ray.engines.base.StreamingEngine`. It holds no model, takes no GPU and gives no token ids.

    Requests of one call are asked side by side, as many as `max_concurrent_requests`; batch limits do not matter.
    """

    def __init__(self, model: ModelConfig, limits: BatchLimits) -> None:
        del limits
        settings = parse_api_settings(EndpointSettings, model)
        client = EndpointClient(settings.base_url, settings, settings.api_key())
        try:
            dialect = find_dialect(client, model.path, model.prompt_style, settings)
        except BaseException:
            client.close()
            raise
        super().__init__(client, dialect)

    def memory(self) -> EngineMemory:
        """Return that nothing is known: the model's memory is the endpoint's."""
        return EngineMemory(device="endpoint", weights_bytes=None, peak_torch_bytes=None, reserved_torch_bytes=None)

    def close(self) -> None:
        """End the open streams, and close the connections."""
        self._client.close()
