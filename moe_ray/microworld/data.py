"""Writes a micro-world's records as the files that the real data sets are published in."""

import json
from collections.abc import Sequence
from pathlib import Path

from moe_ray.atomic import write_text_atomically
from moe_ray.microworld import biomedical, chatter, legal, programs
from moe_ray.microworld.worlds import SIZES, SYNTHETIC, Record, Split, WorldSize

DOMAIN_FILES = {"biomedical": "pubmedqa.json", "legal": "law_stackexchange.jsonl", "code": "mbpp.jsonl"}
NUM_CHATTER = 200


def generate_world(size: WorldSize) -> dict[str, Split]:
    """Return the records of every domain. The same size gives the same records on every machine."""
    sizes = SIZES[size]
    return {
        "biomedical": biomedical.generate(sizes["biomedical"]),
        "legal": legal.generate(sizes["legal"]),
        "code": programs.generate(sizes["code"]),
    }


def write_world(directory: Path, size: WorldSize) -> dict[str, Split]:
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
