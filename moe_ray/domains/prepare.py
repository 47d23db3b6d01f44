"""Prepared data: the records that a run would use, in one local file, for machines without network and for keeping.

The file is JSONL in the data set's own published format, one original record a line, in the order of the
hash of the ids: at most 1,000 examples unless more are asked for, and the few records that prompts need beside
them, such as MBPP's solved tasks. It loads as `data.source: ./NAME.jsonl` with the same task, columns and
ids_file, and gives the same prompts.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from moe_ray.config.schema import DomainConfig
from moe_ray.domains.loading import draw, listed_ids, make_task
from moe_ray.domains.record_task import RecordTask
from moe_ray.domains.sources import read_source
from moe_ray.errors import ConfigError, DataError
from moe_ray.files import write_text_atomically

MAX_PREPARED = 1000

FETCH_BY_HAND = (
    "BioASQ needs a registration at its site: download the training file there, and name it in data.source of a "
    "decision or free_text domain (columns: {question: body, reference: ideal_answer})",
    "gated data sets and models need their terms accepted on their hub page, then: hf auth login",
    "PubMedQA's official test set is a list of 500 ids, test_ground_truth.json in the authors' repository "
    "(pubmedqa/pubmedqa, folder data): name that file in data.ids_file",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedDomain:
    """What `prepare_domain` wrote. `num_supporting` counts records that are in the file and are no examples."""

    path: Path
    num_examples: int
    num_available: int
    num_supporting: int


def prepare_domain(
    name: str,
    config: DomainConfig,
    base_dir: Path,
    out_dir: Path,
    *,
    limit: int = MAX_PREPARED,
    suffix: Literal[".jsonl", ".json"] = ".jsonl",
) -> PreparedDomain:
    """Write the records of a domain that its limit (and `limit`) draws to `out_dir`/NAME.jsonl, or .json: one list.

    Raises what `load_domain` raises, and `ConfigError` for a `module:Class` task that is no `RecordTask`: which records
    its examples come from, only that class knows.
    """
    task = make_task(name, config, base_dir)
    if not isinstance(task, RecordTask):
        raise ConfigError(
            f"task {config.task} does not say which records its examples come from",
            where=f"domains.{name}.task",
            remedy="derive the class from moe_ray.domains.record_task.RecordTask, or prepare its file yourself",
        )
    source = read_source(config.data, base_dir)
    drawn = draw(
        task.candidates(source.records),
        limit=min(limit, config.max_examples or limit),
        listed=listed_ids(config, base_dir),
        where=source.where,
    )
    for example_id, record in drawn.pairs:
        task.example(example_id, record)
    task.check()
    supporting = task.supporting_records()
    records = [*supporting, *(record for _, record in drawn.pairs)]
    path = out_dir / f"{name}{suffix}"
    lines = [json.dumps(record, default=str) for record in records]
    _write(path, "[\n" + ",\n".join(lines) + "\n]\n" if suffix == ".json" else "".join(f"{line}\n" for line in lines))
    return PreparedDomain(
        path=path,
        num_examples=len(drawn.pairs),
        num_available=drawn.num_available,
        num_supporting=len(supporting),
    )


def _write(path: Path, text: str) -> None:
    try:
        write_text_atomically(path, text)
    except OSError as error:
        raise DataError(
            f"cannot be written: {error.strerror or error}", where=str(path), remedy="choose another folder"
        ) from error
