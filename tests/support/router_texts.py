"""Reads the files that `moe-ray router data` writes."""

from collections.abc import Sequence
from pathlib import Path

from moe_ray.config.schema import OTHER
from moe_ray.domains.sources import read_file, read_json
from moe_ray.errors import DataError
from moe_ray.texts.labelled import (
    OLD_OUT_OF_DOMAIN_DIR,
    OUT_OF_DOMAIN_DIR,
    REPORT_FILE,
    TEST_FILE,
    TRAIN_FILE,
    LabelledText,
    RouterTexts,
)

_KEYS = ("id", "text", "label", "source")
_REMEDY = "write the files again: moe-ray router data FILE"


def read_texts_files(directory: Path) -> RouterTexts:
    """Read the texts back that `write_texts_files` wrote. Raises `DataError` naming what is missing or malformed."""
    path = directory / REPORT_FILE
    report = read_json(path)
    apart = OLD_OUT_OF_DOMAIN_DIR if isinstance(report, dict) and OLD_OUT_OF_DOMAIN_DIR in report else OUT_OF_DOMAIN_DIR
    if not (isinstance(report, dict) and _are_texts(report.get("labels")) and isinstance(report.get(apart), dict)):
        raise DataError("does not name labels and out-of-domain sets", where=str(path), remedy=_REMEDY)
    labels = tuple(report["labels"])
    train = _read(directory / TRAIN_FILE, labels, ("train", "validation"))
    out_of_domain = {name: _read(directory / apart / f"{name}.json", (OTHER,), ("test",)) for name in report[apart]}
    return RouterTexts(
        labels=labels,
        train=train["train"],
        validation=train["validation"],
        test=_read(directory / TEST_FILE, labels, ("test",))["test"],
        out_of_domain={name: splits["test"] for name, splits in out_of_domain.items()},
    )


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


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
