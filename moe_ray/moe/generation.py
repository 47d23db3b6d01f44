"""Generate text from a mixture or one of its experts, with the gate's probabilities for the prompt.

A client of the transformers engine: prompts, decoding and expert selection are the same as in an evaluation.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from moe_ray.checkpoints.identity import CERTIFICATE_FILE
from moe_ray.config.schema import ModelConfig
from moe_ray.config.section import Section
from moe_ray.engines.base import BatchLimits, GenerateRequest
from moe_ray.engines.transformers.engine import TransformersEngine
from moe_ray.engines.transformers.mixture import MixtureFacts
from moe_ray.errors import ConfigError, ModelError
from moe_ray.moe.certificate import read_certificate
from moe_ray.prompts.messages import Message, Prompt

ONE_ROW = BatchLimits(max_rows=1, cache_memory_bytes=1 << 30)


class GenerateSettings(Section):
    """Generation settings. Greedy unless `temperature` or `top_p` is given."""

    prompt: str | None = None
    max_new_tokens: Annotated[int, Field(ge=1)] = 128
    greedy: bool = False
    temperature: Annotated[float, Field(ge=0, le=100)] | None = Field(None, description="0: greedy")
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    expert: str | int | None = Field(None, description="name or index of a single expert that answers")
    chat: bool | None = Field(None, description="use the chat template; default: as the gate was trained")
    mode: Literal["weighted_sum", "select_one"] | None = Field(None, description="default: the checkpoint's")

    @model_validator(mode="after")
    def _greedy_draws_nothing(self) -> "GenerateSettings":
        if (self.greedy or self.temperature == 0) and (self.temperature or self.top_p is not None):
            raise ValueError("greedy text is not drawn: leave temperature and top_p out, or greedy")
        return self

    @property
    def is_drawn(self) -> bool:
        return bool(self.temperature) or self.top_p is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A text, and the gate's probability of each expert for the prompt; `no_gate` is the reason without a gate.

    `reasoning` is the trace before the text, if any; `num_tokens` counts both.
    """

    text: str
    num_tokens: int
    probabilities: Mapping[str, float] | None
    no_gate: str | None
    expert: str | None
    reasoning: str | None = None


def write(directory: Path, text: str, settings: GenerateSettings) -> Written:
    """Answer `text` with the mixture in `directory`.

    Raises `ModelError` if it is not a mixture or cannot be loaded, and `ConfigError` for an unknown expert, an expert
    that cannot answer alone, and a prompt that does not fit.
    """
    # Absolute, so that a relative folder is not taken for a hub id.
    directory = directory.expanduser().absolute()
    in_chat = _is_chat_gate(directory) if settings.chat is None else settings.chat
    model = ModelConfig(
        path=str(directory),
        prompt_style="chat" if in_chat else "completion",
        engine_settings={"batching": "static", **_choice(settings)},
    )
    engine = TransformersEngine(model, ONE_ROW)
    facts = engine.mixture()
    if not facts.expert_names:
        what = f"is not a mixture: {facts.model_type} has no experts"
        raise ModelError(what, where=str(directory), remedy="name the folder of a mixture that moe-ray moe made")
    request = _request(text, settings)
    (out,) = engine.generate([request])
    if out.error is not None:
        remedy = "shorten the prompt, or ask for fewer tokens with --max-new-tokens"
        raise ConfigError(out.error, where="--prompt", remedy=remedy)
    probabilities = engine.gate_probabilities(request.prompt)
    return Written(
        text=out.text,
        num_tokens=out.num_completion_tokens,
        probabilities=dict(zip(facts.expert_names, probabilities, strict=True)) if probabilities else None,
        no_gate=None if probabilities else _no_gate(facts),
        expert=None if settings.expert is None else facts.expert_names[facts.expert_index(settings.expert)],
        reasoning=out.reasoning,
    )


def _choice(settings: GenerateSettings) -> dict[str, Any]:
    """Return the engine settings that select an expert or a mode."""
    if settings.expert is not None:
        return {"expert": settings.expert}
    return {} if settings.mode is None else {"mode": settings.mode}


def _request(text: str, settings: GenerateSettings) -> GenerateRequest:
    drawn_at = settings.temperature or 1.0
    return GenerateRequest(
        id="prompt",
        prompt=Prompt(messages=(Message(role="user", content=text),)),
        max_new_tokens=settings.max_new_tokens,
        temperature=drawn_at if settings.is_drawn else 0.0,
        top_p=settings.top_p or 1.0,
        seed=settings.seed,
    )


def _is_chat_gate(directory: Path) -> bool:
    """Return whether the gate was trained on prompts in the chat template."""
    if not (directory / CERTIFICATE_FILE).is_file():
        return False
    gate = read_certificate(directory).settings.get("gate")
    return isinstance(gate, dict) and gate.get("prompt_style") == "chat"


def _no_gate(facts: MixtureFacts) -> str:
    chosen = f"{facts.model_type} chooses {facts.experts_per_token or 'some'} of {len(facts.expert_names)} experts"
    return f"no gate for the whole prompt: {chosen} for each token in each layer that has them"
