"""A run directory read back: its results as tables, and what grading its answers again needs."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
from pydantic import ValidationError

from moe_ray.comparison.records import Summary
from moe_ray.config.load import LoadedExperiment, load_experiment
from moe_ray.config.schema import ExperimentConfig, SandboxConfig
from moe_ray.domains.example import Example
from moe_ray.domains.loading import importable, make_task
from moe_ray.errors import ConfigError, RunDirectoryError, UserError, first_line
from moe_ray.files import read_bytes
from moe_ray.runs.grading import StoredRun, make_all_graders, stored_keys
from moe_ray.scoring.registry import is_own_code
from moe_ray.scoring.score import read_scores
from moe_ray.store.answers import ANSWER_SCHEMA
from moe_ray.store.records import Manifest
from moe_ray.store.reuse import find_owners
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


# What a program may use where nothing but the run directory says so.
MAX_MEMORY_MIB = 8192


def load_run(
    run: RunDirectory,
    *,
    experiment: LoadedExperiment | None = None,
    trust: bool = False,
    allow_weak_sandbox: bool = False,
) -> StoredRun:
    """Read a run directory back, to grade its answers.

    A run directory is data of unknown origin. Custom code, and the limits of the sandbox, come from the
    user's `experiment`, or from the directory when the user trusts it; `allow_weak` never comes from the directory.

    Raises `RunDirectoryError` when there is no run, or when it names code without being trusted.
    """
    manifest, config = run.manifest(), load_experiment(run.config_path).config
    written = config
    sandbox = config.runtime.sandbox if experiment is None else experiment.config.runtime.sandbox
    names = _stored_names(run, manifest, config)
    base_dir = run.path
    if experiment is not None:
        config = _with_graders_of(experiment.config, config)
        names = _names_of(experiment, config.domains)
        base_dir = experiment.base_dir
    elif not trust:
        _refuse_own_code(run, names)
        sandbox = _tamed(run, sandbox)
    allow_weak = allow_weak_sandbox or (experiment is not None and sandbox.allow_weak)
    runtime = config.runtime.model_copy(update={"sandbox": sandbox.model_copy(update={"allow_weak": allow_weak})})
    config = config.model_copy(update={"runtime": runtime})
    routes = run.routes() if config.router else None
    return StoredRun(
        run=run,
        config=config,
        written=written if experiment is None else config,
        manifest=manifest,
        grader_names=names,
        graders=make_all_graders(config, names, base_dir),
        routes=routes,
        wanted=stored_keys(config, manifest, routes),
    )


def _stored_names(run: RunDirectory, manifest: Manifest, config: ExperimentConfig) -> dict[str, Sequence[str]]:
    """The graders that the manifest names for each domain of the config."""
    names = {domain: manifest.domains.get(domain, {}).get("graders") for domain in config.domains}
    for domain, graders in names.items():
        if not isinstance(graders, list) or not all(isinstance(name, str) for name in graders):
            raise RunDirectoryError(
                f"names no graders of domain {domain}, which config.yaml has",
                where=str(run.manifest_path),
                remedy="restore both files; moe-ray evaluate writes them again",
            )
    return {domain: graders or () for domain, graders in names.items()}


def _with_graders_of(experiment: ExperimentConfig, config: ExperimentConfig) -> ExperimentConfig:
    """The stored config, with the graders that the user's experiment names for its domains."""
    lacking = [name for name in config.domains if name not in experiment.domains]
    if lacking:
        raise ConfigError(
            f"the experiment has no domain {', '.join(lacking)}, which the run has",
            where="domains",
            remedy="give the experiment file that the run was made from",
        )
    domains = {
        name: domain.model_copy(update={"graders": experiment.domains[name].graders})
        for name, domain in config.domains.items()
    }
    return config.model_copy(update={"domains": domains})


def _names_of(experiment: LoadedExperiment, domains: Iterable[str]) -> dict[str, Sequence[str]]:
    """The graders that the experiment names, or those of the domain's task."""
    found: dict[str, Sequence[str]] = {}
    with importable(experiment.base_dir):
        for name in domains:
            domain = experiment.config.domains[name]
            named = domain.grader_names
            found[name] = make_task(name, domain, experiment.base_dir).default_graders if named is None else named
    return found


def _refuse_own_code(run: RunDirectory, names: Mapping[str, Sequence[str]]) -> None:
    own = [f"{name} ({domain})" for domain, graders in names.items() for name in graders if is_own_code(name)]
    if own:
        raise RunDirectoryError(
            f"this run is graded by code that is not part of moe_ray: {', '.join(own)}",
            where=str(run.path),
            remedy="add --experiment FILE to take the graders from your own experiment file, or --trust to run what "
            "the run directory names",
        )


def _tamed(run: RunDirectory, sandbox: SandboxConfig) -> SandboxConfig:
    """The sandbox's limits that a directory may set: memory up to a maximum, and this machine's number of workers."""
    if sandbox.memory_mib > MAX_MEMORY_MIB:
        raise RunDirectoryError(
            f"this run lets each program use {sandbox.memory_mib} MiB of memory, more than {MAX_MEMORY_MIB} MiB",
            where=str(run.path),
            remedy="add --experiment FILE to take the limits from your own experiment file, or --trust",
        )
    return sandbox.model_copy(update={"num_workers": "auto"})
