"""The grading of a run's answers: its graders, whose answers count, and what the scores were made from."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

import moe_ray.scoring.registry as registry
from moe_ray.config.schema import ExperimentConfig
from moe_ray.domains.example import Example
from moe_ray.domains.loading import LoadedDomain
from moe_ray.fingerprint import fingerprint
from moe_ray.planning.cells import Cell
from moe_ray.planning.plan import all_cells, single_cells
from moe_ray.prompts.reasoning import move_trace, splitter_of
from moe_ray.runs.work import Prepared, asked_by_routing, wanted_cells, wanted_pairs
from moe_ray.scoring.grade import DomainWork, grade_domain, merge_metrics
from moe_ray.scoring.score import ExampleChecker, Grader, write_scores
from moe_ray.store.answers import GRADED_COLUMNS, Answer, from_table
from moe_ray.store.records import Manifest, versions
from moe_ray.store.reuse import RANKING_COLUMNS, model_identities, one_row_for_each_key, twins_of
from moe_ray.store.routes import Routes
from moe_ray.store.run_directory import RunDirectory

# The keys of the cells that each model wants, of a domain with these examples.
WantedKeys = Callable[[str, Sequence[Example]], Mapping[str, Collection[str]]]


def make_all_graders(
    config: ExperimentConfig, names: Mapping[str, Sequence[str]], base_dir: Path
) -> dict[str, Sequence[Grader]]:
    """Return the graders of every domain; raises `ConfigError` for an unknown name."""
    return {
        domain: registry.make_graders(
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


def check_examples(domains: Mapping[str, LoadedDomain], graders: Mapping[str, Sequence[Grader]]) -> None:
    """Let graders refuse examples that they could not judge. The controls of programs cost sandbox time."""
    for name, domain in domains.items():
        for grader in graders[name]:
            if isinstance(grader, ExampleChecker):
                grader.check_examples(domain.examples)


def sandbox_record(config: ExperimentConfig, graders: Mapping[str, Sequence[str]]) -> dict[str, Any] | None:
    """Open the sandbox if one of the `graders` (names, by domain) will need it, and say which protections it has.

    Raises `SandboxError` when one is lacking that the experiment did not give up: before any model works, not later.
    """
    if not any("code" in names for names in graders.values()):
        return None
    from moe_ray.scoring.sandbox import shared_sandbox

    return shared_sandbox(config.runtime.sandbox).describe()


def grading_fingerprint(
    run: RunDirectory, manifest: Manifest, config: ExperimentConfig, names: Mapping[str, Sequence[str]]
) -> str:
    """Return a fingerprint of all that the scores follow from: files, experiment, what was given up, software."""
    return fingerprint(
        {
            "files": run.files_fingerprint(),
            "experiment": config.model_dump(mode="json", by_alias=True, exclude={"runtime", "output"}),
            "sandbox": config.runtime.sandbox.model_dump(mode="json", exclude={"num_workers"}),
            "graders": {domain: names[domain] for domain in config.domains},
            "grader_code": {domain: manifest.domains[domain].get("grader_code", {}) for domain in config.domains},
            "given_up": sorted({entry.model for entry in manifest.given_up}),
            "versions": versions(),
        }
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRun:
    """A run on disk with what its answers are graded by, a domain and a model at a time.

    `graders` and their names are by domain. `written` is the experiment as the run directory has it; `config`, by which
    grading goes, may have other limits of the sandbox.
    """

    run: RunDirectory
    config: ExperimentConfig
    written: ExperimentConfig
    manifest: Manifest
    grader_names: Mapping[str, Sequence[str]]
    graders: Mapping[str, Sequence[Grader]]
    routes: Routes | None
    wanted: WantedKeys

    def fingerprint(self) -> str:
        """Return what the scores of the answers that are there now are made from."""
        return grading_fingerprint(self.run, self.manifest, self.written, self.grader_names)

    def grade(self, made_from: str) -> None:
        """Grade all answers, write the scores, and note what they were `made_from`."""
        scores = (score for domain in self.work() for score in grade_domain(domain))
        write_scores(self.run.scores_path, scores, merge_metrics(self.graders))
        self.run.mark_graded(made_from)

    def work(self) -> Iterator[DomainWork]:
        """What is to be graded, domain by domain.

        The models of a domain are those with answers there, and those that were given up, under any name. Their
        answers are those to this experiment's cells, which their keys tell, whoever computed them; those of an
        earlier, larger or other experiment are left out.
        """
        asked = {} if self.routes is None else asked_by_routing(self.config, self.routes)
        for domain in self.config.domains:
            of_domain = {model: ids for (name, model), ids in asked.items() if name == domain}
            yield self._domain_work(domain, of_domain)

    def _domain_work(self, domain: str, asked: Mapping[str, Collection[str]]) -> DomainWork:
        # Read back from the run directory, so that `evaluate` and a later `score` grade the very same texts.
        examples = self.run.examples(domain)
        wanted = self.wanted(domain, examples)
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
            # Answers of earlier versions hold the trace in their text.
            return [move_trace(answer, splitter) for answer in stored if answer.key in wanted.get(model, ())]

        return DomainWork(
            examples=examples,
            graders=self.graders[domain],
            models=[model for model in models if stored_under[model] or model in given_up],
            answers_of=answers_of,
            asked=asked,
        )

    def _stored_under(self, domain: str, wanted: Mapping[str, Collection[str]]) -> dict[str, set[str]]:
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


def prepared_run(prepared: Prepared, manifest: Manifest, graders: Mapping[str, Sequence[Grader]]) -> StoredRun:
    """Return the run that `prepared` tells of, for grading: nothing that is in memory is read or computed again."""
    inputs = prepared.inputs
    return StoredRun(
        run=inputs.run,
        config=inputs.config,
        written=inputs.config,
        manifest=manifest,
        grader_names=inputs.grader_names,
        graders=graders,
        routes=prepared.routes,
        wanted=_known_keys(prepared),
    )


def _known_keys(prepared: Prepared) -> WantedKeys:
    keys: dict[str, dict[str, set[str]]] = {}

    def wanted(domain: str, _examples: Sequence[Example]) -> Mapping[str, Collection[str]]:
        if not keys:
            keys.update(_by_domain(wanted_cells(prepared)))
        return keys.get(domain, {})

    return wanted


def stored_keys(config: ExperimentConfig, manifest: Manifest, routes: Routes | None) -> WantedKeys:
    """Compute the wanted keys from what a run directory says of its models and its routes."""
    identities = model_identities(manifest)
    asked = {} if routes is None else asked_by_routing(config, routes)

    def wanted(domain: str, examples: Sequence[Example]) -> Mapping[str, Collection[str]]:
        of_domain = {place: ids for place, ids in asked.items() if place[0] == domain}
        of_matrix = all_cells(config, {domain: examples}, identities, wanted_pairs(config, None))
        of_router = single_cells(config, {domain: examples}, identities, of_domain)
        return _by_domain((*of_matrix, *of_router)).get(domain, {})

    return wanted


def _by_domain(cells: Iterable[Cell]) -> dict[str, dict[str, set[str]]]:
    """The keys of cells, by domain and model."""
    keys: dict[str, dict[str, set[str]]] = {}
    for cell in cells:
        keys.setdefault(cell.domain, {}).setdefault(cell.model, set()).add(cell.key)
    return keys
