"""What a run has to compute: the cells that its matrix and its router ask for, less those that are done."""

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from heapq import nsmallest

from moe_ray.checkpoints.identity import Checkpoint, ModelIdentity
from moe_ray.config.load import LoadedExperiment
from moe_ray.config.schema import ExperimentConfig
from moe_ray.domains.example import Example
from moe_ray.domains.loading import LoadedDomain
from moe_ray.engines.registry import settings_class
from moe_ray.errors import ConfigError
from moe_ray.fingerprint import fingerprint
from moe_ray.planning.cells import Cell
from moe_ray.planning.plan import Asked, Workload, all_cells, plan_work, single_cells
from moe_ray.runs.inputs import Inputs, read_inputs
from moe_ray.store.routes import Routes
from moe_ray.store.run_directory import RunDirectory

BASELINE, EXPERTS = "baseline", "experts"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """The inputs of a run and its work, restricted by `only`: "baseline", "experts", a domain, or None for all.

    `cells` are the matrix's; `work` has those that the `routes` ask for beside them. `done` are the keys of all stored
    answers, including those that are no longer wanted.
    """

    inputs: Inputs
    only: str | None
    cells: tuple[Cell, ...]
    done: frozenset[str]
    work: Workload
    routes: Routes | None = None

    @property
    def run(self) -> RunDirectory:
        return self.inputs.run

    @property
    def domains(self) -> Mapping[str, LoadedDomain]:
        return self.inputs.domains

    @property
    def checkpoints(self) -> Mapping[str, Checkpoint]:
        return self.inputs.checkpoints

    @property
    def examples(self) -> dict[str, tuple[Example, ...]]:
        """The examples of the run, by domain."""
        return self.inputs.examples

    @property
    def changes(self) -> tuple[str, ...]:
        return self.inputs.changes

    def totals(self) -> dict[str, tuple[int, int]]:
        """Cells done and in all, by the model that computes them."""
        totals: dict[str, tuple[int, int]] = {}
        for (model, _, _), counts in self.work.counts().items():
            done, total = totals.get(model, (0, 0))
            totals[model] = (done + counts.done, total + counts.total - counts.num_shared)
        return totals


def prepare(experiment: LoadedExperiment, *, only: str | None = None, assume_unreachable: bool = False) -> Prepared:
    """Read the inputs, and find out what is left to do. Starts nothing, writes nothing but caches.

    See `read_inputs` for `assume_unreachable`. Raises one `UserError` of all that is wrong.
    """
    config = experiment.config
    pairs = wanted_pairs(config, only)
    inputs = read_inputs(experiment, assume_unreachable=assume_unreachable)
    cells = tuple(all_cells(config, inputs.examples, inputs.identities, pairs))
    done = inputs.run.done_keys()
    prepared = Prepared(inputs=inputs, only=only, cells=cells, done=done, work=plan_work(config, cells, done))
    routes = inputs.run.routes() if config.router else None
    return prepared if routes is None else with_routes(prepared, routes)


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


def asked_by_routing(config: ExperimentConfig, routes: Routes) -> Asked:
    """Return the examples that `routes` sends to a model that the matrix does not assign their domain.

    A domain without an expert is the baseline's, which answers everything. The cascade asks nothing more: it turns
    some of these examples to the baseline.
    """
    experts = [config.domains[name].expert if name in config.domains else None for name in routes.domains]
    assigned = {domain: frozenset(config.models_of(domain)) for domain in config.domains}
    asked: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for domain, example_id, chosen in zip(routes.example_domains, routes.example_ids, routes.chosen, strict=True):
        expert = experts[chosen]
        if domain in assigned and expert is not None and expert not in assigned[domain]:
            asked[domain, expert].add(example_id)
    return {place: frozenset(asked[place]) for place in sorted(asked)}


def with_routes(prepared: Prepared, routes: Routes) -> Prepared:
    """Return `prepared` with the cells that `routes` asks for beside the matrix's, restricted by `only`."""
    inputs, config = prepared.inputs, prepared.inputs.config
    asked = {
        (domain, model): ids
        for (domain, model), ids in asked_by_routing(config, routes).items()
        if prepared.only in (None, EXPERTS, domain)
    }
    added = single_cells(config, inputs.examples, inputs.identities, asked)
    work = plan_work(config, prepared.cells, prepared.done, added=added)
    return replace(prepared, routes=routes, work=work)


def with_done(prepared: Prepared, keys: Collection[str]) -> Prepared:
    """Return `prepared` with the cells of these keys done."""
    if not keys:
        return prepared
    added = prepared.work.cells[len(prepared.cells) :]
    done = prepared.done.union(keys)
    return replace(prepared, done=done, work=plan_work(prepared.inputs.config, prepared.cells, done, added=added))


def missing_keys(prepared: Prepared) -> dict[str, ModelIdentity]:
    """Return the keys of the cells that are not done, with the model that each asks."""
    work = prepared.work
    return {cell.key: prepared.checkpoints[cell.model].identity for cell in work.cells if cell.key not in work.done}


def wanted_cells(prepared: Prepared) -> tuple[Cell, ...]:
    """Return all cells that the experiment wants, also those that `only` leaves out."""
    if prepared.only is None:
        return prepared.work.cells
    inputs, config = prepared.inputs, prepared.inputs.config
    asked = {} if prepared.routes is None else asked_by_routing(config, prepared.routes)
    return (
        *all_cells(config, inputs.examples, inputs.identities, wanted_pairs(config, None)),
        *single_cells(config, inputs.examples, inputs.identities, asked),
    )


def probe_cells(prepared: Prepared) -> dict[str, list[Cell]]:
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
    number = prepared.inputs.config.runtime.probe_examples
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
