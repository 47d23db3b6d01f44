"""The actor that holds a served model: it answers calls as they come, and stops those whose clients left."""

import queue
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

import ray

from moe_ray.engines.base import Delta, GenerateRequest, Generation, Stream, StreamingEngine
from moe_ray.engines.streams import streaming
from moe_ray.execution.replica import Loaded, Replica, ReplicaSpec
from moe_ray.prompts.encoder import RowError
from moe_ray.prompts.messages import Prompt

MAX_REMEMBERED = 10_000
CONTROL_THREADS = 4


class CallPiece(NamedTuple):
    """A delta of one of a call's choices."""

    choice: int
    delta: Delta


class ServingReplica(Replica):
    """A replica that streams. Its methods run in threads: those of `answers` side by side, `control` beside them."""

    def __init__(self, spec: ReplicaSpec) -> None:
        super().__init__(spec)
        self._streams: dict[str, list[Stream]] = {}
        self._cancelled: OrderedDict[str, None] = OrderedDict()
        self._guard = threading.Lock()
        self._left = threading.Event()

    def load(self) -> Loaded:
        """Load the model; see `Replica.load`."""
        loaded = super().load()
        self._engine = streaming(self._loaded())
        return loaded

    @ray.method(concurrency_group="answers")
    def answer(self, call: str, requests: Sequence[GenerateRequest]) -> list[Generation]:
        """Return one generation for each request."""
        streams = self._open(call, requests)
        try:
            return [stream.result() for stream in streams]
        finally:
            self._close_call(call)

    @ray.method(concurrency_group="answers")
    def stream(self, call: str, requests: Sequence[GenerateRequest]) -> Iterator[list[CallPiece]]:
        """Yield the pieces of all requests as they are drawn; in one list, those that came while the reader was busy.

        The last piece of a choice has a finish reason. A cancelled call ends without.
        """
        streams = self._open(call, requests)
        pieces: queue.SimpleQueue[CallPiece | None] = queue.SimpleQueue()
        for choice, stream in enumerate(streams):
            threading.Thread(target=_forward, args=(choice, stream, pieces), daemon=True).start()
        num_open = len(streams)
        try:
            while num_open:
                ready = [pieces.get()]
                while not pieces.empty():
                    ready.append(pieces.get())
                num_open -= ready.count(None)
                if found := [piece for piece in ready if piece is not None]:
                    yield found
        finally:
            for stream in streams:
                stream.cancel()
            self._close_call(call)

    @ray.method(concurrency_group="control")
    def cancel(self, calls: Sequence[str]) -> None:
        """End these calls, now or when they begin."""
        with self._guard:
            for call in calls:
                self._cancelled[call] = None
            while len(self._cancelled) > MAX_REMEMBERED:
                self._cancelled.popitem(last=False)
            open_ones = [stream for call in calls for stream in self._streams.get(call, ())]
        for stream in open_ones:
            stream.cancel()

    @ray.method(concurrency_group="control")
    def cancel_all_of(self, ingress: str) -> None:
        """End the calls of an ingress that is gone; their names begin with its own."""
        with self._guard:
            calls = [call for call in self._streams if call.startswith(f"{ingress}/")]
        for call in calls:
            for stream in self._streams.get(call, ()):
                stream.cancel()

    @ray.method(concurrency_group="control")
    def num_open(self) -> int:
        """Calls that are being answered now."""
        with self._guard:
            return len(self._streams)

    @ray.method(concurrency_group="control")
    def token_ids(self, prompt: Prompt, add_special_tokens: bool) -> list[int] | str | None:
        """Return the tokens that the model reads for `prompt`; why it cannot read it; None without a tokenizer here."""
        tokenize = getattr(self._loaded(), "token_ids", None)
        if tokenize is None:
            return None
        try:
            ids: list[int] = tokenize(prompt, add_special_tokens=add_special_tokens)
        except RowError as error:
            return error.reason
        return ids

    @ray.method(concurrency_group="control")
    def tokenizer_facts(self) -> dict[str, Any] | None:
        """Describe the tokenizer; None where the engine has none here."""
        facts = getattr(self._loaded(), "tokenizer_facts", None)
        return None if facts is None else facts()

    @ray.method(concurrency_group="sentinel")
    def stay(self) -> None:
        """Return when the replica is closed: a caller that waits for this learns at once that the process has ended."""
        self._left.wait()

    @ray.method(concurrency_group="control")
    def leave(self) -> Any:
        """Close the engine; see `Replica.close`."""
        try:
            return self.close()
        finally:
            self._left.set()

    def _open(self, call: str, requests: Sequence[GenerateRequest]) -> list[Stream]:
        engine: StreamingEngine = self._loaded()  # type: ignore[assignment]
        streams = [engine.submit(request) for request in requests]
        with self._guard:
            self._streams[call] = streams
            is_cancelled = call in self._cancelled
        if is_cancelled:
            for stream in streams:
                stream.cancel()
        return streams

    def _close_call(self, call: str) -> None:
        with self._guard:
            self._streams.pop(call, None)


@cache
def replica_class(max_running: int) -> Any:
    """Return the Ray actor class of a replica that answers so many calls at a time."""
    threads = {"answers": max_running + CONTROL_THREADS, "control": CONTROL_THREADS, "sentinel": 1}
    remote: Any = ray.remote
    return remote(concurrency_groups=threads)(ServingReplica)


def _forward(choice: int, stream: Stream, pieces: "queue.SimpleQueue[CallPiece | None]") -> None:
    try:
        for delta in stream:
            pieces.put(CallPiece(choice, delta))
    finally:
        pieces.put(None)
