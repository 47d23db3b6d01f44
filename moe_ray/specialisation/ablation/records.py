"""What was ablated, on disk: a plan, parts while it runs, and one table at the end. Read without torch.

```
ABLATION/
  plan.json         what decides the numbers; written first, and compared before an ablation resumes
  parts/00003.parquet   the texts of one part; a resumed ablation computes the parts that are missing
  changes.parquet   one row per text, ordered by id; lists are over the plan's units, `controls` over units and draws
  ablation.json     size and hash of the table; written last, so that its presence means complete
  joint/            the same, of experts that are removed together
```
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, ValidationError

from moe_ray.arrays import BoolArray, FloatArray, IntArray
from moe_ray.errors import RunDirectoryError
from moe_ray.files import StoredRecord, read_bytes, write_atomically, write_text_atomically
from moe_ray.fingerprint import file_sha256
from moe_ray.formatting import listed
from moe_ray.mixtures.interventions import Operation
from moe_ray.mixtures.layers import TracedLayer
from moe_ray.specialisation.records import FileRecord

JOINT_FOLDER = "joint"
PLAN_FILE, TABLE_FILE, MANIFEST_FILE, PARTS = "plan.json", "changes.parquet", "ablation.json", "parts"
REMEDY = "run moe-ray specialise ablate again"
ALL_LAYERS = -1
SPLIT_RULE = "SHA-256 of the text's id: even for choosing, odd for testing"
StoredT = TypeVar("StoredT", bound=StoredRecord)

CHANGES_SCHEMA = pa.schema(
    [
        ("text_id", pa.string()),
        ("label", pa.string()),
        ("intact", pa.float64()),
        ("right", pa.bool_()),
        ("selected", pa.list_(pa.int32())),
        ("num_removed", pa.list_(pa.int32())),
        ("num_matched", pa.list_(pa.int32())),
        ("removed", pa.list_(pa.float64())),
        ("controls", pa.list_(pa.float64())),
    ]
)
LISTS = ("selected", "num_removed", "num_matched", "removed")


class AblatedUnit(StoredRecord):
    """What was removed at once: an expert of a layer, and `with_experts` together with it; layer -1 is all layers."""

    layer: int
    expert: int
    with_experts: list[int] = Field(default_factory=list)

    @property
    def experts(self) -> tuple[int, ...]:
        return (self.expert, *self.with_experts)


class SplitRecord(StoredRecord):
    """How texts were split into those for choosing and for testing, and how many units were chosen of how many."""

    rule: str = SPLIT_RULE
    num_choosing: int
    num_testing: int
    num_chosen: int
    num_units: int


class AblationPlan(StoredRecord):
    """What decides the numbers. `score` is log p of the right choice in nats, or minus bits per byte.

    `texts` is a fingerprint of the texts, their classes and choices; `num_choices` is 0 where they differ or are none.
    `chosen` says how the units were chosen, where that was on other texts than these.
    """

    format: Literal[1] = 1
    model: str
    model_type: str
    model_fingerprint: str
    layers: list[TracedLayer] = Field(min_length=1)
    expert_names: list[str] = Field(default_factory=list)
    operation: Operation
    units: list[AblatedUnit] = Field(min_length=1)
    num_draws: int
    seed: int
    score: Literal["bits_per_byte", "log_p"]
    num_choices: int
    settings: dict[str, Any]
    texts: str
    num_parts: int
    notes: list[str] = Field(default_factory=list)
    chosen: SplitRecord | None = None

    def unit_name(self, unit: AblatedUnit) -> str:
        """Return a unit in words, such as "expert code, layer 7" or "experts 1 and 3 together, layer 7"."""
        names = [self.expert_names[at] if at < len(self.expert_names) else str(at) for at in unit.experts]
        what = f"expert {names[0]}" if len(names) == 1 else f"experts {listed(names)} together"
        return f"{what}, " + ("all layers" if unit.layer == ALL_LAYERS else f"layer {unit.layer}")


class AblationRecord(StoredRecord):
    """The complete table of an ablation, and what was noticed while it was measured."""

    format: Literal[1] = 1
    num_texts: int
    table: FileRecord
    notes: list[str] = Field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TextChanges:
    """What was measured on one text.

    `intact` is its score and `right` whether its right choice is the likeliest. Over X units: `selected` [X],
    selections of the text's own tokens; `num_removed` [X], all selections that are removed; `num_matched` [X], the
    fewest that a draw found; `removed` [X] and `controls` [X, R], changes of the score.
    """

    text_id: str
    label: str
    intact: float
    right: bool | None
    selected: IntArray
    num_removed: IntArray
    num_matched: IntArray
    removed: FloatArray
    controls: FloatArray


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ablation:
    """An ablation in memory, texts ordered by id: the fields of `TextChanges` over n texts. `right` may be None.

    `notes` are those of its record, beside the plan's.
    """

    plan: AblationPlan
    notes: tuple[str, ...] = ()
    text_ids: tuple[str, ...]
    labels: tuple[str, ...]
    intact: FloatArray
    right: BoolArray | None
    selected: FloatArray
    num_removed: FloatArray
    num_matched: FloatArray
    removed: FloatArray
    controls: FloatArray


def begin(directory: Path, plan: AblationPlan) -> None:
    """Write the plan, or compare it with that of an earlier start.

    Raises `RunDirectoryError` for a folder that holds something else, or an ablation whose numbers would be others.
    """
    path = directory / PLAN_FILE
    if directory.exists() and (not directory.is_dir() or (_holds_files(directory) and not path.is_file())):
        raise RunDirectoryError(
            "exists and is not an ablation", where=str(directory), remedy="name a new folder, or remove this one"
        )
    if not path.exists():
        directory.mkdir(parents=True, exist_ok=True)
        write_text_atomically(path, plan.model_dump_json(indent=2) + "\n")
        return
    earlier = read_plan(directory).model_dump()
    differing = sorted(key for key, value in plan.model_dump().items() if key != "model" and value != earlier[key])
    if differing:
        raise RunDirectoryError(
            f"holds an ablation with other {', '.join(differing)}", where=str(directory), remedy="name a new folder"
        )


def _holds_files(directory: Path) -> bool:
    """Whether there is more than temporary files, which another process may be writing at the same time."""
    return any(not path.name.startswith(".") for path in directory.iterdir())


def read_plan(directory: Path) -> AblationPlan:
    """Read what is ablated. Raises `RunDirectoryError`."""
    return _record(directory, PLAN_FILE, AblationPlan)


def _record(directory: Path, name: str, kind: type[StoredT]) -> StoredT:
    path = directory / name
    try:
        return kind.model_validate_json(read_bytes(path))
    except FileNotFoundError as error:
        has_plan = (directory / PLAN_FILE).is_file()
        what = "is not finished" if has_plan else "is not an ablation"
        raise RunDirectoryError(f"{what}: there is no {name}", where=str(directory), remedy=REMEDY) from error
    except (OSError, ValidationError) as error:
        raise RunDirectoryError("cannot be read", where=str(path), remedy=REMEDY) from error


def is_complete(directory: Path) -> bool:
    """Return whether an ablation ended."""
    return (directory / MANIFEST_FILE).is_file()


def part_path(directory: Path, part: int) -> Path:
    """Return where the texts of a part are."""
    return directory / PARTS / f"{part:05}.parquet"


def write_part(directory: Path, part: int, texts: Sequence[TextChanges]) -> None:
    """Write the changes of a part's texts, whole or not at all."""
    columns: dict[str, list[Any]] = {
        name: [getattr(text, name) for text in texts] for name in ("text_id", "label", "intact", "right")
    }
    for name in (*LISTS, "controls"):
        columns[name] = [np.asarray(getattr(text, name)).ravel() for text in texts]
    table = pa.table(columns, schema=CHANGES_SCHEMA)
    write_atomically(part_path(directory, part), lambda path: pq.write_table(table, path, compression="zstd"))


