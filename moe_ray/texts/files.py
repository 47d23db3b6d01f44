"""A router's texts as JSON files: lists of objects with id, text, label, source and split.

classifier_train.json   the texts that train (split "train") and that validate (split "validation")
classifier_test.json    the texts of the test
out_of_domain/SET.json  each out-of-domain set
data_report.json        the labels in their order, and what became of the records
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from moe_ray.config.schema import OTHER
from moe_ray.domains.sources import read_file, read_json
from moe_ray.errors import DataError
from moe_ray.fingerprint import fingerprint
from moe_ray.texts.labelled import DataReport, LabelledText, RouterTexts, split_counts, splits_of

TRAIN_FILE = "classifier_train.json"
TEST_FILE = "classifier_test.json"
REPORT_FILE = "data_report.json"
OUT_OF_DOMAIN_DIR = "out_of_domain"
OLD_OUT_OF_DOMAIN_DIR = "foreign"  # the name of earlier versions, for the folder and for the key of the report

_KEYS = ("id", "text", "label", "source")
_REMEDY = "write the files again: moe-ray router data FILE"


def texts_fingerprint(texts: RouterTexts) -> str:
    """Return the fingerprint of all that a router learns from and is measured on: ids, texts and labels, in order.

    Where they came from makes no difference.
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
    told = {
        "labels": texts.labels,
        "num_texts": split_counts(texts),
        OUT_OF_DOMAIN_DIR: {name: len(group) for name, group in texts.out_of_domain.items()},
        **report.as_json(),
    }
    _write(directory / REPORT_FILE, told)


def read_texts_files(directory: Path) -> RouterTexts:
    """Read the texts back that `write_texts_files` wrote. Raises `DataError` naming what is missing or malformed."""
    path = directory / REPORT_FILE
    told = read_json(path)
    apart = OLD_OUT_OF_DOMAIN_DIR if isinstance(told, dict) and OLD_OUT_OF_DOMAIN_DIR in told else OUT_OF_DOMAIN_DIR
    if not (isinstance(told, dict) and _are_texts(told.get("labels")) and isinstance(told.get(apart), dict)):
        raise DataError("does not name labels and out-of-domain sets", where=str(path), remedy=_REMEDY)
    labels = tuple(told["labels"])
    train = _read(directory / TRAIN_FILE, labels, ("train", "validation"))
    out_of_domain = {name: _read(directory / apart / f"{name}.json", (OTHER,), ("test",)) for name in told[apart]}
    return RouterTexts(
        labels=labels,
        train=train["train"],
        validation=train["validation"],
        test=_read(directory / TEST_FILE, labels, ("test",))["test"],
        out_of_domain={name: splits["test"] for name, splits in out_of_domain.items()},
    )


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _records(texts: Iterable[LabelledText], split: str) -> list[dict[str, str]]:
    return [{**asdict(text), "split": split} for text in texts]


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def _read(path: Path, labels: Sequence[str], splits: Sequence[str]) -> dict[str, tuple[LabelledText, ...]]:
    """Return the texts of a file by their split."""
    by_split: dict[str, list[LabelledText]] = {split: [] for split in splits}
    allowed = {"label": labels, "split": splits}
    for record in read_file(path):
        wrong = next((key for key in (*_KEYS, "split") if not isinstance(record.get(key), str)), None)
        if wrong is not None:
            raise DataError(f"a record's {wrong} is missing, or no text", where=str(path), remedy=_REMEDY)
        for key, names in allowed.items():
            if record[key] not in names:
                what = f"text {record['id']!r} has the {key} {record[key]!r}, not one of {', '.join(names)}"
                raise DataError(what, where=str(path), remedy=_REMEDY)
        by_split[record["split"]].append(LabelledText(**{key: record[key] for key in _KEYS}))
    return {split: tuple(texts) for split, texts in by_split.items()}
