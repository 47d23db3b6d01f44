"""The results of a run directory, as Arrow tables and pandas DataFrames."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
from pydantic import ValidationError

from moe_ray.comparison.records import Summary
from moe_ray.domains.example import Example
from moe_ray.errors import RunDirectoryError, UserError, first_line
from moe_ray.files import read_bytes
from moe_ray.scoring.score import read_scores
from moe_ray.store.answers import ANSWER_SCHEMA
from moe_ray.store.owners import find_owners
from moe_ray.store.records import Manifest
from moe_ray.store.routes import ROUTE_SCHEMA, routes_to_table
from moe_ray.store.run_directory import RunDirectory

if TYPE_CHECKING:
    import pandas as pd

ANSWER_ORDER = ("domain", "example_id", "model", "kind", "sample_index")
SUMMARY_REMEDY = "moe-ray report RUN writes it again"


class Run:
    """A run directory, opened to read its results. Every access reads the files that are there then.

    `answers`, `scores`, `routes` and `telemetry` return pandas DataFrames; the methods that end in `_table` return
    the same rows as `pyarrow.Table` and need no pandas. docs/reference describes the columns. Reading runs no code
    of the directory and follows no link out of it; a file that is missing or damaged raises `RunDirectoryError`.
    """

    def __init__(self, path: Path | str) -> None:
        self._directory = RunDirectory(Path(path).expanduser())

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @property
    def path(self) -> Path:
        """The run directory."""
        return self._directory.path

    @property
    def report_path(self) -> Path:
        """The HTML report. It is not there before the run was graded."""
        return self._directory.report_path

    @property
    def manifest(self) -> Manifest:
        """What the run was made from: models, domains, prompts, versions, hardware, sessions."""
        return self._directory.manifest()

    @property
    def summary(self) -> Summary:
        """What the run concluded: the content of summary.json."""
        path = self._directory.summary_path
        try:
            return Summary.model_validate_json(read_bytes(path))
        except FileNotFoundError as error:
            raise RunDirectoryError("has no summary yet", where=str(path), remedy=SUMMARY_REMEDY) from error
        except (OSError, ValidationError) as error:
            what = f"cannot be read: {first_line(error)}"
            raise RunDirectoryError(what, where=str(path), remedy=SUMMARY_REMEDY) from error

    @property
    def domains(self) -> tuple[str, ...]:
        """The names of its domains."""
        return tuple(self.manifest.domains)

    def examples(self, domain: str) -> list[Example]:
        """The examples of a domain, in the order of the run."""
        if domain not in self.domains:
            raise RunDirectoryError(
                f"no domain {domain!r}", where=str(self.path), remedy=f"choose one of {', '.join(self.domains)}"
            )
        return self._directory.examples(domain)

    def answers_table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """One row per model and cell, ordered by domain, example, model, kind and sample; some columns or all.

        `model` is the name that the run gives the model, whatever its name was when the answer was computed.
        """
        wanted = list(ANSWER_SCHEMA.names if columns is None else columns)
        if unknown := [name for name in wanted if name not in ANSWER_SCHEMA.names]:
            raise UserError(
                f"answers have no column {unknown[0]!r}", remedy=f"choose from {', '.join(ANSWER_SCHEMA.names)}"
            )
        found = find_owners(self._directory, self.manifest).answers(list(dict.fromkeys([*wanted, *ANSWER_ORDER])))
        return found.sort_by([(name, "ascending") for name in ANSWER_ORDER]).select(wanted)

    def scores_table(self) -> pa.Table:
        """One row per model, example, sample and metric, as the graders gave it."""
        return read_scores(self._directory.scores_path)[0]

    def routes_table(self) -> pa.Table:
        """One row per example that the router was asked for; no rows in a run without a router."""
        routes = self._directory.routes()
        return ROUTE_SCHEMA.empty_table() if routes is None else routes_to_table(routes)

    def telemetry_table(self) -> pa.Table:
        """One row per replica, oldest first: where it ran, how long, and the memory and energy that it took."""
        records = find_owners(self._directory, self.manifest).telemetry()
        return pa.Table.from_pylist([record.model_dump(mode="json") for record in records])

    def answers(self, columns: Sequence[str] | None = None) -> "pd.DataFrame":
        """`answers_table` as a DataFrame."""
        return _frame(self.answers_table(columns), "answers")

    def scores(self) -> "pd.DataFrame":
        """`scores_table` as a DataFrame."""
        return _frame(self.scores_table(), "scores")

    def routes(self) -> "pd.DataFrame":
        """`routes_table` as a DataFrame."""
        return _frame(self.routes_table(), "routes")

    def telemetry(self) -> "pd.DataFrame":
        """`telemetry_table` as a DataFrame."""
        return _frame(self.telemetry_table(), "telemetry")


def _frame(table: pa.Table, name: str) -> "pd.DataFrame":
    try:
        return table.to_pandas()
    except ImportError as error:
        raise UserError(
            "pandas is not installed",
            where=f"Run.{name}()",
            remedy=f"pip install pandas, or call {name}_table() for a pyarrow.Table",
        ) from error
