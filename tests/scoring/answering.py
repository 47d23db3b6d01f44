"""Examples and answers, made for the tests."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from moe_ray.domains.example import Example
from moe_ray.store.answers import Answer


def example(
    example_id: str = "e1", *, domain: str = "field", reference: str = "The cat sat.", **grading: Any
) -> Example:
    return Example(id=example_id, domain=domain, prompts={}, reference=reference, grading=grading)


def decision_example(label: str = "yes", example_id: str = "e1", **options: Any) -> Example:
    return example(example_id, label=label, choices=["yes", "no", "maybe"], **options)


def generated(
    text: str | None,
    *,
    sample: int = 0,
    error: str | None = None,
    model: str = "m",
    of: Example | None = None,
    reasoning: str | None = None,
    cut_at: int | None = None,
) -> Answer:
    """A generated answer; with `cut_at`, one that was cut at so many tokens."""
    drawn = _answer("generate", text=text, sample=sample, error=error, model=model, of=of)
    if cut_at is not None:
        drawn = replace(drawn, finish_reason="length", settings=json.dumps({"max_new_tokens": cut_at}))
    return replace(drawn, reasoning=reasoning)


def measured(
    loglikelihoods: Sequence[float] | None,
    continuations: Sequence[str],
    *,
    error: str | None = None,
    model: str = "m",
    of: Example | None = None,
) -> Answer:
    settings = {"continuations": list(continuations)}
    return _answer("likelihood", settings=settings, loglikelihoods=loglikelihoods, error=error, model=model, of=of)


def _answer(
    kind: Any,
    *,
    model: str,
    of: Example | None,
    text: str | None = None,
    sample: int = 0,
    error: str | None = None,
    settings: dict[str, Any] | None = None,
    loglikelihoods: Sequence[float] | None = None,
) -> Answer:
    asked = of or example()
    return Answer(
        key=f"{kind}-{model}-{asked.id}-{sample}",
        kind=kind,
        model=model,
        domain=asked.domain,
        example_id=asked.id,
        sample_index=sample,
        messages="this is no JSON: no grader may read it",
        settings=json.dumps(settings or {}),
        text=text,
        token_ids=None,
        finish_reason="error" if error else "stop",
        num_prompt_tokens=1,
        num_completion_tokens=1,
        loglikelihoods=None if loglikelihoods is None else list(loglikelihoods),
        loglikelihood_tokens=None,
        error=error,
        batch_rows=1,
        time_to_first_token_s=None,
        total_s=0.0,
        replica="r",
        shard="s",
        finished_at=0.0,
    )
