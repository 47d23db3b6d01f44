"""What a call brought: token counts, the texts where they are recorded, and its line in the log of requests."""

import json
import logging
import os
import time
from dataclasses import dataclass, field

from moe_ray.engines.base import Delta, Generation
from moe_ray.serving.backend import Ticket
from moe_ray.serving.calls import ApiCall
from moe_ray.serving.connection import CLIENT_LEFT
from moe_ray.serving.openai.usage import TokenCounts

REQUEST_LOG = logging.getLogger("moe_ray.requests")


@dataclass(slots=True)
class ChoiceText:
    """One choice's text as it grows."""

    answer: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    finish_reason: str = ""


class CallOutcome:
    """Collects a call's answers. Texts are kept only where `keeps_text`."""

    def __init__(self, call: ApiCall, *, keeps_text: bool) -> None:
        self.counts = TokenCounts(call.n)
        self.texts = [ChoiceText() for _ in range(call.n * len(call.prompts))] if keeps_text else []

    def add(self, index: int, piece: Generation | Delta) -> None:
        """Add the whole answer of a choice, or the next piece of it."""
        if piece.finish_reason is not None:
            self.counts.add(index, piece)
        if self.texts:
            kept = self.texts[index]
            kept.answer.append(piece.text)
            kept.reasoning.append(piece.reasoning or "")
            kept.finish_reason = piece.finish_reason or kept.finish_reason


def log_requests() -> None:
    """Write one line of JSON for each request to standard error. Called once in each ingress process."""
    if REQUEST_LOG.handlers:
        return
    # Ray's own sys.stderr flushes twice a line; each write lets another thread take the interpreter's lock.
    handler = logging.StreamHandler(os.fdopen(os.dup(2), "w", encoding="utf-8", buffering=1))
    handler.setFormatter(logging.Formatter("%(message)s"))
    REQUEST_LOG.addHandler(handler)
    REQUEST_LOG.setLevel(logging.INFO)
    REQUEST_LOG.propagate = False


def log_request(request_id: str, path: str, status: int, seconds: float, ticket: Ticket | None) -> None:
    """Log a request that has ended. The line has no prompts, no answers and no keys.

    Args:
        ticket: None where the request was refused before its body was read.
    """
    if not REQUEST_LOG.isEnabledFor(logging.INFO):
        return
    line: dict[str, object] = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "id": request_id,
        "path": path,
        "status": status,
        "end": _end(status, ticket),
        "total_ms": round(1000 * seconds, 1),
    }
    if ticket is not None:
        line["stream"] = ticket.call.stream
        if (verdict := ticket.verdict) is not None:
            line |= {
                "model": verdict.requested,
                "expert": verdict.expert,
                "fell_back": verdict.fell_back,
                "router_ms": round(verdict.router_ms, 1),
                "queue_ms": round(verdict.queue_ms, 1),
                "swap_ms": round(verdict.swap_ms, 1),
            }
        if ticket.counts is not None:
            line |= {"prompt_tokens": ticket.counts.prompt, "completion_tokens": ticket.counts.completion}
    REQUEST_LOG.info(json.dumps(line))


def _end(status: int, ticket: Ticket | None) -> str:
    """How it ended: "complete", "refused", "failed" or "cancelled". The status of a stream says only how it began."""
    if status == CLIENT_LEFT:
        return "cancelled"
    if status >= 400:
        return "failed" if status >= 500 else "refused"
    return ticket.end if ticket is not None and ticket.call.stream else "complete"
