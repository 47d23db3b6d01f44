"""Specifications and results of trainings, and the cache of trained models."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from moe_ray.fingerprint import file_sha256, fingerprint

ModelShape = Literal["phi3", "mistral", "qwen2"]

# Part of every fingerprint: raise it when training code changes what is learned.
CODE_VERSION = 1
RESULT_FILE = "training.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The size of a model, the same for all architectures."""

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """The budget of a training, the same for experts and baseline."""

    num_steps: int
    batch_rows: int
    learning_rate: float
    warmup_fraction: float = 0.1
    weight_decay: float = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSpec:
    """One training. `pairs_files`, in the format of `write_pairs`, are mixed evenly.

    From scratch, or from the checkpoint `start_from`, of which only the feed-forwards are trained.
    """

    name: str
    architecture: ModelShape
    shape: Shape
    budget: Budget
    pairs_files: tuple[str, ...]
    tokenizer_file: str
    cache_dir: str
    seed: int = 0
    start_from: str | None = None

    @property
    def fingerprint(self) -> str:
        """Fingerprint of everything that determines the weights; paths are excluded."""
        return fingerprint(
            {
                "code_version": CODE_VERSION,
                "architecture": self.architecture,
                "shape": asdict(self.shape),
                "budget": asdict(self.budget),
                "pairs": [file_sha256(Path(file)) for file in self.pairs_files],
                "tokenizer": file_sha256(Path(self.tokenizer_file)),
                "seed": self.seed,
                **({"start_from": Path(self.start_from).name} if self.start_from else {}),
            }
        )

    @property
    def checkpoint(self) -> Path:
        """The directory of the trained model; if it exists, it is complete."""
        return Path(self.cache_dir) / "microworld" / f"{self.name}-{self.fingerprint[:16]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingResult:
    """A trained model. `losses` are (step, mean loss in nats since the previous one); `cached`: trained earlier."""

    name: str
    checkpoint: Path
    num_parameters: int
    losses: Sequence[tuple[int, float]]
    train_s: float
    cached: bool


def cached_result(spec: TrainingSpec) -> TrainingResult | None:
    """Return the result of an earlier training of `spec`, or None."""
    file = spec.checkpoint / RESULT_FILE
    if not file.is_file():
        return None
    kept = json.loads(file.read_text(encoding="utf-8"))
    losses = tuple((int(step), float(loss)) for step, loss in kept["losses"])
    return TrainingResult(
        name=spec.name,
        checkpoint=spec.checkpoint,
        num_parameters=kept["num_parameters"],
        losses=losses,
        train_s=kept["train_s"],
        cached=True,
    )
