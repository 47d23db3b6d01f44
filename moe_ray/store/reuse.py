"""Which stored answers count for which model of a run, whichever name or run they were computed under.

Also which examples changed with their data set.
"""

import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

import moe_ray
from moe_ray.checkpoints.identity import ModelIdentity
from moe_ray.domains.example import Example
from moe_ray.errors import RunDirectoryError
from moe_ray.planning.keys import key_of
from moe_ray.planning.kinds import KINDS
from moe_ray.store.answers import ANSWER_SCHEMA
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
    reported = {record.replica: record.model for record in run.telemetry()} | answered
    for replica, model in reported.items():
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


KEYS_AT_A_TIME = 20_000
REUSED = "reused"


def reusable_keys(source: RunDirectory, wanted: Mapping[str, ModelIdentity]) -> frozenset[str]:
    """Return those keys of `wanted` (key -> the model that is asked) to which `source` has a sound answer."""
    source.manifest()  # raises if there is no run
    return frozenset(row["key"] for rows in _sound_rows(source, wanted) for row in rows)


def reuse_answers(run: RunDirectory, source: RunDirectory, wanted: Mapping[str, ModelIdentity]) -> frozenset[str]:
    """Copy the answers of `source` to the keys of `wanted` into `run`; return these keys.

    The process must hold `run`. Nothing of `source` is changed. A telemetry record for each model says what the answers
    took, as they say themselves, so that costs are those of all answers.
    """
    source.manifest()  # where there is no run, say so
    taken: set[str] = set()
    for rows in _sound_rows(source, wanted):
        by_identity: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            by_identity.setdefault(wanted[row["key"]].key, []).append(row)
        for identity, of_model in by_identity.items():
            table = pa.Table.from_pylist(
                [{**row, "replica": f"{REUSED}-{identity}"} for row in of_model], ANSWER_SCHEMA
            )
            # Through another object, because the cells that this session computes are counted in `run`.
            RunDirectory(run.path).write_shard_table(table)
            _record(run, identity, of_model)
        taken.update(row["key"] for row in rows)
    return frozenset(taken)


def _sound_rows(source: RunDirectory, wanted: Mapping[str, ModelIdentity]) -> Iterator[list[dict[str, Any]]]:
    keys = sorted(wanted)
    for start in range(0, len(keys), KEYS_AT_A_TIME):
        some = pa.array(keys[start : start + KEYS_AT_A_TIME], pa.string())
        table = source.answers_table(ANSWER_SCHEMA.names, pc.field("key").isin(some))
        rows = [row for row in one_row_for_each_key(table).to_pylist() if _is_sound(row, wanted[row["key"]])]
        if rows:
            yield rows


def _is_sound(row: Mapping[str, Any], identity: ModelIdentity) -> bool:
    """Say whether a row answers the cell of its key, and without an error."""
    if row["error"] is not None or row["finish_reason"] == "error" or identity_in_key(row, [identity]) is None:
        return False
    if not (math.isfinite(row["total_s"]) and row["total_s"] >= 0 and row["batch_rows"] >= 1):
        return False
    return KINDS[row["kind"]].is_whole(row)


def _record(run: RunDirectory, identity: str, rows: Sequence[Mapping[str, Any]]) -> None:
    name = f"{REUSED}-{identity}"
    known = {record.replica: record for record in run.telemetry()}.get(name)
    record = known or ReplicaTelemetry(
        replica=name,
        model=rows[0]["model"],
        identity=identity,
        session=REUSED,
        node="another run",
        pid=0,
        device=REUSED,
        started_at=time.time(),
        end="finished",
    )
    record.busy_s += math.fsum(row["total_s"] / row["batch_rows"] for row in rows)
    record.num_answers += len(rows)
    record.num_prompt_tokens += sum(row["num_prompt_tokens"] for row in rows)
    record.num_completion_tokens += sum(row["num_completion_tokens"] for row in rows)
    run.write_telemetry(record)


MAX_SHOWN = 5
# What a domain's record in the manifest says of the data itself.
_DATA_KEYS = ("sha256", "revision", "resolved", "num_records")


def data_changes(
    run: RunDirectory, examples: Mapping[str, Sequence[Example]], data: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """Compare `examples` with those of the run's last session; `data` are the fingerprints of the domains' data.

    Examples that are new, or no longer wanted, are not listed: the plan counts them. Nothing is read where the data and
    the version of moe_ray are those of the last session.
    """
    if not run.exists:
        return []
    manifest = run.manifest()
    is_same_version = manifest.moe_ray_version == moe_ray.__version__
    return [
        sentence
        for domain, members in examples.items()
        if domain in manifest.domains and not (is_same_version and _same(manifest.domains[domain], data[domain]))
        for sentence in _sentences(domain, members, _stored(run, domain))
    ]


def _same(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    return all(old.get(key) == new.get(key) for key in _DATA_KEYS)


def _stored(run: RunDirectory, domain: str) -> dict[str, Example]:
    """The examples of the last session by id; none where they cannot be read: they are about to be written again."""
    try:
        return {example.id: example for example in run.each_example(domain)}
    except (RunDirectoryError, ValueError, LookupError, TypeError, AssertionError, OSError):
        return {}


def _sentences(domain: str, examples: Sequence[Example], stored: Mapping[str, Example]) -> Iterator[str]:
    changed = [example for example in examples if stored.get(example.id, example) != example]
    asked = [example.id for example in changed if _asked(example) != _asked(stored[example.id])]
    graded = [example.id for example in changed if example.id not in set(asked)]
    if asked:
        yield (
            f"The data of {domain} changed: {_some(asked)} of {len(examples)} examples ask something else than before. "
            "They are computed; the earlier answers to them no longer count."
        )
    if graded:
        yield (
            f"The data of {domain} changed: {_some(graded)} of {len(examples)} examples have another reference or "
            "label. Their answers are kept and graded again."
        )


def _asked(example: Example) -> dict[str, Any]:
    return {style: (prompt.messages, prompt.stop) for style, prompt in example.prompts.items()}


def _some(ids: Sequence[str]) -> str:
    more = ", ..." if len(ids) > MAX_SHOWN else ""
    return f"{len(ids)} ({', '.join(ids[:MAX_SHOWN])}{more})"
