"""Preparation of a run."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from heapq import nsmallest
from pathlib import Path
from typing import Any

import moe_ray.scoring.registry as grading
from moe_ray.checkpoints.identity import Checkpoint, FileHashes, ModelIdentity, inspect_checkpoint
from moe_ray.checkpoints.tokenizer_files import require_tokenizer
from moe_ray.config.checks import chats, unused_template
from moe_ray.config.dump import dump_experiment
from moe_ray.config.identity import identity
from moe_ray.config.load import LoadedExperiment
from moe_ray.config.schema import ExperimentConfig, PromptStyle
from moe_ray.domains.example import Example
from moe_ray.domains.loading import LoadedDomain, assume_domain, load_domain
from moe_ray.engines.registry import require_checkpoint, settings_class, text_settings, validate_engine
from moe_ray.errors import ConfigError, OfflineError, Problems, UserError
from moe_ray.fingerprint import fingerprint
from moe_ray.planning.cells import Cell
from moe_ray.planning.plan import Workload, all_cells, plan_work, single_cells
from moe_ray.runs.router_query import asked_by_routing
from moe_ray.scoring.score import ExampleChecker, Grader
from moe_ray.store.opening import RunFacts, open_manifest
from moe_ray.store.records import Manifest
from moe_ray.store.reuse import data_changes
from moe_ray.store.routes import Routes
from moe_ray.store.run_directory import RunDirectory

BASELINE, EXPERTS = "baseline", "experts"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """An experiment with its data, its checkpoints, its run directory and the work that is left.

    `cells` are the matrix's; `work` has those that the router asks for beside them. `changes` says in sentences what
    became of the data since the run's last session.
    """

    domains: Mapping[str, LoadedDomain]
    checkpoints: Mapping[str, Checkpoint]
    run: RunDirectory
    cells: tuple[Cell, ...]
    work: Workload
    changes: tuple[str, ...] = ()

    @property
    def examples(self) -> dict[str, tuple[Example, ...]]:
        """The examples of the run, by domain."""
        return {name: domain.examples for name, domain in self.domains.items()}

    def totals(self) -> dict[str, tuple[int, int]]:
        """Cells done and in all, by the model that computes them."""
        totals: dict[str, tuple[int, int]] = {}
        for (model, _, _), counts in self.work.counts().items():
            done, total = totals.get(model, (0, 0))
            totals[model] = (done + counts.done, total + counts.total - counts.num_shared)
        return totals


def prepare(experiment: LoadedExperiment, *, only: str | None = None, assume_unreachable: bool = False) -> Prepared:
    """Read data and checkpoints, and find out what is left to do. Starts nothing, writes nothing but caches.

    `only` limits the work to "baseline", "experts" or one domain. With `assume_unreachable`, data sets on a hub that
    cannot be reached are replaced by made-up ones: enough for a plan. Raises one `UserError` of all that is wrong.
    """
    with located(experiment):
        return _prepare(experiment, only, assume_unreachable)


@contextmanager
def located(experiment: LoadedExperiment) -> Iterator[None]:
    """Put the file and the line on an error that names a key of the experiment."""
    try:
        yield
    except UserError as error:
        if error.where and error.where.startswith(("models.", "domains.", "router.", "runtime.")):
            error.where = experiment.where(error.where)
        raise


def _prepare(experiment: LoadedExperiment, only: str | None, assume_unreachable: bool) -> Prepared:
    config, problems = experiment.config, Problems()
    wanted = wanted_pairs(config, only)
    domains = _load_domains(experiment, problems, assume_unreachable)
    checkpoints = _inspect_checkpoints(experiment, problems)
    problems.raise_if_any()
    run = RunDirectory(config.output.results_dir / config.name)
    examples = {name: domain.examples for name, domain in domains.items()}
    identities = {name: checkpoint.identity for name, checkpoint in checkpoints.items()}
    cells = tuple(all_cells(config, examples, identities, wanted))
    work = plan_work(config, cells, run.done_keys())
    changes = data_changes(run, examples, {name: domain.data_fingerprint for name, domain in domains.items()})
    prepared = Prepared(
        domains=domains, checkpoints=checkpoints, run=run, cells=cells, work=work, changes=tuple(changes)
    )
    routes = run.routes() if config.router else None
    return prepared if routes is None else with_routes(config, prepared, routes, only)


def _load_domains(
    experiment: LoadedExperiment, problems: Problems, assume_unreachable: bool
) -> dict[str, LoadedDomain]:
    domains: dict[str, LoadedDomain] = {}
    for name, domain in experiment.config.domains.items():
        with problems.gathered(), located(experiment):
            try:
                domains[name] = load_domain(name, domain, experiment.base_dir)
            except OfflineError:
                if not assume_unreachable:
                    raise
                domains[name] = assume_domain(name, domain, experiment.base_dir)
            domains[name] = _with_template_note(name, experiment.config, domains[name])
            grading.check_grader_names(domains[name].graders, where=f"domains.{name}.graders", domain=domain)
    return domains


def _with_template_note(name: str, config: ExperimentConfig, domain: LoadedDomain) -> LoadedDomain:
    """Refuse a template that no model of the domain is asked with; note one that some are not asked with."""
    unused = unused_template(name, config)
    if unused is None:
        return domain
    if not chats(name, config):
        raise ConfigError(
            unused,
            where=f"domains.{name}.prompt.template",
            remedy="write it as prompt.completion_template, the whole text of the completion style",
        )
    return replace(domain, notes=(*domain.notes, f"{name}: {unused}."))


def _inspect_checkpoints(experiment: LoadedExperiment, problems: Problems) -> dict[str, Checkpoint]:
    hashes = FileHashes()
    checkpoints: dict[str, Checkpoint] = {}
    for name, model in experiment.config.models.items():
        with problems.gathered(), located(experiment):
            with _within_model(name):
                validate_engine(model)
            checkpoints[name] = inspect_checkpoint(name, model, hashes)
            with _within_model(name):
                require_checkpoint(model, checkpoints[name].config)
            require_tokenizer(name, model)
    hashes.save()
    return checkpoints


def with_routes(config: ExperimentConfig, prepared: Prepared, routes: Routes, only: str | None) -> Prepared:
    """Return `prepared` with the cells that `routes` asks for beside the matrix's, as far as `only` lets them."""
    asked = {
        (domain, model): ids
        for (domain, model), ids in asked_by_routing(config, routes).items()
        if only in (None, EXPERTS, domain)
    }
    identities = {name: checkpoint.identity for name, checkpoint in prepared.checkpoints.items()}
    added = single_cells(config, prepared.examples, identities, asked)
    return replace(prepared, work=plan_work(config, prepared.cells, prepared.run.done_keys(), added=added))


