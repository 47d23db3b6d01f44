"""A run directory, read back: what it takes to grade its answers again."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow.compute as pc

from moe_ray.config.load import load_experiment
from moe_ray.config.schema import ExperimentConfig
from moe_ray.domains.example import Example
from moe_ray.engines.reasoning import ReasoningSplitter, splitter_of
from moe_ray.fingerprint import fingerprint
from moe_ray.planning.cells import ModelIdentity
from moe_ray.planning.plan import Asked, all_cells, single_cells
from moe_ray.preparation import make_all_graders, wanted_pairs
from moe_ray.routing.asked import asked_by_routing
from moe_ray.scoring.grade import DomainWork
from moe_ray.scoring.score import Grader
from moe_ray.store.answers import GRADED_COLUMNS, Answer, from_table
from moe_ray.store.environment import versions
from moe_ray.store.records import Manifest
from moe_ray.store.run_directory import RunDirectory


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRun:
    """A run directory read back: enough to grade its answers again, a domain and a model at a time."""

    run: RunDirectory
    config: ExperimentConfig
    manifest: Manifest
    base_dir: Path

    @property
    def grader_names(self) -> dict[str, list[str]]:
        """Names of the graders, by domain."""
        return {domain: self.manifest.domains[domain]["graders"] for domain in self.config.domains}

    def graders(self) -> dict[str, Sequence[Grader]]:
        """The graders of this run, by domain."""
        return make_all_graders(self.config, self.grader_names, self.base_dir)

    def work(self, graders: Mapping[str, Sequence[Grader]]) -> Iterator[DomainWork]:
        """What is to be graded, domain by domain.

        The models of a domain are those that answered there, and those that were given up. Their answers are those to
        this experiment's cells; those of an earlier, larger or other one are left out.
        """
        places = self.run.answers_table(["domain", "model"]).group_by(["domain", "model"]).aggregate([])
        answered = {(place["domain"], place["model"]) for place in places.to_pylist()}
        given_up = {entry.model for entry in self.manifest.given_up}
        routes = self.run.routes() if self.config.router else None
        asked = {} if routes is None else asked_by_routing(self.config, routes)
        for domain in self.config.domains:
            of_domain = {model: ids for (name, model), ids in asked.items() if name == domain}
            models = (*self.config.models_of(domain), *of_domain)
            found = [m for m in models if (domain, m) in answered or m in given_up]
            yield self._domain_work(domain, graders[domain], found, of_domain)

    def _domain_work(
        self, domain: str, graders: Sequence[Grader], models: Sequence[str], asked: Mapping[str, Collection[str]]
    ) -> DomainWork:
        examples = self.run.examples(domain)
        keys = self._keys(domain, examples, {(domain, model): ids for model, ids in asked.items()})

        def answers_of(model: str) -> list[Answer]:
            splitter = splitter_of(self.config.models[model])
            where = (pc.field("domain") == domain) & (pc.field("model") == model)
            stored = from_table(self.run.answers_table(GRADED_COLUMNS, where))
            return [with_reasoning_apart(answer, splitter) for answer in stored if answer.key in keys]

        return DomainWork(examples=examples, graders=graders, models=models, answers_of=answers_of, asked=asked)

    def _keys(self, domain: str, examples: Sequence[Example], asked: Asked) -> frozenset[str]:
        identities = {
            name: ModelIdentity(
                name=name, fingerprint=self.manifest.models[name]["fingerprint"], prompt_style=model.prompt_style
            )
            for name, model in self.config.models.items()
        }
        pairs = wanted_pairs(self.config, None)
        of_matrix = all_cells(self.config, {domain: examples}, identities, pairs)
        return frozenset(
            cell.key for cell in (*of_matrix, *single_cells(self.config, {domain: examples}, identities, asked))
        )


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
            "graders": {domain: manifest.domains[domain]["graders"] for domain in config.domains},
            "grader_code": {domain: manifest.domains[domain].get("grader_code", {}) for domain in config.domains},
            "given_up": sorted({entry.model for entry in manifest.given_up}),
            "versions": versions(),
        }
    )


def load_run(run: RunDirectory, *, base_dir: Path | None = None, allow_weak_sandbox: bool = False) -> StoredRun:
    """Read a run directory back; the user's own graders lie in `base_dir`, by default in the run directory.

    Raises `RunDirectoryError` when it holds no run.
    """
    changes = ["runtime.sandbox.allow_weak=true"] if allow_weak_sandbox else []
    config = load_experiment(run.config_path, changes).config
    return StoredRun(run=run, manifest=run.manifest(), config=config, base_dir=base_dir or run.path)
