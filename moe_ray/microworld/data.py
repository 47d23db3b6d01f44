"""The files of a micro-world: data sets in published formats, training pairs, and one tokenizer for all models."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from moe_ray.domains.example import Example, Record
from moe_ray.files import write_text_atomically
from moe_ray.microworld.generators import errands, generate_biomedical, generate_code, generate_legal, small_talk
from moe_ray.microworld.worlds import SIZES, SYNTHETIC, WorldSize, WorldSplit
from moe_ray.prompts.messages import Message, Role

BOS, EOS, PAD = "<|bos|>", "<|eos|>", "<|pad|>"
SPECIAL_TOKENS = (BOS, EOS, PAD, "<|system|>", "<|user|>", "<|assistant|>")
MAX_TOKENS = 4096
MAX_POSITIONS = 512
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def build_tokenizer(texts: Iterable[str], file: Path) -> None:
    """Write a tokenizer file in which each word of `texts` is one token; all other text is encoded as bytes.

    Pre-tokenisation is Qwen2's, because transformers enforces it for Qwen2 checkpoints and all models of the
    micro-world share the tokenizer.
    """
    from tokenizers import pre_tokenizers, trainers
    from transformers import Qwen2Tokenizer

    tokenizer = Qwen2Tokenizer().backend_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=MAX_TOKENS,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    file.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(file))


def load_tokenizer(file: Path) -> Any:
    """Return the tokenizer as transformers knows it, with its special tokens and its chat template."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_file=str(file),
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=MAX_POSITIONS,
        chat_template=CHAT_TEMPLATE,
    )


DOMAIN_FILES = {"biomedical": "pubmedqa.json", "legal": "law_stackexchange.jsonl", "code": "mbpp.jsonl"}
NUM_CHATTER = 200


def generate_world(size: WorldSize) -> dict[str, WorldSplit]:
    """Return the records of every domain. The same size gives the same records on every machine."""
    sizes = SIZES[size]
    return {
        "biomedical": generate_biomedical(sizes["biomedical"]),
        "legal": generate_legal(sizes["legal"]),
        "code": generate_code(sizes["code"]),
    }


def write_world(directory: Path, size: WorldSize) -> dict[str, WorldSplit]:
    """Write `directory`/{train,test}/FILE for every domain, queries of no domain, and a note that all is synthetic."""
    world = generate_world(size)
    for domain, split in world.items():
        for part, records in (("train", split.train), ("test", split.test)):
            write_text_atomically(directory / part / DOMAIN_FILES[domain], _published(domain, records))
    for name, texts in (("small_talk", small_talk(NUM_CHATTER)), ("errands", errands(NUM_CHATTER))):
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
    """Return what is learned of `example`: its chat prompt, and the reference of its chat answer."""
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
