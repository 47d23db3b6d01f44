"""Cells: the units that are computed once, and the fingerprints that name them.

A cell's key is made of what decides its text (the model's identity, the prompt, the decoding) and of nothing
else: the same cell has the same key on every machine, in every run directory.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from moe_ray.config.schema import DecodingConfig, PromptStyle
from moe_ray.domains.example import Example, Prompt
from moe_ray.fingerprint import fingerprint

CellKind = Literal["generate", "likelihood"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelIdentity:
    """What decides a model's text. `fingerprint` covers weights or hub revision, dtype, quantisation, engine."""

    name: str
    fingerprint: str
    prompt_style: PromptStyle


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """(model, example, decoding): one answer to compute. `sample_index` is 0 for likelihoods."""

    key: str
    kind: CellKind
    model: str
    domain: str
    example_id: str
    sample_index: int
    max_new_tokens: int
    prompt: Prompt


def example_cells(
    example: Example, model: ModelIdentity, decoding: DecodingConfig, *, max_new_tokens: int, likelihood: bool
) -> list[Cell]:
    """Return the cells of one example for one model: its samples, then its log-likelihoods."""
    prompt = example.prompts[model.prompt_style]
    asked = {
        "model": model.fingerprint,
        "style": model.prompt_style,
        "messages": [[message.role, message.content] for message in prompt.messages],
        "domain": example.domain,
        "example": example.id,
    }
    cells = []
    for index in range(decoding.samples_per_example):
        drawn = {
            "max_new_tokens": max_new_tokens,
            "temperature": decoding.temperature,
            "top_p": decoding.top_p,
            "seed": decoding.seed if decoding.temperature > 0 else None,
            "sample": index,
            "stop": list(prompt.stop),
        }
        cells.append(_cell("generate", asked, drawn, example, model.name, index, max_new_tokens, prompt))
    if likelihood and prompt.continuations:
        measured = {"continuations": list(prompt.continuations)}
        cells.append(_cell("likelihood", asked, measured, example, model.name, 0, 0, prompt))
    return cells


def _cell(
    kind: CellKind,
    asked: Mapping[str, object],
    decoding: Mapping[str, object],
    example: Example,
    model: str,
    sample_index: int,
    max_new_tokens: int,
    prompt: Prompt,
) -> Cell:
    return Cell(
        key=fingerprint({"kind": kind, "asked": asked, "decoding": decoding}),
        kind=kind,
        model=model,
        domain=example.domain,
        example_id=example.id,
        sample_index=sample_index,
        max_new_tokens=max_new_tokens,
        prompt=prompt,
    )
