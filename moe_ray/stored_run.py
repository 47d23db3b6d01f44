"""A run directory, read back: what it takes to grade its answers again."""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow.compute as pc

from moe_ray.config.load import load_experiment
from moe_ray.config.schema import ExperimentConfig
from moe_ray.domains.example import Example
from moe_ray.fingerprint import fingerprint
from moe_ray.planning.plan import Asked, all_cells, single_cells
from moe_ray.preparation import make_all_graders, wanted_pairs
from moe_ray.routing.asked import asked_by_routing
from moe_ray.scoring.grade import DomainWork
from moe_ray.scoring.score import Grader
from moe_ray.store.answers import GRADED_COLUMNS, Answer, from_table
from moe_ray.store.environment import versions
from moe_ray.store.owners import RANKING_COLUMNS, model_identities, one_row_for_each_key, twins_of
from moe_ray.store.records import Manifest
from moe_ray.store.run_directory import RunDirectory


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRun:
    """A run directory read back: enough to grade its answers again, a domain and a model at a time."""

    run: RunDirectory
    config: ExperimentConfig
    manifest: Manifest

    @property
    def grader_names(self) -> dict[str, list[str]]:
        """Names of the graders, by domain."""
        return {domain: self.manifest.domains[domain]["graders"] for domain in self.config.domains}

    def graders(self) -> dict[str, Sequence[Grader]]:
        """The graders of this run, by domain."""
        return make_all_graders(self.config, self.grader_names, self.run.path)

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
            where = (pc.field("domain") == domain) & pc.field("model").isin(sorted(stored_under[model]))
            columns = dict.fromkeys((*GRADED_COLUMNS, *RANKING_COLUMNS))
            stored = from_table(one_row_for_each_key(self.run.answers_table(list(columns), where)))
            return [answer for answer in stored if answer.key in wanted[model]]

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


def grading_fingerprint(run: RunDirectory) -> str:
    """Return a fingerprint of all that the scores follow from: files, experiment, what was given up, software."""
    manifest, config = run.manifest(), load_experiment(run.config_path).config
    return fingerprint(
        {
            "files": run.files_fingerprint(),
            "experiment": config.model_dump(mode="json", exclude={"runtime", "output"}),
            "sandbox": config.runtime.sandbox.model_dump(mode="json", exclude={"num_workers"}),
            "graders": {domain: manifest.domains[domain]["graders"] for domain in config.domains},
            "given_up": sorted({entry.model for entry in manifest.given_up}),
            "versions": versions(),
        }
    )


def load_run(run: RunDirectory, *, allow_weak_sandbox: bool = False) -> StoredRun:
    """Read a run directory back. Raises `RunDirectoryError` when it holds no run."""
    changes = ["runtime.sandbox.allow_weak=true"] if allow_weak_sandbox else []
    return StoredRun(run=run, manifest=run.manifest(), config=load_experiment(run.config_path, changes).config)
