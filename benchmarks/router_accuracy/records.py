"""What was measured, as it stands in the results file: a long run is done part by part, and printed from there."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from moe_ray.errors import DataError, first_line
from moe_ray.files import StoredRecord, write_text_atomically
from moe_ray.routing.files import RouterTestResults
from moe_ray.texts.labelled import SourceReport


class CleanedSource(StoredRecord):
    """A source of texts: how many records it has, how many are used, and why others are not."""

    name: str
    label: str
    num_records: int
    num_kept: int
    dropped: dict[str, int]


class Share(StoredRecord):
    """Of n texts, how many were given their own label."""

    num_right: int
    n: int


class Verdict(StoredRecord):
    """What a router said of one test text. `confidence` is the probability of `predicted`."""

    id: str
    source: str
    label: str
    predicted: str
    confidence: float
    num_words: int


class RunRecord(StoredRecord):
    """One router trained and tested once. `by_source`: its test texts; `extra`: other texts, by label.

    `settings` are its section of an experiment, without the paths.
    """

    part: str
    case: str
    router: str
    settings: dict[str, Any]
    results: RouterTestResults
    by_source: dict[str, Share]
    extra: dict[str, Share]
    verdicts: list[Verdict]
    wall_s: float


class Measurements(StoredRecord):
    """Everything that was measured, by "part/case/router", and the corpora that it was measured on."""

    machine: str
    limits: dict[str, int | None]
    corpora: dict[str, list[CleanedSource]]
    runs: dict[str, RunRecord]


def key_of(part: str, case: str, router: str) -> str:
    """Return the place of a run among the measurements."""
    return f"{part}/{case}/{router}"


def cleaned_sources(reports: Sequence[SourceReport]) -> list[CleanedSource]:
    """Return the reports as they are kept."""
    return [
        CleanedSource(
            name=report.name,
            label=report.label,
            num_records=report.num_records,
            num_kept=report.num_kept,
            dropped={str(reason): num for reason, num in report.dropped.items()},
        )
        for report in reports
    ]


def read_measurements(path: Path) -> Measurements | None:
    """Read a results file; None when there is none. Raises `DataError` for one that another version wrote."""
    if not path.is_file():
        return None
    try:
        return Measurements.model_validate_json(path.read_text(encoding="utf-8"))
    except ValidationError as error:
        raise DataError(
            f"no results of this command: {first_line(error)}", where=str(path), remedy="name another --out"
        ) from error


def write_measurements(path: Path, measured: Measurements) -> None:
    """Write the results file, whole or not at all."""
    write_text_atomically(path, json.dumps(measured.model_dump(mode="json"), indent=1) + "\n")
