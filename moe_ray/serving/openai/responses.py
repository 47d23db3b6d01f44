"""From deltas and generations to the bodies and events of /v1/responses.

The output has one item for the reasoning trace, if there is one, and one for the answer. No response is kept.
"""

from collections.abc import Sequence
from typing import Any

from moe_ray.characters import whole_characters
from moe_ray.engines.base import Delta, Generation
from moe_ray.serving.calls import ApiCall, ApiError, RoutingVerdict
from moe_ray.serving.openai.events import event, json_string, json_text
from moe_ray.serving.openai.usage import TokenCounts
from moe_ray.serving.openai.writing import finish_reason, verdict_body

_ANSWER = "response.output_text"
_TRACE = "response.reasoning_text"


class _Item:
    """An item of the output: the answer or its trace, which comes in pieces. `stem` begins its events' names."""

    def __init__(self, stem: str, request_id: str, output_index: int) -> None:
        self.stem = stem
        self.id = f"{'msg' if stem == _ANSWER else 'rs'}-{request_id}-{output_index}"
        self.output_index = output_index
        self.place = {"item_id": self.id, "output_index": output_index, "content_index": 0}
        self.logprobs: dict[str, Any] = {"logprobs": []} if stem == _ANSWER else {}
        self.pieces: list[str] = []
        self.status = "in_progress"

    @property
    def text(self) -> str:
        """All pieces so far."""
        return "".join(self.pieces)

    def part(self, text: str) -> dict[str, Any]:
        """Return the content part that holds `text`."""
        if self.stem == _ANSWER:
            return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
        return {"type": "reasoning_text", "text": text}

    def body(self) -> dict[str, Any]:
        """Return the item as it is now."""
        content = [self.part(self.text)] if self.status != "in_progress" else []
        told = {"id": self.id, "status": self.status, "content": content}
        if self.stem == _ANSWER:
            return {"type": "message", "role": "assistant", **told}
        return {"type": "reasoning", "summary": [], **told}


class ResponseWriter:
    """Writes /v1/responses; see `Writer`. A call has one choice, whose index is 0."""

    def __init__(self, call: ApiCall, verdict: RoutingVerdict, *, request_id: str, created: int) -> None:
        self._call = call
        self._verdict = verdict
        self._request_id = request_id
        self._created = created
        self._counts = TokenCounts(1)
        self._num_events = 0
        self._items: list[_Item] = []
        self._delta_head = ""
        self._finish = ""

    def whole(self, generations: Sequence[Generation]) -> bytes:
        (generation,) = generations
        self._counts.add(0, generation)
        self._finish = finish_reason(generation)
        for stem, text in ((_TRACE, generation.reasoning), (_ANSWER, generation.text)):
            if text is not None:
                item = self._open(stem)
                item.pieces.append(whole_characters(text))
                item.status = "completed" if stem == _TRACE else self._final_status()
        return json_text(self._body(self._final_status())).encode()

    def start(self) -> bytes:
        body = self._body("in_progress")
        return self._event("response.created", response=body) + self._event("response.in_progress", response=body)

    def delta(self, index: int, delta: Delta) -> bytes:
        del index
        sent = self._piece(_TRACE, delta.reasoning) if delta.reasoning else b""
        if delta.text:
            sent += self._piece(_ANSWER, delta.text)
        if delta.finish_reason is not None:
            self._counts.add(0, delta)
            self._finish = finish_reason(delta)
        return sent

    def end(self) -> bytes:
        sent = self._switched_to(_ANSWER)
        status = self._final_status()
        sent += self._closed(status)
        return sent + self._event(f"response.{status}", response=self._body(status))

    def failure(self, error: ApiError) -> bytes:
        code = "rate_limit_exceeded" if error.kind == "rate_limit_error" else "server_error"
        if self._items:
            self._items[-1].status = "incomplete"
        body = self._body("failed") | {"error": {"code": code, "message": error.message}}
        return self._event("response.failed", response=body)

    def _piece(self, stem: str, text: str) -> bytes:
        text = whole_characters(text)
        sent = self._switched_to(stem)
        self._items[-1].pieces.append(text)
        head = f'{self._delta_head}{self._num_events},"delta":{json_string(text)}}}\n\n'
        self._num_events += 1
        return sent + head.encode()

    def _switched_to(self, stem: str) -> bytes:
        """Close the open item and open one of `stem`, unless that is the open one."""
        if self._items and self._items[-1].stem == stem:
            return b""
        sent = self._closed("completed") if self._items else b""
        return sent + self._opened(stem)

    def _open(self, stem: str) -> _Item:
        self._items.append(_Item(stem, self._request_id, len(self._items)))
        return self._items[-1]

    def _opened(self, stem: str) -> bytes:
        item = self._open(stem)
        name = f"{stem}.delta"
        head = json_text({"type": name, **item.place, **item.logprobs}).removesuffix("}")
        self._delta_head = f'event: {name}\ndata: {head},"sequence_number":'
        return self._event(
            "response.output_item.added", output_index=item.output_index, item=item.body()
        ) + self._event("response.content_part.added", **item.place, part=item.part(""))

    def _closed(self, status: str) -> bytes:
        item = self._items[-1]
        item.status = status
        return (
            self._event(f"{item.stem}.done", **item.place, **item.logprobs, text=item.text)
            + self._event("response.content_part.done", **item.place, part=item.part(item.text))
            + self._event("response.output_item.done", output_index=item.output_index, item=item.body())
        )

    def _event(self, name: str, **fields: Any) -> bytes:
        number = self._num_events
        self._num_events += 1
        return event(json_text({"type": name, "sequence_number": number, **fields}), name)

    def _final_status(self) -> str:
        return "incomplete" if self._finish == "length" else "completed"

    def _body(self, status: str) -> dict[str, Any]:
        call = self._call
        return {
            "id": f"resp-{self._request_id}",
            "object": "response",
            "created_at": self._created,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "instructions": call.instructions,
            "model": self._verdict.expert,
            "router_model_name": self._verdict.requested,
            "output": [item.body() for item in self._items],
            "max_output_tokens": call.max_new_tokens,
            "temperature": call.temperature,
            "top_p": call.top_p,
            "parallel_tool_calls": False,
            "previous_response_id": None,
            "store": False,
            "text": {"format": {"type": "text"}},
            "tool_choice": "none",
            "tools": [],
            "truncation": "disabled",
            "usage": self._counts.response_body() if self._finish else None,
            "moe_ray": verdict_body(self._verdict),
        }
