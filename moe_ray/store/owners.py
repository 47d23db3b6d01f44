"""Map stored answers and telemetry of a run to its models.

An answer belongs to every model that wants its key, whatever the model was called when it was computed. A replica held
one model, so that telemetry, and costs, go by replica: its telemetry names the model's identity. Where it does not
(an earlier version, answers taken from another run), the key of one of its answers tells: it holds the identity.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from moe_ray.checkpoints.identity import ModelIdentity
from moe_ray.planning.keys import key_of
from moe_ray.planning.kinds import KINDS
from moe_ray.store.records import Manifest, ReplicaTelemetry
from moe_ray.store.run_directory import RunDirectory

PROOF_COLUMNS = ("key", "kind", "replica", "domain", "example_id", "sample_index", "messages", "settings")
# What `one_row_for_each_key` looks at.
RANKING_COLUMNS = ("key", "finish_reason", "finished_at", "replica")


@dataclass(frozen=True, slots=True, kw_only=True)
class Owners:
    """The models of a run, by the replica that computed for them. Twins (one model, two names) share replicas."""

    run: RunDirectory
    models_of: Mapping[str, Sequence[str]]

    def answers(self, columns: Sequence[str], where: pc.Expression | None = None) -> pa.Table:
        """Return `columns` of the stored answers; `model` is the model that an answer belongs to, not who computed it.

        An answer that belongs to several models is there once for each, one that belongs to none is left out.
        """
        needed = dict.fromkeys((*columns, "model", *RANKING_COLUMNS))
        stored = one_row_for_each_key(self.run.answers_table(list(needed), where))
        replicas = stored.column("replica")
        parts = [
            _with_model(stored.filter(pc.is_in(replicas, pa.array(sorted(held), pa.string()))), model)
            for model, held in self._replicas().items()
        ]
        return pa.concat_tables([stored.slice(0, 0), *parts]).select(list(columns))

    def telemetry(self) -> list[ReplicaTelemetry]:
        """Return the telemetry of the run, with the names that the models have now; once for each twin."""
        return [
            record.model_copy(update={"model": model})
            for record in self.run.telemetry()
            for model in self.models_of.get(record.replica, ())
        ]

    def _replicas(self) -> dict[str, set[str]]:
        replicas: dict[str, set[str]] = {}
        for replica, models in self.models_of.items():
            for model in models:
                replicas.setdefault(model, set()).add(replica)
        return replicas


def _with_model(table: pa.Table, model: str) -> pa.Table:
    at = table.schema.get_field_index("model")
    return table.set_column(at, table.schema.field(at), pa.array([model] * table.num_rows, pa.string()))


def model_identities(manifest: Manifest) -> dict[str, ModelIdentity]:
    """Return what the manifest says of its models' identities; models of which it says nothing are left out."""
    return {
        name: ModelIdentity(name=name, fingerprint=model["fingerprint"], prompt_style=model["prompt_style"])
        for name, model in manifest.models.items()
        if "fingerprint" in model and "prompt_style" in model
    }


def twins_of(manifest: Manifest) -> dict[str, list[str]]:
    """Map each model of the manifest to all names of it, itself included, in the order of the manifest."""
    keys = {name: identity.key for name, identity in model_identities(manifest).items()}
    return {
        name: [other for other in manifest.models if other == name or (name in keys and keys.get(other) == keys[name])]
        for name in manifest.models
    }


def find_owners(run: RunDirectory, manifest: Manifest) -> Owners:
    """Find out which models of `manifest` each replica computed for."""
    identities = model_identities(manifest)
    names: dict[str, list[str]] = {}
    for name, identity in identities.items():
        names.setdefault(identity.key, []).append(name)
    held = {record.replica: record.identity for record in run.telemetry() if record.identity is not None}
    answered = _replicas_that_answered(run)
    held |= _proven(run, [replica for replica in answered if replica not in held], list(identities.values()))
    models_of = {replica: names.get(identity, []) for replica, identity in held.items()}
    # Nothing but the name tells the model of a replica that answered nothing, or in a manifest without identities.
    told = {record.replica: record.model for record in run.telemetry()} | answered
    for replica, model in told.items():
        if replica not in models_of and model in manifest.models:
            is_disproven = replica in answered and model in identities
            models_of[replica] = [] if is_disproven else [model]
    return Owners(run=run, models_of=models_of)


def _replicas_that_answered(run: RunDirectory) -> dict[str, str]:
    """Map each replica with answers to the name that its model had then."""
    pairs = run.answers_table(["replica", "model"]).group_by(["replica", "model"]).aggregate([]).to_pylist()
    return {pair["replica"]: pair["model"] for pair in pairs}


def _proven(run: RunDirectory, replicas: Sequence[str], identities: Sequence[ModelIdentity]) -> dict[str, str]:
    """Map `replicas` to the identity that is in the key of one of their answers, where it is one of `identities`."""
    if not replicas or not identities:
        return {}
    is_asked = pc.field("replica").isin(replicas)
    keys = run.answers_table(["replica", "key"], is_asked).group_by("replica").aggregate([("key", "min")])
    rows = run.answers_table(PROOF_COLUMNS, pc.field("key").isin(keys.column("key_min")) & is_asked).to_pylist()
    return {row["replica"]: found for row in rows if (found := identity_in_key(row, identities)) is not None}


def identity_in_key(row: Mapping[str, Any], identities: Iterable[ModelIdentity]) -> str | None:
    """Return the identity from which `row`'s key was made."""
    try:
        messages = [[message["role"], message["content"]] for message in json.loads(row["messages"])]
        decoding = KINDS[row["kind"]].settings_in_key(json.loads(row["settings"]), row["sample_index"])
        asked = {"domain": row["domain"], "example": row["example_id"], "messages": messages}
        found = (
            identity.key for identity in identities if row["key"] == key_of(row["kind"], asked, identity, decoding)
        )
        return next(found, None)
    except (ValueError, LookupError, TypeError, RecursionError):
        return None


def one_row_for_each_key(table: pa.Table) -> pa.Table:
    """Keep one row for each key of a table with RANKING_COLUMNS: one without an error, then the earliest.

    Run directories of earlier versions may hold a cell twice, once for each name of its model.
    """
    if pc.count_distinct(table.column("key")).as_py() == table.num_rows:
        return table
    ranking = table.select(list(RANKING_COLUMNS))
    ranking = ranking.append_column("failed", pc.equal(table.column("finish_reason"), "error"))
    order = pc.sort_indices(
        ranking, [(name, "ascending") for name in ("key", "failed", "finished_at", "replica")]
    ).to_numpy()
    keys = table.column("key").to_numpy()[order]
    is_first = np.concatenate(([True], keys[1:] != keys[:-1]))
    return table.take(np.sort(order[is_first]))
