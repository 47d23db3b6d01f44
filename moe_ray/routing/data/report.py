"""What became of the records that a router's texts were made from."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from moe_ray.routing.texts import LabelledText, RouterTexts

Reason = Literal[
    "empty", "of the run", "nearly of the run", "two labels", "duplicate", "near duplicate", "over the limit"
]

REASONS: Mapping[Reason, str] = {
    "empty": "nothing but space",
    "of the run": "an example that the run evaluates, or the same text",
    "nearly of the run": "nearly the text of such an example",
    "two labels": "the same text bears another label elsewhere",
    "duplicate": "the same text is there already",
    "near duplicate": "nearly the same text is there already",
    "over the limit": "more than max_texts_per_domain, or max_texts of its set",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceReport:
    """One source of texts: a domain, or a set of queries of no domain.

    `num_records` are those that the domain's task takes; each is in `num_kept` or, by its reason, in `dropped`.
    """

    name: str
    label: str
    use: Literal["train", "test"]
    num_records: int
    num_kept: int
    dropped: Mapping[Reason, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class DataReport:
    """All sources of a router's texts. `num_unbalanced`: texts that balance "downsample" left out, by label."""

    sources: tuple[SourceReport, ...]
    num_unbalanced: Mapping[str, int]

    def as_json(self) -> dict[str, Any]:
        """Return the report as plain values."""
        return asdict(self)


def split_counts(texts: RouterTexts) -> dict[str, dict[str, int]]:
    """Return the number of texts by label, then by split."""
    counts = {name: Counter(text.label for text in group) for name, group in splits_of(texts)}
    return {label: {name: counts[name][label] for name in counts} for label in texts.labels}


def splits_of(texts: RouterTexts) -> Iterator[tuple[str, Sequence[LabelledText]]]:
    """Yield the three splits with their names."""
    yield "train", texts.train
    yield "validation", texts.validation
    yield "test", texts.test
