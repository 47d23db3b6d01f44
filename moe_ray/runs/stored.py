"""A stored run, loaded to grade its answers again."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from moe_ray.config.load import LoadedExperiment, load_experiment
from moe_ray.config.schema import ExperimentConfig, SandboxConfig
from moe_ray.domains.example import Example
from moe_ray.domains.loading import importable, make_task
from moe_ray.errors import ConfigError, RunDirectoryError
from moe_ray.fingerprint import fingerprint
from moe_ray.planning.plan import Asked, all_cells, single_cells
from moe_ray.prompts.reasoning import ReasoningSplitter, splitter_of
from moe_ray.runs.preparation import make_all_graders, wanted_pairs
from moe_ray.runs.router_query import asked_by_routing
from moe_ray.scoring.grade import DomainWork
from moe_ray.scoring.registry import is_own_code
from moe_ray.scoring.score import Grader
from moe_ray.store.answers import GRADED_COLUMNS, Answer, from_table
from moe_ray.store.owners import RANKING_COLUMNS, model_identities, one_row_for_each_key, twins_of
from moe_ray.store.records import Manifest, versions
from moe_ray.store.run_directory import RunDirectory

# What a program may use where nothing but the run directory says so.
MAX_MEMORY_MIB = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRun:
    """A run directory read back: enough to grade its answers again, a domain and a model at a time.

    `grader_names` are by domain; the files that they name lie below `base_dir`.
    """

    run: RunDirectory
    config: ExperimentConfig
    manifest: Manifest
    grader_names: Mapping[str, Sequence[str]]
    base_dir: Path

    def graders(self) -> dict[str, Sequence[Grader]]:
        """The graders of this run, by domain."""
        return make_all_graders(self.config, self.grader_names, self.base_dir)

    def work(self, graders: Mapping[str, Sequence[Grader]]) -> Iterator[DomainWork]:
        """What is to be graded, domain by domain.

        The models of a domain are those with answers there, and those that were given up, under any name. Their
        answers are those to this experiment's cells, which their keys tell, whoever computed them; those of an
        earlier, larger or other experiment are left out.
        """
        routes = self.run.routes() if self.config.router else None
        asked = {} if routes is None else asked_by_routing(self.config, routes)
        for domain in self.config.domains:
            of_domain = {model: ids for (name, model), ids in asked.items() if name == domain}
            yield self._domain_work(domain, graders[domain], of_domain)

    def _domain_work(self, domain: str, graders: Sequence[Grader], asked: Mapping[str, Collection[str]]) -> DomainWork:
        examples = self.run.examples(domain)
        wanted = self._wanted(domain, examples, {(domain, model): ids for model, ids in asked.items()})
        stored_under = self._stored_under(domain, wanted)
        twins = twins_of(self.manifest)
        given_up = {name for entry in self.manifest.given_up for name in twins.get(entry.model, ())}
        models = (*self.config.models_of(domain), *asked)

        def answers_of(model: str) -> list[Answer]:
            splitter = splitter_of(self.config.models[model])
            where = (pc.field("domain") == domain) & pc.field("model").isin(
                pa.array(sorted(stored_under[model]), pa.string())
            )
            columns = dict.fromkeys((*GRADED_COLUMNS, *RANKING_COLUMNS))
            stored = from_table(one_row_for_each_key(self.run.answers_table(list(columns), where)))
            return [with_reasoning_apart(answer, splitter) for answer in stored if answer.key in wanted[model]]

        return DomainWork(
            examples=examples,
            graders=graders,
            models=[model for model in models if stored_under[model] or model in given_up],
            answers_of=answers_of,
            asked=asked,
        )

    def _wanted(self, domain: str, examples: Sequence[Example], asked: Asked) -> dict[str, set[str]]:
        """The keys of the cells that each model wants."""
        identities = model_identities(self.manifest)
        of_matrix = all_cells(self.config, {domain: examples}, identities, wanted_pairs(self.config, None))
        of_router = single_cells(self.config, {domain: examples}, identities, asked)
        wanted: defaultdict[str, set[str]] = defaultdict(set)
        for cell in (*of_matrix, *of_router):
            wanted[cell.model].add(cell.key)
        return wanted

    def _stored_under(self, domain: str, wanted: Mapping[str, set[str]]) -> dict[str, set[str]]:
        """The names under which the wanted answers of each model are stored: of those that computed them."""
        places = self.run.answers_table(["key", "model"], pc.field("domain") == domain)
        by_name: defaultdict[str, set[str]] = defaultdict(set)
        for key, name in zip(places.column("key").to_pylist(), places.column("model").to_pylist(), strict=True):
            by_name[name].add(key)
        names = (*self.config.models, *wanted)
        return {
            model: {name for name, keys in by_name.items() if not keys.isdisjoint(wanted.get(model, ()))}
            for model in names
        }


def with_reasoning_apart(answer: Answer, splitter: ReasoningSplitter) -> Answer:
    """Return `answer` with the trace moved out of its text, as answers of earlier versions still hold it."""
    if answer.reasoning is not None or answer.text is None:
        return answer
    split = splitter.split(answer.text)
    return answer if split.reasoning is None else replace(answer, text=split.answer, reasoning=split.reasoning)


def grading_fingerprint(run: RunDirectory) -> str:
    """Return a fingerprint of all that the scores follow from: files, experiment, what was given up, software."""
    manifest, config = run.manifest(), load_experiment(run.config_path).config
    return fingerprint(
        {
            "files": run.files_fingerprint(),
            "experiment": config.model_dump(mode="json", exclude={"runtime", "output"}),
            "sandbox": config.runtime.sandbox.model_dump(mode="json", exclude={"num_workers"}),
            "graders": _stored_names(run, manifest, config),
            "grader_code": {domain: manifest.domains[domain].get("grader_code", {}) for domain in config.domains},
            "given_up": sorted({entry.model for entry in manifest.given_up}),
            "versions": versions(),
        }
    )


def load_run(
    run: RunDirectory,
    *,
    experiment: LoadedExperiment | None = None,
    trust: bool = False,
    allow_weak_sandbox: bool = False,
) -> StoredRun:
    """Read a run directory back, to grade its answers.

    A run directory is data and may be somebody else's. Code of one's own, and the limits of the sandbox, come from the
    user's `experiment`, or from the directory when the user trusts it; `allow_weak` never comes from the directory.

    Raises `RunDirectoryError` when there is no run, or when it names code without being trusted.
    """
    manifest, config = run.manifest(), load_experiment(run.config_path).config
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
    return StoredRun(run=run, manifest=manifest, config=config, grader_names=names, base_dir=base_dir)


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
    """The sandbox's limits, as far as a directory may ask for them: no more workers than this machine would take."""
    if sandbox.memory_mib > MAX_MEMORY_MIB:
        raise RunDirectoryError(
            f"this run lets each program use {sandbox.memory_mib} MiB of memory, more than {MAX_MEMORY_MIB} MiB",
            where=str(run.path),
            remedy="add --experiment FILE to take the limits from your own experiment file, or --trust",
        )
    return sandbox.model_copy(update={"num_workers": "auto"})
