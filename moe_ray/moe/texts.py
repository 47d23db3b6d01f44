"""The texts that gates are made from and mixtures are tested on."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from moe_ray.domains.sources import read_file, read_text
from moe_ray.errors import DataError

TEXT_KEY = "text"
LABEL_KEYS = ("expert", "label", "domain")
FORMAT_REMEDY = (
    'give records with "text", and "expert" for gates (JSON, JSONL, CSV, Parquet), or a .txt with a blank line between'
)

# Plain prose, code, sums and a list: enough to see whether a conversion is exact, too little to judge noise by.
BUILT_IN = (
    "The river rises in the hills, passes two old mills and a railway bridge, and reaches the sea after forty miles. "
    "In spring it carries so much water that the lower meadows are flooded for weeks.",
    "def mean(values):\n    if not values:\n        raise ValueError('none')\n    return sum(values) / len(values)\n",
    "A train leaves at 9:40 and travels 150 km at 60 km/h. The journey takes 150 / 60 = 2.5 hours, so it arrives at "
    "12:10.",
    "Patients were assigned at random to the new drug or to a placebo. After twelve weeks the mean blood pressure had "
    "fallen by 8 mmHg in the first group and by 3 mmHg in the second.",
    "The seller must deliver the goods within thirty days. If delivery is late by more than ten days, the buyer may "
    "withdraw from the contract and claim back what was paid.",
    "Shopping list:\n- two loaves of bread\n- a dozen eggs\n- olive oil\n- something nice for Anna's birthday\n",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeTexts:
    """Texts in their order. `labels` are places among `experts`, one for each text, or none at all."""

    texts: tuple[str, ...]
    experts: tuple[str, ...] = ()
    labels: tuple[int, ...] = ()


def built_in_texts() -> ProbeTexts:
    return ProbeTexts(texts=BUILT_IN)


def read_texts(path: Path) -> ProbeTexts:
    """Read texts, and whose expert's each is where the records say so. Experts count in order of first appearance.

    Raises `DataError` when the file is missing or malformed, holds no text, or labels some of its texts only.
    """
    if path.suffix == ".txt":
        return _non_empty(
            ProbeTexts(texts=tuple(part.strip() for part in read_text(path).split("\n\n") if part.strip())), path
        )
    records = read_file(path)
    texts = [record.get(TEXT_KEY) for record in records]
    if not all(isinstance(text, str) for text in texts):
        raise DataError(f"some records have no {TEXT_KEY!r}", where=str(path), remedy=FORMAT_REMEDY)
    key = next((key for key in LABEL_KEYS if any(record.get(key) is not None for record in records)), None)
    named = [str(record[key]) if record.get(key) is not None else None for record in records] if key else []
    if None in named:
        raise DataError(f"some records have {key!r}, and some have not", where=str(path), remedy=FORMAT_REMEDY)
    return _non_empty(_labelled([str(text) for text in texts], [str(name) for name in named]), path)


def _labelled(texts: Sequence[str], names: Sequence[str]) -> ProbeTexts:
    experts = tuple(dict.fromkeys(names))
    places = {name: at for at, name in enumerate(experts)}
    return ProbeTexts(texts=tuple(texts), experts=experts, labels=tuple(places[name] for name in names))


def _non_empty(texts: ProbeTexts, path: Path) -> ProbeTexts:
    if not texts.texts:
        raise DataError("holds no texts", where=str(path), remedy=FORMAT_REMEDY)
    return texts
