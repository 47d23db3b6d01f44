"""Writes a micro-world's records as the files that the real data sets are published in."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from moe_ray.domains.example import Example, Record
from moe_ray.files import write_text_atomically
from moe_ray.microworld import biomedical, chatter, legal, programs
from moe_ray.microworld.worlds import SIZES, SYNTHETIC, WorldSize, WorldSplit
from moe_ray.prompts.messages import Message, Role

DOMAIN_FILES = {"biomedical": "pubmedqa.json", "legal": "law_stackexchange.jsonl", "code": "mbpp.jsonl"}
NUM_CHATTER = 200


def generate_world(size: WorldSize) -> dict[str, WorldSplit]:
    """Return the records of every domain. The same size gives the same records on every machine."""
    sizes = SIZES[size]
    return {
        "biomedical": biomedical.generate(sizes["biomedical"]),
        "legal": legal.generate(sizes["legal"]),
        "code": programs.generate(sizes["code"]),
    }


def write_world(directory: Path, size: WorldSize) -> dict[str, WorldSplit]:
    """Write `directory`/{train,test}/FILE for every domain, queries of no domain, and a note that all is synthetic."""
    world = generate_world(size)
    for domain, split in world.items():
        for part, records in (("train", split.train), ("test", split.test)):
            write_text_atomically(directory / part / DOMAIN_FILES[domain], _published(domain, records))
    for name, texts in (("small_talk", chatter.small_talk(NUM_CHATTER)), ("errands", chatter.errands(NUM_CHATTER))):
        write_text_atomically(directory / "other" / f"{name}.jsonl", _lines(texts))
    write_text_atomically(directory / "SYNTHETIC.md", f"{SYNTHETIC}.\n")
    return world


def _published(domain: str, records: Sequence[Record]) -> str:
    if domain == "biomedical":
        keyed = {record["pmid"]: {key: value for key, value in record.items() if key != "pmid"} for record in records}
        return json.dumps(keyed, indent=1) + "\n"
    return _lines(records)


def _lines(records: Sequence[Record]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionAnswer:
    """`messages` are (role, content) turns as the evaluation asks them; `target` is the assistant's answer."""

    messages: tuple[tuple[Role, str], ...]
    target: str

    @property
    def asked(self) -> tuple[Message, ...]:
        """The turns as messages of a prompt."""
        return tuple(Message(role=role, content=content) for role, content in self.messages)


def pair_of(example: Example) -> QuestionAnswer:
    """Return what is learned of `example`: its chat prompt, and the reference that a chat answer is held against."""
    prompt = example.prompts["chat"]
    assert prompt.reference is not None
    messages = tuple((message.role, message.content) for message in prompt.messages)
    return QuestionAnswer(messages=messages, target=prompt.reference)


def write_pairs(path: Path, pairs: Iterable[QuestionAnswer]) -> None:
    """Write pairs, one JSON object a line."""
    write_text_atomically(path, "".join(json.dumps(asdict(pair)) + "\n" for pair in pairs))


def read_pairs(path: Path) -> list[QuestionAnswer]:
    """Read pairs back."""
    with path.open(encoding="utf-8") as file:
        return [_pair(json.loads(line)) for line in file]


def _pair(value: dict[str, object]) -> QuestionAnswer:
    messages, target = value["messages"], value["target"]
    assert isinstance(messages, list)
    return QuestionAnswer(messages=tuple((role, content) for role, content in messages), target=str(target))
