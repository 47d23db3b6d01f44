"""From a domain's section of the experiment file to its examples."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from moe_ray.config.schema import DomainConfig
from moe_ray.domains.example import Example, Task
from moe_ray.domains.record_task import SAME_AS_ANOTHER, RecordTask
from moe_ray.domains.registry import importable, task_class
from moe_ray.domains.sources import ReadSource, Source, read_json, read_source, read_text, resolve_path
from moe_ray.errors import DataError
from moe_ray.fingerprint import file_sha256
from moe_ray.prompts.messages import Message, Prompt

ItemT = TypeVar("ItemT")


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn(Generic[ItemT]):
    """What a limit drew, as (id, item) pairs in the order of `hash_rank`, and out of how many."""

    pairs: list[tuple[str, ItemT]]
    num_available: int
    num_not_listed: int
    num_listed_but_missing: int


def hash_rank(example_id: str) -> str:
    """Return the key that orders examples: the SHA-256 of the id, in hexadecimal."""
    return hashlib.sha256(example_id.encode()).hexdigest()


def draw(
    items: Iterable[tuple[str, ItemT]], *, limit: int | None, listed: frozenset[str] | None, where: str
) -> Drawn[ItemT]:
    """Draw the first `limit` (id, item) pairs (None: all) of those whose ids are `listed` (None: all).

    Raises `DataError` when two items have one id, or when none is listed.
    """
    by_id = _by_unique_id(items, where)
    available = [example_id for example_id in by_id if listed is None or example_id in listed]
    if listed and by_id and not available:
        raise DataError(
            f"none of the {len(listed)} ids of data.ids_file is in the data, whose ids look like {next(iter(by_id))!r}",
            where=where,
            remedy="check that ids_file lists this data set's ids, one a line or as JSON",
        )
    chosen = sorted(available, key=hash_rank)[:limit]
    return Drawn(
        pairs=[(example_id, by_id[example_id]) for example_id in chosen],
        num_available=len(available),
        num_not_listed=len(by_id) - len(available),
        num_listed_but_missing=0 if listed is None else len(listed) - len(available),
    )


def _by_unique_id(items: Iterable[tuple[str, ItemT]], where: str) -> dict[str, ItemT]:
    by_id: dict[str, ItemT] = {}
    for example_id, item in items:
        if example_id in by_id:
            raise DataError(
                f"two records have the id {example_id!r}",
                where=where,
                remedy="remove one, or name the column that identifies a record (columns: {id: COLUMN})",
            )
        by_id[example_id] = item
    return by_id


__all__ = ["LoadedDomain", "importable", "listed_ids", "load_domain", "make_task"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedDomain:
    """A domain that is ready to be planned.

    `examples` are limited already, in the order of the hash of their ids. `data_fingerprint` is for the manifest:
    source, resolved, sha256 (a local file) or revision (the hub), num_records (in the source), num_available
    (that could have been drawn), num_examples, num_skipped (reason -> count), ids_file, notes. `notes` says which
    prompt this is where a task has more than one, and what of the data gives no example.
    """

    examples: tuple[Example, ...]
    task: Task
    data_fingerprint: dict[str, Any]
    graders: tuple[str, ...]
    notes: tuple[str, ...] = ()


def load_domain(name: str, config: DomainConfig, base_dir: Path, read: ReadSource = read_source) -> LoadedDomain:
    """Load a domain's data with `read` and turn the examples that its limit draws into prompts.

    Relative paths (data.source, data.ids_file, and settings whose name ends in `_file`) are below `base_dir`, the
    experiment file's folder, where a `module:Class` task's module may lie too.

    Raises `ConfigError` for a wrong task, column name, choice or template, and `DataError` for wrong data.
    """
    task = make_task(name, config, base_dir)
    source = read(config.data, base_dir)
    listed = listed_ids(config, base_dir)
    drawn = _draw_examples(task, source, listed, config.max_examples)
    skipped = _skipped(task, drawn)
    if not drawn.pairs:
        raise DataError(
            f"no record gives an example; left out: {skipped or 'nothing'}",
            where=source.where,
            remedy="check data.source and the domain's columns",
        )
    notes = (*getattr(task, "notes", ()), *_data_notes(config, skipped, listed, drawn))
    return LoadedDomain(
        examples=tuple(example for _, example in drawn.pairs),
        task=task,
        data_fingerprint={
            **source.origin,
            "num_records": len(source.records),
            "num_available": drawn.num_available,
            "num_examples": len(drawn.pairs),
            "num_skipped": skipped,
            "ids_file": _ids_file_fingerprint(config, base_dir, drawn),
            "notes": list(notes),
        },
        graders=tuple(task.default_graders if config.grader_names is None else config.grader_names),
        notes=notes,
    )


def make_task(name: str, config: DomainConfig, base_dir: Path) -> Task:
    """Return the domain's task. Its settings that are files are resolved against `base_dir`."""
    with importable(base_dir):
        kind = task_class(config.task, where=f"domains.{name}.task")
    settings = {
        key: str(resolve_path(value, base_dir)) if key.endswith("_file") and isinstance(value, str) else value
        for key, value in config.settings.items()
    }
    return kind(name, config.model_copy(update={"settings": settings}))


