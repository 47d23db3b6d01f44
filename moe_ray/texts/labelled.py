"""Labelled texts, and the report of what was dropped."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from moe_ray.config.schema import OTHER


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledText:
    """A query and where it belongs: a domain, or `OTHER`. `source` names the data set that it came from."""

    id: str
    text: str
    label: str
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterTexts:
    """All texts of a router. No two parts hold the same text, or nearly the same.

    `labels` are the domains in the order of the experiment, then `OTHER` if the router learns it. `train` fits the
    weights; `validation` ends training and sets temperatures and threshold; `test` is looked at once, afterwards.
    `out_of_domain` are queries of no domain, by set, that the router is tested against and never sees before.
    """

    labels: tuple[str, ...]
    train: tuple[LabelledText, ...]
    validation: tuple[LabelledText, ...]
    test: tuple[LabelledText, ...]
    out_of_domain: Mapping[str, tuple[LabelledText, ...]]

    @property
    def domains(self) -> tuple[str, ...]:
        return tuple(label for label in self.labels if label != OTHER)


def codes(texts: Sequence[LabelledText], labels: Sequence[str]) -> list[int]:
    """The place of each text's label among `labels`."""
    places = {label: at for at, label in enumerate(labels)}
    return [places[text.label] for text in texts]


Reason = Literal[
    "empty", "of the run", "nearly of the run", "two labels", "duplicate", "near duplicate", "over the limit"
]

REASONS: Mapping[Reason, str] = {
    "empty": "nothing but space",
    "of the run": "an example that the run evaluates, or the same text",
    "nearly of the run": "nearly the text of such an example",
    "two labels": "the same text has another label elsewhere",
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
