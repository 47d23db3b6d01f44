"""From a domain's section of the experiment file to its examples."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moe_ray.config.schema import DomainConfig
from moe_ray.domains.base import Task
from moe_ray.domains.example import Example
from moe_ray.domains.own_code import importable
from moe_ray.domains.record_task import SAME_AS_ANOTHER, RecordTask
from moe_ray.domains.registry import task_class
from moe_ray.domains.sampling import Drawn, draw
from moe_ray.domains.sources import Source, read_json, read_source, read_text, resolve_path
from moe_ray.errors import DataError
from moe_ray.fingerprint import file_sha256

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


def load_domain(name: str, config: DomainConfig, base_dir: Path) -> LoadedDomain:
    """Load a domain's data and turn the examples that its limit draws into prompts.

    Relative paths (data.source, data.ids_file, and settings whose name ends in `_file`) are below `base_dir`, the
    experiment file's folder, where a `module:Class` task's module may lie too.

    Raises `ConfigError` for a wrong task, column name, choice or template, and `DataError` for wrong data.
    """
    task = make_task(name, config, base_dir)
    source = read_source(config.data, base_dir)
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
