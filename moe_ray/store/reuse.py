"""Reusable answers: those of other runs, by key, and a run's own after its data changed."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

import moe_ray
from moe_ray.checkpoints.identity import ModelIdentity
from moe_ray.domains.example import Example
from moe_ray.errors import RunDirectoryError
from moe_ray.planning.kinds import KINDS
from moe_ray.store.answers import ANSWER_SCHEMA
from moe_ray.store.owners import identity_in_key, one_row_for_each_key
from moe_ray.store.records import ReplicaTelemetry
from moe_ray.store.run_directory import RunDirectory

KEYS_AT_A_TIME = 20_000
REUSED = "reused"


def reusable_keys(source: RunDirectory, wanted: Mapping[str, ModelIdentity]) -> frozenset[str]:
    """Return those keys of `wanted` (key -> the model that is asked) to which `source` has a sound answer."""
    source.manifest()  # where there is no run, say so
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