def finish(directory: Path, num_parts: int, notes: Sequence[str] = ()) -> None:
    """Join the parts to one table ordered by text id, and remove them; or remove them if another process joined them.

    Raises `RunDirectoryError` for a damaged part.
    """
    if not is_complete(directory):
        _join(directory, num_parts, notes)
    shutil.rmtree(directory / PARTS, ignore_errors=True)


def _join(directory: Path, num_parts: int, notes: Sequence[str]) -> None:
    tables = []
    for part in range(num_parts):
        path = part_path(directory, part)
        try:
            tables.append(pq.read_table(path, schema=CHANGES_SCHEMA))
        except (pa.ArrowException, OSError) as error:
            if is_complete(directory):
                return
            remedy = f"remove it, and {REMEDY}"
            raise RunDirectoryError("is damaged", where=str(path), remedy=remedy) from error
    table = pa.concat_tables(tables).sort_by("text_id")
    path = directory / TABLE_FILE
    write_atomically(path, lambda temporary: pq.write_table(table, temporary, compression="zstd"))
    record = AblationRecord(
        num_texts=table.num_rows,
        table=FileRecord(num_bytes=path.stat().st_size, sha256=file_sha256(path)),
        notes=list(notes),
    )
    write_text_atomically(directory / MANIFEST_FILE, record.model_dump_json(indent=2) + "\n")


def read_ablation(directory: Path) -> Ablation:
    """Read a finished ablation. Raises `RunDirectoryError` for what is none, unfinished, truncated or damaged."""
    plan, record = read_plan(directory), _record(directory, MANIFEST_FILE, AblationRecord)
    path = directory / TABLE_FILE
    num_bytes = path.stat().st_size if path.is_file() else 0
    if num_bytes != record.table.num_bytes or file_sha256(path) != record.table.sha256:
        remedy = f"remove {directory}, and {REMEDY}"
        raise RunDirectoryError("is truncated or damaged", where=str(path), remedy=remedy)
    table = pq.read_table(path, schema=CHANGES_SCHEMA)
    shape = (table.num_rows, len(plan.units))
    lists = {name: _array(table[name], shape) for name in LISTS}
    right = None if table["right"].null_count else np.array(table["right"].to_pylist(), dtype=np.bool_)
    return Ablation(
        plan=plan,
        notes=tuple(record.notes),
        text_ids=tuple(table["text_id"].to_pylist()),
        labels=tuple(table["label"].to_pylist()),
        intact=table["intact"].to_numpy().astype(np.float64),
        right=right,
        controls=_array(table["controls"], (*shape, plan.num_draws)),
        **lists,
    )


def _array(column: pa.ChunkedArray, shape: tuple[int, ...]) -> FloatArray:
    flat = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return np.asarray(flat, dtype=np.float64).reshape(shape)
