"""The plan of a run: what is missing, what exists, and which model fits where."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from moe_ray.checkpoints.identity import Checkpoint, ModelIdentity
from moe_ray.config.schema import ExperimentConfig, ModelConfig, RuntimeConfig
from moe_ray.domains.example import Example
from moe_ray.engines.registry import settings_class
from moe_ray.errors import Problems
from moe_ray.planning.cells import Cell, Shard, make_shards, missing_shards
from moe_ray.planning.fleet import Demand, Fleet, demand_of
from moe_ray.planning.keys import CellMaker
from moe_ray.planning.kinds import GENERATE, KINDS, LIKELIHOOD
from moe_ray.planning.memory import GIB, MemoryEstimate, ModelUse, estimate_memory

# Characters of text in a token, for estimates only. English prose has about 4 with the usual vocabularies.
CHARACTERS_PER_TOKEN = 3.5

# (domain, model) -> ids of the examples that the model is asked though the matrix does not assign it that domain.
Asked = Mapping[tuple[str, str], Collection[str]]


class CellCounts(NamedTuple):
    """Cells of one model: how many are done, how many there are, how many of those left another model computes."""

    done: int
    total: int
    num_shared: int

    @property
    def num_to_do(self) -> int:
        return self.total - self.done - self.num_shared


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """All cells of an experiment, and the shards of those that the store lacks.

    Several models may want a cell with the same key (one checkpoint under two names). It is one cell: `computed_by`
    maps each key to the one model that computes it, and its answer counts for every model that wants it.
    """

    cells: tuple[Cell, ...]
    done: frozenset[str]
    shards: tuple[Shard, ...]
    computed_by: Mapping[str, str]

    @property
    def num_to_do(self) -> int:
        return sum(len(shard.cells) for shard in self.shards)

    @property
    def num_cells(self) -> int:
        """The number of cells; one that several models want counts once."""
        return len(self.computed_by)

    def counts(self) -> dict[tuple[str, str, str], CellCounts]:
        """Count the cells that each model wants, by (model, domain, kind), in the order of the experiment."""
        total = Counter((cell.model, cell.domain, cell.kind) for cell in self.cells)
        done = Counter((cell.model, cell.domain, cell.kind) for cell in self.cells if cell.key in self.done)
        shared = Counter(
            (cell.model, cell.domain, cell.kind)
            for cell in self.cells
            if cell.key not in self.done and self.computed_by[cell.key] != cell.model
        )
        return {group: CellCounts(done[group], number, shared[group]) for group, number in total.items()}

    def shared(self) -> dict[tuple[str, str], int]:
        """Count the cells that one model wants and another computes, by (the one, the other)."""
        pairs = ((cell.model, self.computed_by[cell.key]) for cell in self.cells)
        return dict(Counter((model, computing) for model, computing in pairs if model != computing))


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """What each model needs, and what it takes on the fleet."""

    estimates: Mapping[str, MemoryEstimate]
    demands: Mapping[str, Demand]
    costs: Mapping[str, float]


def all_cells(
    config: ExperimentConfig,
    examples: Mapping[str, Sequence[Example]],
    models: Mapping[str, ModelIdentity],
    wanted: Collection[tuple[str, str]],
) -> list[Cell]:
    """Return the cells of the `wanted` (domain, model) pairs: the matrix models x examples, or a part of it."""
    cells: list[Cell] = []
    for domain, members in examples.items():
        answering = [models[model] for model in config.models_of(domain) if (domain, model) in wanted]
        cells += _maker(config, domain).cells(members, answering)
    return cells


def _maker(config: ExperimentConfig, domain: str) -> CellMaker:
    return CellMaker(
        config.decoding,
        max_new_tokens=config.domains[domain].max_new_tokens or config.decoding.max_new_tokens,
        kinds=(GENERATE, LIKELIHOOD) if config.likelihood else (GENERATE,),
    )


def single_cells(
    config: ExperimentConfig,
    examples: Mapping[str, Sequence[Example]],
    models: Mapping[str, ModelIdentity],
    asked: Asked,
) -> list[Cell]:
    """Return the cells of the examples that `asked` names one by one; those that `examples` lacks are left out."""
    cells: list[Cell] = []
    for (domain, model), ids in asked.items():
        members = [example for example in examples.get(domain, ()) if example.id in ids]
        cells += _maker(config, domain).cells(members, [models[model]])
    return cells


def plan_work(
    config: ExperimentConfig, cells: Sequence[Cell], done: Collection[str], *, added: Sequence[Cell] = ()
) -> Workload:
    """Return the workload: all cells, and the shards of those that are not `done`.

    `added` cells are in shards of their own, so that the shards of `cells` are the same with and without them.
    """
    size = config.runtime.shard_size
    computed_by = _computing_models(cells, added)
    to_compute = [[cell for cell in part if computed_by[cell.key] == cell.model] for part in (cells, added)]
    shards = missing_shards([shard for part in to_compute for shard in make_shards(part, size)], done)
    return Workload(
        cells=(*cells, *added),
        done=frozenset(computed_by).intersection(done),
        shards=tuple(shards),
        computed_by=computed_by,
    )


def whole_shards(config: ExperimentConfig, work: Workload, num_in_matrix: int) -> tuple[Shard, ...]:
    """Return the shards of all cells of `work`, done or not; the first `num_in_matrix` cells are the matrix's."""
    return plan_work(config, work.cells[:num_in_matrix], (), added=work.cells[num_in_matrix:]).shards


