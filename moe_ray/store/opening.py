"""Open a run directory for an experiment: begin it, or resume it if it is the same run."""

import sys
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import moe_ray
from moe_ray.config.identity import describe_drift
from moe_ray.config.schema import ExperimentConfig
from moe_ray.errors import RunDirectoryError
from moe_ray.fingerprint import canonical_json
from moe_ray.store.records import Manifest, SessionRecord, git_state, versions
from moe_ray.store.run_directory import RunDirectory

SESSION_ID_CHARACTERS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """What is known of a run before it begins; goes into the manifest."""

    identity: Mapping[str, Any]
    models: Mapping[str, Mapping[str, Any]]
    domains: Mapping[str, Mapping[str, Any]]
    prompts: Mapping[str, Mapping[str, Any]]
    sandbox: Mapping[str, Any] | None
    notes: tuple[str, ...]
    changes: tuple[str, ...] = ()


def open_manifest(run: RunDirectory, config: ExperimentConfig, facts: RunFacts) -> Manifest:
    """Return the run's manifest: a new one, or the old one brought up to date with `facts`.

    A run may grow (more models, domains or examples). Raises `RunDirectoryError`, with every difference, when
    something that decides the text of an answer has another value than before.
    """
    old = run.manifest() if run.exists else None
    if old is not None:
        refuse_drift(run, old.identity, facts.identity)
    changes = list(dict.fromkeys([*(old.changes if old else ()), *facts.changes]))
    return Manifest(
        name=config.name,
        description=config.description or "",
        moe_ray_version=moe_ray.__version__,
        created_at=old.created_at if old else time.time(),
        identity=dict(facts.identity),
        models={name: dict(model) for name, model in facts.models.items()},
        domains={name: dict(domain) for name, domain in facts.domains.items()},
        prompts={name: dict(prompt) for name, prompt in facts.prompts.items()},
        baseline=config.baseline,
        experts={name: domain.expert for name, domain in config.domains.items() if domain.expert},
        notes=[*facts.notes, *changes],
        changes=changes,
        sandbox=dict(facts.sandbox) if facts.sandbox else None,
        router=old.router if old and config.router else None,
        sessions=old.sessions if old else [],
        given_up=[],
    )


def refuse_drift(run: RunDirectory, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Raise `RunDirectoryError` when a model, a domain or the decoding that both have differs.

    A model that had another name is the same model: names may change, and change hands. `likelihood` only says which
    cells are wanted.
    """
    changes = describe_drift(_deciding(old), _deciding(_without_renamed(old, new)), shared_only=True)
    if changes:
        shown = "".join(f"\n    {line}" for line in changes)
        raise RunDirectoryError(
            f"this run was started with other settings that decide its answers:{shown}",
            where=str(run.path),
            remedy="undo the change to resume it, or give the changed experiment another name or --results-dir",
        )


def _deciding(identity: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in identity.items() if key != "likelihood"}


def _without_renamed(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    known = {canonical_json(model) for model in old["models"].values()}
    return {**new, "models": {name: m for name, m in new["models"].items() if canonical_json(m) not in known}}


def begin_session(manifest: Manifest, num_done: int) -> SessionRecord:
    """Add a session, the work of this command, to the manifest."""
    session = SessionRecord(
        session=uuid.uuid4().hex[:SESSION_ID_CHARACTERS],
        command=list(sys.argv),
        started_at=time.time(),
        cells_done_before=num_done,
        versions=versions(),
        git=git_state(Path(moe_ray.__file__).parent),
    )
    manifest.sessions.append(session)
    return session


def end_session(session: SessionRecord, status: str, num_done: int) -> None:
    """Close the session's record."""
    session.ended_at = time.time()
    session.wall_s = session.ended_at - session.started_at
    session.cells_done_after = num_done
    session.status = status  # type: ignore[assignment]
