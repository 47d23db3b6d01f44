"""From deltas and generations to the bodies and events of chats and completions.

`model` is the model that answered, `router_model_name` the name that the client asked for. The object `moe_ray` says
which model was chosen and why: it is in a whole body, and in the first and the last event of a stream.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from moe_ray.characters import whole_characters
from moe_ray.engines.base import Delta, Generation
from moe_ray.serving.calls import ApiCall, ApiError, RoutingVerdict
from moe_ray.serving.openai.events import DONE, event, json_string, json_text
from moe_ray.serving.openai.logprobs import chat_logprobs, completion_logprobs, echoed_logprobs
from moe_ray.serving.openai.usage import TokenCounts


class Writer(Protocol):
    """Writes the answer to one call: `whole`, or a stream.

    A stream is `start`, then `delta` for every delta of every choice, then `end`. `failure` takes the place of all
    that is left of it. Each returns whole events, possibly none. `start` belongs into one write with the first delta:
    until then the call can still be refused with a status.
    """

    def whole(self, generations: Sequence[Generation]) -> bytes:
        """Return the body of an answer, with one generation for each choice; none of them failed."""
        ...

    def start(self) -> bytes:
        """Return the events before the first delta."""
        ...

    def delta(self, index: int, delta: Delta) -> bytes:
        """Return the events for the next delta of choice `index`. Its finish reason is not "error"."""
        ...

    def end(self) -> bytes:
        """Return the events after the last delta of the last choice."""
        ...

    def failure(self, error: ApiError) -> bytes:
        """Return the events of a stream that breaks."""
        ...


def verdict_body(verdict: RoutingVerdict) -> dict[str, Any]:
    """Return the object `moe_ray`."""
    return {
        "requested": verdict.requested,
        "expert": verdict.expert,
        "probabilities": dict(verdict.probabilities),
        "confidence": verdict.confidence,
        "out_of_domain": verdict.out_of_domain,
        "fell_back": verdict.fell_back,
        "pinned": verdict.pinned,
        "router_ms": round(verdict.router_ms, 3),
        "queue_ms": round(verdict.queue_ms, 3),
        "swap_ms": round(verdict.swap_ms, 3),
    }


class _ChoiceWriter:
    """What the writers of chats and of completions have in common.

    A subclass says how a choice spells its text: `_before_text` and `_after_text` enclose the JSON string of a delta
    that has nothing else, which are most; `_piece` is the general case.
    """

    object: str
    chunk_object: str
    id_prefix: str
    _before_text: str
    _after_text: str

    def __init__(self, call: ApiCall, verdict: RoutingVerdict, *, request_id: str, created: int) -> None:
        self._call = call
        self._verdict = verdict
        self._ends = {
            "id": f"{self.id_prefix}{request_id}",
            "created": created,
            "model": verdict.expert,
            "router_model_name": verdict.requested,
        }
        self._counts = TokenCounts(call.n)
        usage = ',"usage":null' if call.include_usage else ""
        self._tail = f',"logprobs":null,"finish_reason":null}}]{usage}}}\n\n'
        head = json_text({"object": self.chunk_object, **self._ends}).removesuffix("}")
        self._opened = [
            f'data: {head},"choices":[{{"index":{index},{self._before_text}'
            for index in range(call.n * len(call.prompts))
        ]
        self._closed = f"{self._after_text}{self._tail}"

    def whole(self, generations: Sequence[Generation]) -> bytes:
        for index, generation in enumerate(generations):
            self._counts.add(index, generation)
        choices = [
            {"index": index, **self._choice(one), "finish_reason": finish_reason(one)}
            for index, one in enumerate(generations)
        ]
        return json_text(
            {
                "object": self.object,
                **self._ends,
                "choices": choices,
                "usage": self._counts.body(),
                "moe_ray": verdict_body(self._verdict),
            }
        ).encode()

    def start(self) -> bytes:
        return b""

    def delta(self, index: int, delta: Delta) -> bytes:
        if delta.finish_reason is None and not delta.reasoning and not delta.logprobs:
            return self._text(index, delta.text)
        piece = self._piece_event(index, delta) if delta.text or delta.reasoning or delta.logprobs else b""
        return piece if delta.finish_reason is None else piece + self._finish(index, delta)

    def end(self) -> bytes:
        if not self._call.include_usage:
            return DONE
        usage = {"choices": [], "usage": self._counts.body(), "moe_ray": verdict_body(self._verdict)}
        return event(json_text({"object": self.chunk_object, **self._ends, **usage})) + DONE

    def failure(self, error: ApiError) -> bytes:
        return event(json_text(error.body())) + DONE

    def _text(self, index: int, text: str) -> bytes:
        return f"{self._opened[index]}{json_string(text)}{self._closed}".encode() if text else b""

    def _piece_event(self, index: int, delta: Delta) -> bytes:
        return self._chunk({"index": index, **self._piece(index, delta), "finish_reason": None})

    def _finish(self, index: int, delta: Delta) -> bytes:
        self._counts.add(index, delta)
        choice = {"index": index, **self._piece(index, Delta()), "finish_reason": finish_reason(delta)}
        return self._chunk(choice, verdict=True)

    def _chunk(self, choice: dict[str, Any], *, verdict: bool = False) -> bytes:
        body: dict[str, Any] = {"object": self.chunk_object, **self._ends, "choices": [choice]}
        if self._call.include_usage:
            body["usage"] = None
        if verdict:
            body["moe_ray"] = verdict_body(self._verdict)
        return event(json_text(body))

    def _choice(self, generation: Generation) -> dict[str, Any]:
        raise NotImplementedError

    def _piece(self, index: int, delta: Delta) -> dict[str, Any]:
        raise NotImplementedError


class ChatWriter(_ChoiceWriter):
    """Writes /v1/chat/completions. A reasoning trace is `reasoning_content` of the message or delta."""

    object = "chat.completion"
    chunk_object = "chat.completion.chunk"
    id_prefix = "chatcmpl-"
    _before_text = '"delta":{"content":'
    _after_text = "}"

    def start(self) -> bytes:
        """Return one event for each choice, with the role; the first has the verdict."""
        return b"".join(
            self._chunk(
                {
                    "index": index,
                    "delta": {"role": "assistant", "content": ""},
                    "logprobs": None,
                    "finish_reason": None,
                },
                verdict=index == 0,
            )
            for index in range(len(self._opened))
        )

    def _choice(self, generation: Generation) -> dict[str, Any]:
        message = {"role": "assistant", "content": whole_characters(generation.text), "refusal": None}
        if generation.reasoning is not None:
            message["reasoning_content"] = whole_characters(generation.reasoning)
        return {"message": message, "logprobs": self._logprobs(generation)}

    def _piece(self, _index: int, delta: Delta) -> dict[str, Any]:
        told = {"reasoning_content": whole_characters(delta.reasoning)} if delta.reasoning else {}
        if delta.text:
            told["content"] = whole_characters(delta.text)
        return {"delta": told, "logprobs": self._logprobs(delta)}

    def _logprobs(self, answer: Generation | Delta) -> dict[str, Any] | None:
        return chat_logprobs(answer.logprobs) if answer.logprobs else None


class CompletionWriter(_ChoiceWriter):
    """Writes /v1/completions. A reasoning trace is `reasoning_content` of the choice.

    The first event of a stream has text: there is none before it, as tools that measure latency count events.
    """

    object = "text_completion"
    chunk_object = "text_completion"
    id_prefix = "cmpl-"
    _before_text = '"text":'
    _after_text = ""

    def __init__(self, call: ApiCall, verdict: RoutingVerdict, *, request_id: str, created: int) -> None:
        super().__init__(call, verdict, request_id=request_id, created=created)
        self._offsets = [0] * len(self._opened)
        self._is_first = True

    def _text(self, index: int, text: str) -> bytes:
        if self._is_first and text:
            return self._piece_event(index, Delta(text=text))
        return super()._text(index, text)

    def _chunk(self, choice: dict[str, Any], *, verdict: bool = False) -> bytes:
        verdict, self._is_first = verdict or self._is_first, False
        return super()._chunk(choice, verdict=verdict)

    def _choice(self, generation: Generation) -> dict[str, Any]:
        text = whole_characters(generation.text)
        if self._call.echo:
            text = whole_characters(generation.prompt_text) + text
        told: dict[str, Any] = {"text": text, "logprobs": None}
        if generation.reasoning is not None:
            told["reasoning_content"] = whole_characters(generation.reasoning)
        if self._call.num_logprobs is not None:
            told["logprobs"] = (
                echoed_logprobs(generation) if self._call.echo else completion_logprobs(generation.logprobs)
            )
        return told

    def _piece(self, index: int, delta: Delta) -> dict[str, Any]:
        told: dict[str, Any] = {"text": whole_characters(delta.text), "logprobs": None}
        if delta.reasoning:
            told["reasoning_content"] = whole_characters(delta.reasoning)
        if delta.logprobs:
            told["logprobs"] = completion_logprobs(delta.logprobs, self._offsets[index])
            self._offsets[index] += sum(len(token) for token in told["logprobs"]["tokens"])
        return told


def finish_reason(answer: Generation | Delta) -> str:
    """Return how the answer ended, as the API spells it."""
    if answer.finish_reason not in ("stop", "length"):
        raise ValueError(f"an answer that ended with {answer.finish_reason} is a failure")
    return answer.finish_reason
