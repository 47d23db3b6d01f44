"""Labelled texts, the report of dropped texts, and a router's texts as JSON files.

The files hold lists of objects with id, text, label, source and split:

classifier_train.json   training and validation texts (split "train" and "validation")
classifier_test.json    test texts
out_of_domain/SET.json  each out-of-domain set
data_report.json        the labels in order, and the report
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from moe_ray.config.schema import OTHER
from moe_ray.fingerprint import fingerprint


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledText:
    """A query and its label: a domain, or `OTHER`. `source` is the name of its data set."""

    id: str
    text: str
    label: str
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterTexts:
    """All texts of a router, without near duplicates across parts.

    `labels` are the domains in the order of the experiment, then `OTHER` if the router learns it. `train` fits the
    weights; `validation` stops training and sets temperatures and threshold; `test` is used once, afterwards.
    `out_of_domain` are out-of-domain queries, by set, that are used for testing only.
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
    """Return the index of each text's label in `labels`."""
    indices = {label: index for index, label in enumerate(labels)}
    return [indices[text.label] for text in texts]


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
    """The report on one source of texts: a domain, or an out-of-domain set.

    `num_records` counts the records that the task accepts; each is in `num_kept` or, by its reason, in `dropped`.
    """

    name: str
    label: str
    use: Literal["train", "test"]
    num_records: int
    num_kept: int
    dropped: Mapping[Reason, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class DataReport:
    """All sources of a router's texts. `num_unbalanced`: texts that balance "downsample" dropped, by label."""

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


TRAIN_FILE = "classifier_train.json"
TEST_FILE = "classifier_test.json"
REPORT_FILE = "data_report.json"
OUT_OF_DOMAIN_DIR = "out_of_domain"
OLD_OUT_OF_DOMAIN_DIR = "foreign"  # the name of earlier versions, for the folder and for the key of the report


def texts_fingerprint(texts: RouterTexts) -> str:
    """Return the fingerprint of a router's training and test data: ids, texts and labels, in order.

    Sources are excluded.
    """
    groups = [*splits_of(texts), *texts.out_of_domain.items()]
    parts = [[name, [[text.id, text.text, text.label] for text in group]] for name, group in groups]
    return fingerprint({"labels": texts.labels, "parts": parts})


def write_texts_files(directory: Path, texts: RouterTexts, report: DataReport) -> None:
    """Write the files of `texts` into an existing, empty directory."""
    train = [*_records(texts.train, "train"), *_records(texts.validation, "validation")]
    _write(directory / TRAIN_FILE, train)
    _write(directory / TEST_FILE, _records(texts.test, "test"))
    (directory / OUT_OF_DOMAIN_DIR).mkdir()
    for name, group in texts.out_of_domain.items():
        _write(directory / OUT_OF_DOMAIN_DIR / f"{name}.json", _records(group, "test"))
    content = {
        "labels": texts.labels,
        "num_texts": split_counts(texts),
        OUT_OF_DOMAIN_DIR: {name: len(group) for name, group in texts.out_of_domain.items()},
        **report.as_json(),
    }
    _write(directory / REPORT_FILE, content)


def _records(texts: Iterable[LabelledText], split: str) -> list[dict[str, str]]:
    return [{**asdict(text), "split": split} for text in texts]


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
