"""Answers to write, and server-sent events read back."""

import json
from collections.abc import Iterable
from typing import Any

from moe_ray.engines.base import NEVER_RAN, Delta, Generation
from moe_ray.serving.calls import ApiCall, RoutingVerdict
from moe_ray.serving.openai.bodies import writer_for
from moe_ray.serving.openai.writing import Writer

VERDICT = RoutingVerdict(
    requested="auto",
    expert="law",
    probabilities={"law": 0.75, "medicine": 0.25},
    confidence=0.75,
    out_of_domain=False,
    router_ms=1.23456,
)
LAST = Delta(finish_reason="stop", num_prompt_tokens=3, num_completion_tokens=5, num_reasoning_tokens=2)


def writer(call: ApiCall) -> Writer:
    return writer_for(call, VERDICT, request_id="r1", created=1_700_000_000)


def generation(text: str, **fields: Any) -> Generation:
    return Generation(
        **{
            "text": text,
            "token_ids": (7, 8),
            "finish_reason": "stop",
            "num_prompt_tokens": 3,
            "timing": NEVER_RAN,
            **fields,
        }
    )


def stream(call: ApiCall, deltas: Iterable[tuple[int, Delta]]) -> bytes:
    """The whole stream of the deltas, each with the index of its choice."""
    out = writer(call)
    return out.start() + b"".join(out.delta(index, delta) for index, delta in deltas) + out.end()


def events(sent: bytes) -> list[tuple[str | None, Any]]:
    """The name and data of each event. The data of `[DONE]` is a string."""
    found = []
    for block in sent.decode("ascii").removesuffix("\n\n").split("\n\n"):
        *names, data = block.split("\n")
        assert data.startswith("data: ")
        text = data.removeprefix("data: ")
        name = names[0].removeprefix("event: ") if names else None
        found.append((name, text if text == "[DONE]" else json.loads(text)))
    return found


def chunks(sent: bytes) -> list[Any]:
    """The data of a stream that ends as it should."""
    *found, last = [data for _, data in events(sent)]
    assert last == "[DONE]"
    return found