def wanted_keys(prepared: Prepared) -> dict[str, ModelIdentity]:
    """Return the keys of the cells that are not done, with the model that each asks."""
    work = prepared.work
    return {cell.key: prepared.checkpoints[cell.model].identity for cell in work.cells if cell.key not in work.done}


def with_done(config: ExperimentConfig, prepared: Prepared, keys: Collection[str]) -> Prepared:
    """Return `prepared` with the cells of these keys done."""
    if not keys:
        return prepared
    added = prepared.work.cells[len(prepared.cells) :]
    return replace(prepared, work=plan_work(config, prepared.cells, prepared.work.done.union(keys), added=added))


@contextmanager
def _within_model(name: str) -> Iterator[None]:
    """Name the model's section in a `ConfigError` that names a key within it."""
    try:
        yield
    except ConfigError as error:
        error.where = f"models.{name}.{error.where}"
        raise


def wanted_pairs(config: ExperimentConfig, only: str | None) -> frozenset[tuple[str, str]]:
    """Return the (domain, model) pairs that `only` leaves."""
    pairs = [(domain, model) for domain in config.domains for model in config.models_of(domain)]
    if only is None:
        return frozenset(pairs)
    if only == BASELINE:
        chosen = [pair for pair in pairs if pair[1] == config.baseline]
    elif only == EXPERTS:
        chosen = [pair for pair in pairs if pair[1] == config.domains[pair[0]].expert]
    else:
        chosen = [pair for pair in pairs if pair[0] == only]
    if not chosen:
        raise ConfigError(
            f"{only!r} leaves nothing to do",
            where="--only",
            remedy=f"choose {BASELINE}, {EXPERTS} or a domain: {', '.join(config.domains)}",
        )
    return frozenset(chosen)


def begin(experiment: LoadedExperiment, prepared: Prepared) -> Manifest:
    """Write down what the run is (config, manifest, examples), or find that it is the one to resume."""
    config, run = experiment.config, prepared.run
    names = {name: domain.graders for name, domain in prepared.domains.items()}
    graders = make_all_graders(config, names, experiment.base_dir)
    manifest = open_manifest(run, config, _facts(config, prepared))
    if prepared.work.shards:
        with located(experiment):
            _check_examples(prepared, graders)
    run.write_config(dump_experiment(config))
    run.write_manifest(manifest)
    for name, domain in prepared.domains.items():
        run.write_examples(name, domain.examples)
    return manifest


def _check_examples(prepared: Prepared, graders: Mapping[str, Sequence[Grader]]) -> None:
    """Let graders refuse examples that they could not judge. The controls of programs cost sandbox time."""
    for name, domain in prepared.domains.items():
        for grader in graders[name]:
            if isinstance(grader, ExampleChecker):
                grader.check_examples(domain.examples)


def run_identity(config: ExperimentConfig, checkpoints: Mapping[str, Checkpoint]) -> dict[str, Any]:
    """Return what decides the run's answers, as its manifest keeps it."""
    fingerprints = {name: checkpoint.identity.fingerprint for name, checkpoint in checkpoints.items()}
    return identity(config, text_settings=text_settings, model_fingerprints=fingerprints)


