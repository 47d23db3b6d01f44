"""What a run writes of itself: its config, its examples, and its manifest, which nothing else in `runs` changes."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import moe_ray.scoring.registry as grading
from moe_ray.checkpoints.identity import Checkpoint
from moe_ray.config.dump import dump_experiment
from moe_ray.config.identity import identity
from moe_ray.config.schema import ExperimentConfig, PromptStyle
from moe_ray.domains.example import Example
from moe_ray.engines.registry import text_settings
from moe_ray.planning.scheduler import Abandoned
from moe_ray.runs.grading import check_examples, make_all_graders, sandbox_record
from moe_ray.runs.inputs import Inputs, located
from moe_ray.runs.work import Prepared
from moe_ray.scoring.score import Grader
from moe_ray.store.opening import RunFacts, begin_session, end_session, open_manifest
from moe_ray.store.records import GivenUp, Manifest, SessionRecord
from moe_ray.store.run_directory import RunDirectory


class RunRecord:
    """The manifest of a run that this process holds, with the graders of each domain.

    Every change of the manifest is on disk when the method returns. Where the run `is_shared`, the session has a file
    of its own, and the caller sees to it that one process at a time calls `refresh`, `on_router` and `gather`.
    """

    def __init__(
        self,
        run: RunDirectory,
        manifest: Manifest,
        graders: Mapping[str, Sequence[Grader]],
        *,
        is_shared: bool = False,
    ) -> None:
        self._run = run
        self.is_shared = is_shared
        self._session: SessionRecord | None = None
        self.graders = graders
        self.manifest = manifest

    @property
    def session(self) -> str:
        """The name of this process's session."""
        return self.own_session.session

    @property
    def own_session(self) -> SessionRecord:
        """The session of this process, once it has begun."""
        assert self._session is not None
        return self._session

    @contextmanager
    def working(self, num_done: Callable[[], int], abandoned: Sequence[Abandoned]) -> Iterator[None]:
        """Record what happens inside as one session, and how it ended; `abandoned` may grow meanwhile."""
        self._session = session = begin_session(self.manifest, num_done())
        self._write_session()
        status = "failed"
        try:
            yield
            status = "incomplete" if abandoned else "complete"
        except KeyboardInterrupt:
            status = "interrupted"
            raise
        finally:
            self.manifest.given_up = [
                GivenUp(model=entry.model, shard=entry.shard, num_cells=entry.num_cells, reason=entry.reason)
                for entry in abandoned
            ]
            end_session(session, status, num_done())
            self._write_session()

    def on_hardware(self, hardware: Mapping[str, Any]) -> None:
        """Record the nodes that the session works on."""
        self.own_session.hardware = {node: asdict(record) for node, record in hardware.items()}
        self._write_session()

    def refresh(self) -> None:
        """Read what another process of a shared run may have written: the router."""
        if self.is_shared:
            self.manifest.router = self._run.manifest().router

    def gather(self) -> None:
        """Take over the sessions of the other processes of a shared run, this one's last, and write the manifest."""
        if self.is_shared:
            others = [one for one in self._run.manifest().sessions if one.session != self.session]
            self.manifest.sessions = [*others, self.own_session]
            self._write()

    def on_router(self, router: Mapping[str, Any]) -> None:
        """Record the router that the run's routes come from."""
        self.manifest.router = dict(router)
        self._write()

    def on_graders(self, names: Mapping[str, Sequence[str]], sandbox: Mapping[str, Any] | None) -> None:
        """Record the graders of each domain, and the protections that held."""
        self.manifest.sandbox = None if sandbox is None else dict(sandbox)
        for domain, graders in names.items():
            self.manifest.domains[domain]["graders"] = list(graders)
        self._write()

    def _write_session(self) -> None:
        if self.is_shared:
            self._run.write_session(self.own_session)
        else:
            self._write()

    def _write(self) -> None:
        self._run.write_manifest(self.manifest)


def checked_graders(prepared: Prepared) -> dict[str, Sequence[Grader]]:
    """Return the graders of each domain. Raises what they raise of examples that they could not judge."""
    inputs = prepared.inputs
    graders = make_all_graders(inputs.config, inputs.grader_names, inputs.base_dir)
    if prepared.work.shards:
        with located(inputs.experiment):
            check_examples(inputs.domains, graders)
    return graders


def begin(
    prepared: Prepared, graders: Mapping[str, Sequence[Grader]] | None = None, *, is_shared: bool = False
) -> RunRecord:
    """Write down what the run is (config, manifest, examples), or find that it is the one to resume.

    Raises `RunDirectoryError` for another run, and what `checked_graders` raises where `graders` are not given.
    """
    graders = checked_graders(prepared) if graders is None else graders
    inputs = prepared.inputs
    config, run = inputs.config, inputs.run
    manifest = open_manifest(run, config, _facts(inputs))
    run.write_config(dump_experiment(config))
    run.write_manifest(manifest)
    for name, domain in inputs.domains.items():
        run.write_examples(name, domain.examples)
    return RunRecord(run, manifest, graders, is_shared=is_shared)


def run_identity(config: ExperimentConfig, checkpoints: Mapping[str, Checkpoint]) -> dict[str, Any]:
    """Return what decides the run's answers, as its manifest keeps it."""
    fingerprints = {name: checkpoint.identity.fingerprint for name, checkpoint in checkpoints.items()}
    return identity(config, text_settings=text_settings, model_fingerprints=fingerprints)


def _facts(inputs: Inputs) -> RunFacts:
    config, domains = inputs.config, inputs.domains
    notes = [note for model in config.models.values() for note in model.notes]
    notes += [note for name, domain in config.domains.items() for note in (*domain.notes, *domains[name].notes)]
    return RunFacts(
        identity=run_identity(config, inputs.checkpoints),
        models={name: _model_record(config, checkpoint) for name, checkpoint in inputs.checkpoints.items()},
        domains={
            name: {
                **domain.data_fingerprint,
                "graders": list(domain.graders),
                "grader_settings": grading.settings_of(domain.graders, config.domains[name]),
                "grader_code": grading.code_of(domain.graders),
                "notes": [*config.domains[name].notes, *domain.notes],
            }
            for name, domain in domains.items()
        },
        prompts={name: _prompt_record(config, name, domain.examples) for name, domain in domains.items()},
        sandbox=sandbox_record(config, inputs.grader_names),
        notes=tuple(dict.fromkeys(notes)),
        changes=inputs.changes,
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
