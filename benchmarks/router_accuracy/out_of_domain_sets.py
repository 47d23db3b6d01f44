"""Public sets of queries, as queries that belong to none of the domains; what does belong to one is left out."""

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from moe_ray.config.schema import OTHER
from moe_ray.domains.sources import read_file, read_json
from moe_ray.texts.labelled import LabelledText


class Query(NamedTuple):
    """A query and the class that its set gives it; empty where the set has none."""

    text: str
    group: str


LEFT_OUT: Mapping[str, frozenset[str]] = {
    "clinc150": frozenset({"vaccines"}),  # which ones a traveller needs: biomedical
    "ag_news": frozenset({"4"}),  # science and technology: software, medicine
    "newsgroups20": frozenset(
        {
            "comp.graphics",
            "comp.os.ms-windows.misc",
            "comp.sys.ibm.pc.hardware",
            "comp.sys.mac.hardware",
            "comp.windows.x",
            "sci.crypt",  # algorithms, and the law of wiretaps
            "sci.med",
            "talk.politics.guns",  # mostly about law
            "talk.politics.misc",  # courts, drug laws
        }
    ),
}
"""Groups of a set that belong to a domain, wholly or for a large part. Judged by reading, before any figure."""


def read_out_of_domain(data: Path) -> dict[str, list[LabelledText]]:
    """Return the out-of-domain sets by name, labelled as queries of no domain."""
    return {
        name: [
            LabelledText(id=f"{name}/{at}", text=query.text, label=OTHER, source=name)
            for at, query in enumerate(read(data / "ood"))
            if query.group not in LEFT_OUT.get(name, frozenset())
        ]
        for name, read in READERS.items()
    }


def _clinc150(folder: Path) -> Iterator[Query]:
    for pairs in read_json(folder / "clinc150_train_val.json").values():
        yield from (Query(text, intent) for text, intent in pairs)


def _banking77(folder: Path) -> Iterator[Query]:
    for record in read_file(folder / "banking77_train.csv"):
        yield Query(record["text"].strip(), record["category"])


def _gsm8k(folder: Path) -> Iterator[Query]:
    yield from (Query(record["question"], "") for record in read_file(folder / "gsm8k_train.jsonl"))


def _strategyqa(folder: Path) -> Iterator[Query]:
    yield from (Query(record["input"], "") for record in read_json(folder / "strategyqa_task.json")["examples"])


def _ag_news(folder: Path) -> Iterator[Query]:
    for record in read_file(folder / "ag_news.jsonl"):
        yield Query(f"{record['title']}\n{record['text']}", record["label"])


def _newsgroups20(folder: Path) -> Iterator[Query]:
    for record in read_file(folder / "newsgroups20.jsonl"):
        yield Query(without_quotes(record["subject"], record["text"]), record["group"])


def without_quotes(subject: str, body: str) -> str:
    """Return a post as its writer's own words: no lines of others, nor the line that names them."""
    own = [line for line in body.splitlines() if not re.match(r"\s*[>|:}]|.*\b(writes|wrote|said):?\s*$", line)]
    title = re.sub(r"^(\s*re\s*:)+\s*", "", subject, flags=re.IGNORECASE)
    return re.sub(r"\n{2,}", "\n", "\n".join([title, *own])).strip()


READERS: Mapping[str, Callable[[Path], Iterator[Query]]] = {
    "clinc150": _clinc150,
    "banking77": _banking77,
    "gsm8k": _gsm8k,
    "strategyqa": _strategyqa,
    "ag_news": _ag_news,
    "newsgroups20": _newsgroups20,
}
