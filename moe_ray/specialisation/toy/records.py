"""What a toy leaves on disk, read without torch.

```
DIR/
  toy.json          settings and a fingerprint of them and the texts; written first, compared before a toy resumes
  train.jsonl, test.jsonl   the texts, as trace and ablate read them
  tokenizer/        learned from the training texts
  seed-3/           a checkpoint, and training.json: its accuracy on the test texts
  report.json       all seeds; written last
```
"""

from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from moe_ray.errors import RunDirectoryError
from moe_ray.files import StoredRecord, read_bytes, write_text_atomically

PLAN_FILE, REPORT_FILE, SEED_FILE = "toy.json", "report.json", "training.json"
TRAIN_FILE, TEST_FILE, TOKENIZER = "train.jsonl", "test.jsonl", "tokenizer"
REMEDY = "name a new folder, or remove this one"


class ToyPlan(StoredRecord):
    """What decides the weights of each seed. `texts` has the number of texts by class and part."""

    format: Literal[1] = 1
    identity: str
    settings: dict[str, Any]
    texts: dict[str, dict[str, int]]


class ToySeedRecord(StoredRecord):
    """One trained seed. `accuracy` on `num_texts` test texts, with Wilson's 95 % interval over texts."""

    seed: int
    identity: str
    num_parameters: int
    num_steps: int
    loss: float
    num_texts: int
    accuracy: float
    low: float
    high: float
    class_accuracy: dict[str, float]


class ToyReport(StoredRecord):
    """All seeds. `accuracy` is their mean, with the 95 % t interval over seeds; None with one seed.

    `majority` is the accuracy of always answering the largest class.
    """

    format: Literal[1] = 1
    model: str
    texts: dict[str, dict[str, int]]
    seeds: list[ToySeedRecord]
    accuracy: float
    low: float | None
    high: float | None
    majority: float


def claim(out: Path, plan: ToyPlan) -> None:
    """Write the plan, or compare it with that of an earlier start. Raises `RunDirectoryError` for another's folder."""
    path = out / PLAN_FILE
    if path.is_file():
        try:
            earlier = ToyPlan.model_validate_json(read_bytes(path))
        except (OSError, ValidationError) as error:
            raise RunDirectoryError("cannot be read", where=str(path), remedy=REMEDY) from error
        if earlier.identity != plan.identity:
            named = sorted(key for key, value in plan.settings.items() if earlier.settings.get(key) != value)
            what = f"holds a toy with other {', '.join(named) or 'texts'}"
            raise RunDirectoryError(what, where=str(out), remedy=REMEDY)
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunDirectoryError("exists and is not a toy", where=str(out), remedy=REMEDY)
    out.mkdir(parents=True, exist_ok=True)
    write_text_atomically(path, plan.model_dump_json(indent=2) + "\n")


def seed_folder(out: Path, seed: int) -> Path:
    """Return where the checkpoint of a seed is."""
    return out / f"seed-{seed}"


def read_seed(out: Path, seed: int, identity: str) -> ToySeedRecord | None:
    """Return the record of a trained seed; None where it is not trained. Raises `RunDirectoryError`."""
    path = seed_folder(out, seed) / SEED_FILE
    if not path.parent.exists():
        return None
    try:
        record = ToySeedRecord.model_validate_json(read_bytes(path))
    except (OSError, ValidationError) as error:
        remedy = f"remove {path.parent}, and run the same command again"
        raise RunDirectoryError("is not the record of a seed", where=str(path), remedy=remedy) from error
    if record.identity != identity or record.seed != seed:
        raise RunDirectoryError("is of another toy", where=str(path), remedy=f"remove {path.parent}")
    return record