def _computing_models(cells: Sequence[Cell], added: Sequence[Cell]) -> dict[str, str]:
    """Map each key to the model that computes it: of several that want it, the one that wants most cells.

    So a checkpoint with two names is loaded under one of them. What `cells` decide does not depend on `added`.
    """
    ranks = {model: rank for rank, (model, _) in enumerate(Counter(cell.model for cell in cells).most_common())}
    last = len(ranks)
    computed_by: dict[str, str] = {}
    for part in (cells, added):
        found: dict[str, str] = {}
        for cell in part:
            known = found.setdefault(cell.key, cell.model)
            if ranks.get(cell.model, last) < ranks.get(known, last):
                found[cell.key] = cell.model
        computed_by = found | computed_by
    return computed_by


def uses_of(config: ExperimentConfig, work: Workload) -> dict[str, ModelUse]:
    """Return how the models with work left are used: the longest of their cells, in batches of `batch_size`."""
    longest: dict[str, int] = {}
    for cell in work.cells:
        tokens = _num_tokens(cell)
        longest[cell.model] = max(tokens, longest.get(cell.model, 1))
    models = dict.fromkeys(shard.model for shard in work.shards)
    return {name: ModelUse(longest[name], config.runtime.batch_size) for name in models}


def _num_tokens(cell: Cell) -> int:
    """Estimate the tokens of a cell's prompt and of what follows it."""
    characters = sum(len(message.content) for message in cell.prompt.messages)
    characters += KINDS[cell.kind].num_characters_after(cell.prompt)
    return int(characters / CHARACTERS_PER_TOKEN) + cell.max_new_tokens


def place_models(
    models: Mapping[str, ModelConfig],
    uses: Mapping[str, ModelUse],
    checkpoints: Mapping[str, Checkpoint],
    fleet: Fleet,
    runtime: RuntimeConfig,
) -> Placement:
    """Estimate every model that `uses` names, and say what a copy of it takes on `fleet`.

    Raises `CapacityError` for a model that no node could hold, or a `UserError` that lists several.
    """
    most = int(runtime.batch_memory_gib * GIB)
    estimates = {
        name: estimate_memory(checkpoints[name], models[name], use, max_cache_bytes=most) for name, use in uses.items()
    }
    demands, problems = dict[str, Demand](), Problems()
    for name, estimate in estimates.items():
        with problems.gathered():
            demands[name] = _demand(name, models[name], estimate, fleet, runtime.gpu_memory_fraction)
    problems.raise_if_any()
    costs = {name: max(1.0, (checkpoints[name].num_parameters or 10**9) / 10**9) for name in uses}
    return Placement(estimates=estimates, demands=demands, costs=costs)


def _demand(name: str, model: ModelConfig, estimate: MemoryEstimate, fleet: Fleet, memory_fraction: float) -> Demand:
    """What a copy takes, as its memory and its engine ask for."""
    engine = settings_class(model.engine)
    gpus = model.gpus if engine.needs_gpu else 0.0
    demand = demand_of(name, gpus, estimate.total_bytes, fleet, memory_fraction=memory_fraction)
    if not engine.needs_gpu:
        return Demand(gpus=0.0, reason=engine.where_it_runs)
    if not engine.shares_gpu and gpus == "auto" and 0 < demand.gpus < 1:
        return Demand(gpus=1.0, reason=f"a whole GPU: a {model.engine} takes all memory there is")
    return demand
