"""Training pairs: the chat messages that an evaluation asks, and the answer to learn."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from moe_ray.atomic import write_text_atomically
from moe_ray.domains.example import Example


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """`messages` are (role, content) turns as the evaluation asks them; `target` is the assistant's answer."""

    messages: tuple[tuple[str, str], ...]
    target: str


def pair_of(example: Example) -> Pair:
    """Return what is learned of `example`: its chat prompt, and the reference that a chat answer is held against."""
    prompt = example.prompts["chat"]
    assert prompt.reference is not None
    messages = tuple((message.role, message.content) for message in prompt.messages)
    return Pair(messages=messages, target=prompt.reference)


def write_pairs(path: Path, pairs: Iterable[Pair]) -> None:
    """Write pairs, one JSON object a line."""
    write_text_atomically(path, "".join(json.dumps(asdict(pair)) + "\n" for pair in pairs))


def read_pairs(path: Path) -> list[Pair]:
    """Read pairs back."""
    with path.open(encoding="utf-8") as file:
        return [_pair(json.loads(line)) for line in file]


def _pair(value: dict[str, object]) -> Pair:
    messages, target = value["messages"], value["target"]
    assert isinstance(messages, list)
    return Pair(messages=tuple((role, content) for role, content in messages), target=str(target))
