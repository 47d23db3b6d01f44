"""Bodies of the endpoints that generate nothing, and the choice of a writer for those that do."""

from collections.abc import Mapping, Sequence
from typing import Any

from moe_ray.serving.calls import ApiCall, RoutingVerdict
from moe_ray.serving.openai.responses import ResponseWriter
from moe_ray.serving.openai.writing import ChatWriter, CompletionWriter, Writer, verdict_body

_WRITERS: Mapping[str, type[ChatWriter | CompletionWriter | ResponseWriter]] = {
    "chat": ChatWriter,
    "completions": CompletionWriter,
    "responses": ResponseWriter,
}


def writer_for(call: ApiCall, verdict: RoutingVerdict, *, request_id: str, created: int) -> Writer:
    """Return the writer of the call's endpoint. `created` is in seconds since 1970; `request_id` enters the ids."""
    return _WRITERS[call.endpoint](call, verdict, request_id=request_id, created=created)


def route_body(verdict: RoutingVerdict, *, request_id: str) -> dict[str, Any]:
    """Return the body of /v1/route: the decision, with no answer."""
    likeliest_first = sorted(verdict.probabilities.items(), key=lambda entry: -entry[1])
    reason = "fallback" if verdict.fell_back else "router"
    return {
        "id": f"route-{request_id}",
        "object": "routing.decision",
        "selected_model": verdict.expert,
        "classifications": [{"label": label, "score": score} for label, score in likeliest_first],
        "selection_reason": "out_of_domain" if verdict.out_of_domain else reason,
        "moe_ray": verdict_body(verdict),
    }


def tokenize_body(token_ids: Sequence[int], *, context_length: int) -> dict[str, Any]:
    """Return the body of /tokenize."""
    return {"count": len(token_ids), "max_model_len": context_length, "tokens": list(token_ids)}