def listed_ids(config: DomainConfig, base_dir: Path) -> frozenset[str] | None:
    """Return the ids of `data.ids_file`: its lines, or its JSON list, or the keys of its JSON object; None without."""
    if config.data.ids_file is None:
        return None
    path = resolve_path(config.data.ids_file, base_dir)
    text = read_text(path).strip()
    values = read_json(path) if text.startswith(("[", "{")) else text.splitlines()
    ids = frozenset(str(value).strip() for value in values) - {""}
    if not ids:
        raise DataError("lists no ids", where=str(path), remedy="list one id a line, or leave data.ids_file out")
    return ids


def _draw_examples(task: Task, source: Source, listed: frozenset[str] | None, limit: int | None) -> Drawn[Example]:
    """Draw examples; a shipped task makes only those that are drawn, since cleaning them can be slow."""
    if not isinstance(task, RecordTask):
        made = ((example.id, example) for example in task.examples(source.records))
        return draw(made, limit=limit, listed=listed, where=source.where)
    drawn = draw(task.candidates(source.records), limit=limit, listed=listed, where=source.where)
    pairs = [(example_id, task.example(example_id, record)) for example_id, record in drawn.pairs]
    task.check()
    return Drawn(
        pairs=pairs,
        num_available=drawn.num_available,
        num_not_listed=drawn.num_not_listed,
        num_listed_but_missing=drawn.num_listed_but_missing,
    )


def _skipped(task: Task, drawn: Drawn[Example]) -> dict[str, int]:
    counted: Mapping[str, int] = getattr(task, "skipped", {})
    unlisted = {"not in ids_file": drawn.num_not_listed} if drawn.num_not_listed else {}
    return {**counted, **unlisted}


def _data_notes(
    config: DomainConfig, skipped: Mapping[str, int], listed: frozenset[str] | None, drawn: Drawn[Example]
) -> Iterator[str]:
    """What a reader of the results should know of the data: records and listed ids that give no example."""
    if listed and drawn.num_listed_but_missing:
        name = Path(str(config.data.ids_file)).name
        yield (
            f"{drawn.num_listed_but_missing:,} of the {len(listed):,} ids in {name} give no example: "
            "the data does not have them, or their records were left out"
        )
    for reason, number in skipped.items():
        if reason == SAME_AS_ANOTHER or reason.endswith("is empty"):
            yield f"{number:,} record{'' if number == 1 else 's'} left out: {reason}"


def _ids_file_fingerprint(config: DomainConfig, base_dir: Path, drawn: Drawn[Example]) -> dict[str, Any] | None:
    if config.data.ids_file is None:
        return None
    path = resolve_path(config.data.ids_file, base_dir)
    return {"path": str(path), "sha256": file_sha256(path), "num_missing_in_data": drawn.num_listed_but_missing}


ASSUMED_EXAMPLES = 1_000
# Examples of the published splits that the tasks are named after.
PUBLISHED_EXAMPLES = {"pubmedqa": 1_000, "mbpp": 500, "math": 1_319}
ASSUMED_CHARACTERS = 2_000
_ASSUMED = "assumed"


def assume_domain(name: str, config: DomainConfig, base_dir: Path) -> LoadedDomain:
    """Return `config`'s domain with made-up examples: as many as its limit or ids file allows, of one length.

    Without either it has the number of the published split, or `ASSUMED_EXAMPLES`. Reads no data but the ids file.
    """
    with importable(base_dir):
        task = make_task(name, config, base_dir)
        listed = listed_ids(config, base_dir)
    available = PUBLISHED_EXAMPLES.get(config.task, ASSUMED_EXAMPLES) if listed is None else len(listed)
    number = min(available, config.max_examples or available)
    prompt = Prompt(messages=(Message(role="user", content="x" * ASSUMED_CHARACTERS),), reference="x")
    examples = (
        Example(id=f"assumed-{index}", domain=name, prompts={"chat": prompt, "completion": prompt}, reference="x")
        for index in range(number)
    )
    return LoadedDomain(
        examples=tuple(examples),
        task=task,
        data_fingerprint={"source": config.data.source, _ASSUMED: True, "num_examples": number},
        graders=tuple(task.default_graders if config.grader_names is None else config.grader_names),
    )


def is_assumed(domain: LoadedDomain) -> bool:
    """Say whether `assume_domain` made the domain up."""
    return _ASSUMED in domain.data_fingerprint
