"""Streams of answers: the queue between an engine that draws and a reader, and streams for engines without any."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Self

from moe_ray.engines.base import (
    Delta,
    Engine,
    EngineMemory,
    GenerateRequest,
    Generation,
    Likelihood,
    LikelihoodRequest,
    Stream,
    StreamingEngine,
    failed_generation,
    stop_position,
)
from moe_ray.errors import EngineLostError, first_line
from moe_ray.prompts.trace_stream import num_pending, prefixes

CANCELLED = "the request was cancelled"
CLOSED = "the engine was closed"


class QueuedStream:
    """Implements `moe_ray.engines.base.Stream`: an engine puts deltas in, readers in other threads take them out.

    Args:
        on_cancel: called once, in the thread that cancels, when the stream is cancelled before its end.
    """

    def __init__(self, on_cancel: Callable[[], object] = lambda: None) -> None:
        self._on_cancel = on_cancel
        self._deltas: deque[Delta] = deque()
        self._result: Generation | None = None
        self._changed = threading.Condition()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Delta:
        with self._changed:
            self._changed.wait_for(lambda: self._deltas or self._result is not None)
            if not self._deltas:
                raise StopIteration
            return self._deltas.popleft()

    def result(self) -> Generation:
        """Wait for the end and return the whole answer; see `Stream.result`."""
        with self._changed:
            self._changed.wait_for(lambda: self._result is not None)
            assert self._result is not None
            return self._result

    def cancel(self) -> None:
        """End the stream without a last delta; see `Stream.cancel`."""
        with self._changed:
            if self._result is not None:
                return
            self._deltas.clear()
            self._end(failed_generation(CANCELLED))
        self._on_cancel()

    @property
    def has_ended(self) -> bool:
        """Whether nothing more may be put in: it was finished, or cancelled."""
        return self._result is not None

    def put(self, delta: Delta) -> None:
        """Hand a piece to the reader. Does nothing after the end."""
        with self._changed:
            if self._result is None:
                self._deltas.append(delta)
                self._changed.notify_all()

    def finish(
        self, result: Generation, *, text: str = "", reasoning: str = "", num_tokens: int = 0, num_logprobs: int = 0
    ) -> None:
        """End the stream with the whole answer, and with the pieces of it that were not put in yet.

        `num_logprobs` of the log-probabilities were put in, if they are not those of `result.token_ids`. Does nothing
        after the end.
        """
        last = Delta(
            text=text,
            reasoning=reasoning,
            num_tokens=num_tokens,
            token_ids=result.token_ids[-num_tokens:] if num_tokens else (),
            logprobs=result.logprobs[num_logprobs or max(0, len(result.token_ids) - num_tokens) :],
            finish_reason=result.finish_reason,
            num_prompt_tokens=result.num_prompt_tokens,
            num_completion_tokens=result.num_completion_tokens,
            error=result.error,
            refused=result.refused,
        )
        with self._changed:
            if self._result is None:
                self._deltas.append(last)
                self._end(result)

    def _end(self, result: Generation) -> None:
        self._result = result
        self._changed.notify_all()


class StopGuard:
    """Passes on a growing text up to its first stop string, and holds back what may become one."""

    def __init__(self, stops: Iterable[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._prefixes = prefixes(self._stops)
        self._tail = ""
        self._is_over = False

    def feed(self, text: str) -> str:
        """Add `text` at the end; return what can be passed on now."""
        if self._is_over:
            return ""
        self._tail += text
        end = stop_position(self._tail, self._stops)
        self._is_over = end is not None
        certain = self._tail[: len(self._tail) - num_pending(self._tail, self._prefixes) if end is None else end]
        self._tail = self._tail[len(certain) :]
        return certain


def failed_stream(reason: str, *, num_prompt_tokens: int = 0, refused: bool = False) -> QueuedStream:
    """Return a stream that has ended with an error."""
    stream = QueuedStream()
    stream.finish(failed_generation(reason, num_prompt_tokens=num_prompt_tokens, refused=refused))
    return stream


def streaming(engine: Engine) -> StreamingEngine:
    """Return `engine` itself if it can stream, else an adapter that answers submitted requests with `generate`."""
    return engine if callable(getattr(engine, "submit", None)) else _OneByOne(engine)  # type: ignore[return-value]


class _OneByOne:
    """Gives `submit` to an engine that lacks it: one request at a time, whose text comes whole, in the last delta.

    A request that runs cannot be interrupted: cancelling it frees its reader, and drops what the engine returns.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._in_use = threading.Lock()
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="streams")
        self._state = threading.Lock()
        self._open: set[QueuedStream] = set()
        self._is_closed = False

    def generate(self, requests: Sequence[GenerateRequest]) -> list[Generation]:
        with self._in_use:
            return self._engine.generate(requests)

    def loglikelihoods(self, requests: Sequence[LikelihoodRequest]) -> list[Likelihood]:
        with self._in_use:
            return self._engine.loglikelihoods(requests)

    def memory(self) -> EngineMemory:
        return self._engine.memory()

    def submit(self, request: GenerateRequest) -> Stream:
        stream = QueuedStream()
        with self._state:
            if self._is_closed:
                raise EngineLostError(CLOSED)
            self._open.add(stream)
            self._worker.submit(self._answer, request, stream)
        return stream

    def close(self) -> None:
        """End the open streams, wait for the request that runs, and close the engine."""
        with self._state:
            self._is_closed = True
            ended = list(self._open)
        for stream in ended:
            stream.finish(failed_generation(CLOSED))
        self._worker.shutdown(wait=True, cancel_futures=True)
        self._engine.close()

    def _answer(self, request: GenerateRequest, stream: QueuedStream) -> None:
        try:
            if not stream.has_ended:
                (answer,) = self.generate([request])
                stream.finish(
                    answer,
                    text=answer.text,
                    reasoning=answer.reasoning or "",
                    num_tokens=answer.num_completion_tokens,
                )
        except Exception as error:  # noqa: BLE001 - kept as the request's error
            # A class of the user's raises anything; it is this request's error.
            stream.finish(failed_generation(first_line(error)))
        finally:
            with self._state:
                self._open.discard(stream)