def _facts(config: ExperimentConfig, prepared: Prepared) -> RunFacts:
    notes = [note for model in config.models.values() for note in model.notes]
    notes += [
        note for name, domain in config.domains.items() for note in (*domain.notes, *prepared.domains[name].notes)
    ]
    return RunFacts(
        identity=run_identity(config, prepared.checkpoints),
        models={name: _model_record(config, checkpoint) for name, checkpoint in prepared.checkpoints.items()},
        domains={
            name: {
                **domain.data_fingerprint,
                "graders": list(domain.graders),
                "grader_settings": grading.settings_of(domain.graders, config.domains[name]),
                "grader_code": grading.code_of(domain.graders),
                "notes": [*config.domains[name].notes, *domain.notes],
            }
            for name, domain in prepared.domains.items()
        },
        prompts={name: _prompt_record(config, name, domain.examples) for name, domain in prepared.domains.items()},
        sandbox=sandbox_record(config, {name: domain.graders for name, domain in prepared.domains.items()}),
        notes=tuple(dict.fromkeys(notes)),
        changes=prepared.changes,
    )


def _model_record(config: ExperimentConfig, checkpoint: Checkpoint) -> dict[str, Any]:
    model = config.models[checkpoint.name]
    return {
        **model.model_dump(mode="json"),
        "fingerprint": checkpoint.identity.fingerprint,
        "resolved_revision": checkpoint.revision,
        "num_parameters": checkpoint.num_parameters,
        "size_source": checkpoint.size_source,
        "files_sha256": dict(checkpoint.files_sha256),
    }


def _prompt_record(config: ExperimentConfig, domain: str, examples: Sequence[Example]) -> dict[str, Any]:
    """One rendered prompt for each style that is used: a reader sees what was really asked."""
    styles: dict[PromptStyle, None] = {config.models[model].prompt_style: None for model in config.models_of(domain)}
    return {style: {"example": examples[0].id, **asdict(examples[0].prompts[style])} for style in styles}


def probe_cells(config: ExperimentConfig, prepared: Prepared) -> dict[str, list[Cell]]:
    """Return the cells of the batch-size-1 probe, by model; none for a model that was probed in an earlier session.

    A probe counts for the model under any name; telemetry of earlier versions knows a model by its name alone.
    """
    records = [record for record in prepared.run.telemetry() if record.probe]
    identities = {record.identity for record in records}
    probed = {name for name, checkpoint in prepared.checkpoints.items() if checkpoint.identity.key in identities}
    probed |= {record.model for record in records if record.identity is None}
    by_model: dict[str, list[Cell]] = {}
    for cell in prepared.work.cells:
        if cell.kind == "generate" and cell.sample_index == 0 and cell.model not in probed:
            by_model.setdefault(cell.model, []).append(cell)
    number = config.runtime.probe_examples
    return {
        model: nsmallest(number, cells, key=lambda cell: fingerprint(cell.example_id))
        for model, cells in by_model.items()
    }


def pinned(config: ExperimentConfig, checkpoints: Mapping[str, Checkpoint]) -> ExperimentConfig:
    """Return `config` with each hub model at the commit that was inspected: its branch may move before it is loaded."""
    commits = {
        name: checkpoints[name].revision
        for name, model in config.models.items()
        if settings_class(model.engine).loads_checkpoint
    }
    models = {
        name: model.model_copy(update={"revision": commits[name]}) if commits.get(name) else model
        for name, model in config.models.items()
    }
    return config.model_copy(update={"models": models})


def hardware_record(hardware: Mapping[str, Any]) -> dict[str, Any]:
    """The nodes of a session, as JSON."""
    return {node: asdict(record) for node, record in hardware.items()}


def make_all_graders(
    config: ExperimentConfig, names: Mapping[str, Sequence[str]], base_dir: Path
) -> dict[str, Sequence[Grader]]:
    """Return the graders of every domain; raises `ConfigError` for a name that is none."""
    return {
        domain: grading.make_graders(
            graders,
            config.domains[domain],
            config.decoding,
            config.runtime.sandbox,
            base_dir=base_dir,
            where=f"domains.{domain}.graders",
            likelihood=config.likelihood,
        )
        for domain, graders in names.items()
    }


def sandbox_record(config: ExperimentConfig, graders: Mapping[str, Sequence[str]]) -> dict[str, Any] | None:
    """Open the sandbox if one of the `graders` (names, by domain) will need it, and say which protections it has.

    Raises `SandboxError` when one is lacking that the experiment did not give up: before any model works, not later.
    """
    if not any("code" in names for names in graders.values()):
        return None
    from moe_ray.scoring.sandbox import shared_sandbox

    return shared_sandbox(config.runtime.sandbox).describe()
