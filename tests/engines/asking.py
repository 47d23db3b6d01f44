"""Short ways to ask an engine, for tests."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from moe_ray.config.schema import ModelConfig
from moe_ray.engines.base import BatchLimits, GenerateRequest, LikelihoodRequest
from moe_ray.prompts.messages import Message, Prompt

if TYPE_CHECKING:
    from moe_ray.engines.transformers.engine import TransformersEngine

ROOMY = BatchLimits(max_rows=8, cache_memory_bytes=1 << 30)
ONE_ROW = BatchLimits(max_rows=1, cache_memory_bytes=1 << 30)

TEXTS = (
    "the drug is",
    "a question of law and the answer of the court: yes",
    "def sum(list): return",
    "contract",
    "maybe the cell is a list of yes and no and of the law 12345 and a court of law, is the answer no",
)


def completion(text: str, **fields: Any) -> Prompt:
    """Return a prompt whose only message is `text`."""
    return Prompt(messages=(Message(role="user", content=text),), **fields)


def ask(
    prompt: Prompt | str, id: str = "1", *, num: int = 12, temperature: float = 0.0, top_p: float = 1.0, seed: int = 0
) -> GenerateRequest:
    """Return a request for `num` tokens at most."""
    return GenerateRequest(
        id=id,
        prompt=completion(prompt) if isinstance(prompt, str) else prompt,
        max_new_tokens=num,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
    )


def ask_all(**fields: Any) -> list[GenerateRequest]:
    """Return one request for each of `TEXTS`."""
    return [ask(text, id=str(index), **fields) for index, text in enumerate(TEXTS)]


def measure(prompt: Prompt, id: str = "1") -> LikelihoodRequest:
    """Return a request for the log-likelihoods of the prompt's continuations."""
    return LikelihoodRequest(id=id, prompt=prompt)


def engine(directory: Path, limits: BatchLimits = ROOMY, **fields: Any) -> "TransformersEngine":
    """Load a checkpoint in the completion style."""
    from moe_ray.engines.transformers.engine import TransformersEngine

    return TransformersEngine(ModelConfig(**{"path": str(directory), "prompt_style": "completion", **fields}), limits)
