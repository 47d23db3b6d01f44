"""What the small models learn from, and the legal questions that they must not see.

`data` is a folder with the public data sets as their authors published them; the names below are relative to it.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moe_ray.fingerprint import fingerprint

MEDQUAD = "biomedical/medquad_4000.jsonl"
PUBMEDQA = "biomedical/pubmedqa_dev500.json"
STATUTES = "legal/indian_statute_qa.jsonl"
ALPACA = "code/new_codealpaca.json"
MBPP = "code/mbpp_train_prompt474.jsonl"
STORIES_WEIGHTS, STORIES_VOCABULARY = "weights/stories260K.bin", "weights/tok512.bin"

BLOCK_RECORDS = 50
NUM_HELD_OUT_BLOCKS = 5

Record = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """Documents to learn from, by domain, and the legal records that are evaluated."""

    documents: dict[str, list[str]]
    held_out_legal: list[Record]


def read_texts(data: Path) -> Texts:
    """Return the documents of each domain, spelled as its completion prompt is, and the held-out legal records.

    No document repeats a question that is evaluated.
    """
    held_out, legal = split_legal(_json_lines(data / STATUTES))
    tasks = {record["text"].strip() for record in _json_lines(data / MBPP)}
    asked = {record["QUESTION"].strip() for record in _json(data / PUBMEDQA).values()}
    medical = [record for record in _json_lines(data / MEDQUAD) if record["question"].strip() not in asked]
    programs = [record for record in _json(data / ALPACA) if record["instruction"].strip() not in tasks]
    return Texts(
        documents={
            "biomedical": [_question_text(record) for record in medical],
            "legal": [_question_text(record) for record in legal],
            "code": [_program_text(record) for record in programs],
        },
        held_out_legal=held_out,
    )


def split_legal(records: Sequence[Record]) -> tuple[list[Record], list[Record]]:
    """Return the held-out records and the others.

    Neighbours ask about the same section of a statute, often with the same answer: whole blocks of consecutive
    records are held out, drawn by a hash, and what repeats a held-out question or answer elsewhere is dropped.
    """
    starts = range(0, len(records), BLOCK_RECORDS)
    blocks = [records[start : start + BLOCK_RECORDS] for start in starts]
    ranked = sorted(blocks, key=lambda block: fingerprint(block[0]["id"]))
    held_out = [record for block in ranked[:NUM_HELD_OUT_BLOCKS] for record in block]
    questions = {record["question"] for record in held_out}
    answers = {record["answer"] for record in held_out}
    kept = [one for one in records if one["question"] not in questions and one["answer"] not in answers]
    return held_out, kept


def sample_of(path: Path, num_characters: int) -> list[str]:
    """Return documents of a file of texts, evenly spread over it, of about `num_characters` in all."""
    documents: list[str] = _json_lines(path)
    every = max(1, sum(map(len, documents)) // num_characters)
    return documents[::every]


def write_json_lines(path: Path, values: Iterable[object]) -> None:
    """Write one JSON value a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values), encoding="utf-8")


def _question_text(record: Record) -> str:
    return f"Question: {record['question'].strip()}\n\nAnswer: {record['answer'].strip()}"


def _program_text(record: Record) -> str:
    task = " ".join(part.strip() for part in (record["instruction"], record["input"]) if part.strip())
    asked = f"You are an expert Python programmer, and here is your task: {task}"
    return f"{asked}\n[BEGIN]\n{record['output'].strip()}\n[DONE]"


def _json_lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
