"""Train parts of a model on text, resumably. On a CPU a resumed training yields bit-equal weights.

Independent of Ray: a job is picklable, and its folders are on a disk that driver and workers share.
"""

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn

from moe_ray.checkpoints.identity import identity_hashes
from moe_ray.checkpoints.source import SourceCheckpoint, copy_companions
from moe_ray.checkpoints.tensors import TensorReader
from moe_ray.device import choose_device
from moe_ray.errors import DataError, RunDirectoryError
from moe_ray.files import write_directory_atomically, write_json
from moe_ray.fingerprint import fingerprint
from moe_ray.moe.btx.request import ExpertTraining, TrainedPart
from moe_ray.moe.btx.state import GateWatch, HistoryPoint, TrainingRecord, TrainingState, read_record
from moe_ray.moe.btx.tokens import end_token, plain_ids
from moe_ray.moe.families import family_of
from moe_ray.moe.running import load_for_construction, load_tokenizer
from moe_ray.progress import TrainingProgress

MAX_GRADIENT_NORM = 1.0
NUM_POINTS = 50
PRECISIONS = {"float32": "no", "bfloat16": "bf16"}  # as accelerate names them
RECORDS_FOLDER = ".trainings"  # not a valid expert name


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertTrainingJob:
    """Train `part` of the checkpoint in `model_dir` on `texts`, and write the result to `out_dir`.

    "networks" are the feed-forwards of every layer. `losses` are loss coefficients of a mixture's configuration.
    The record and the resumable state are in the folder `.trainings` beside `out_dir`, under its name.
    """

    model_dir: Path
    out_dir: Path
    texts: tuple[str, ...]
    settings: ExpertTraining
    part: TrainedPart
    losses: Mapping[str, float] = field(default_factory=dict)
    num_threads: int = 1

    @property
    def name(self) -> str:
        return self.out_dir.name

    @property
    def record_file(self) -> Path:
        return self.out_dir.parent / RECORDS_FOLDER / f"{self.name}.json"

    @property
    def state_file(self) -> Path:
        return self.record_file.with_suffix(".state")

    def identity(self) -> str:
        """Return the fingerprint of everything that determines the trained weights; paths are excluded."""
        return fingerprint(
            {
                "model": identity_hashes(self.model_dir),
                "texts": self.texts,
                "settings": self.settings.deciding(),
                "part": self.part,
                "losses": dict(self.losses),
            }
        )


RunTrainings = Callable[[Sequence[ExpertTrainingJob]], Iterator[TrainingProgress]]
"""Runs one or more trainings, concurrently or sequentially, and yields their progress."""


def in_turn(jobs: Sequence[ExpertTrainingJob]) -> Iterator[TrainingProgress]:
    """Run the trainings sequentially in this process."""
    for job in jobs:
        yield from train(job)


def complete(
    jobs: Sequence[ExpertTrainingJob],
    run: RunTrainings,
    *,
    on_start: Callable[[Sequence[ExpertTrainingJob]], object] = lambda _: None,
    on_step: Callable[[TrainingProgress], object] = lambda _: None,
) -> list[TrainingRecord]:
    """Run the unfinished jobs, and return the records of all jobs. `on_start` receives the unfinished jobs.

    Raises `RunDirectoryError` if a record belongs to another training, or is missing after the job has run.
    """
    identities = [job.identity() for job in jobs]
    pairs = list(zip(jobs, identities, strict=True))
    if waiting := [job for job, identity in pairs if read_record(job.record_file, identity) is None]:
        on_start(waiting)
        for step in run(waiting):
            on_step(step)
    return [_record_of(job, identity) for job, identity in pairs]


def _record_of(job: ExpertTrainingJob, identity: str) -> TrainingRecord:
    record = read_record(job.record_file, identity)
    if record is None:
        raise RunDirectoryError(
            f"training of {job.name} finished, but its checkpoint does not exist",
            where=str(job.out_dir),
            remedy="write to a folder on a disk that all nodes of the cluster share",
        )
    return record


def train(job: ExpertTrainingJob) -> Iterator[TrainingProgress]:
    """Train and yield progress. Writes the checkpoint, then the record.

    A finished training is skipped; an interrupted one continues from its last state. Raises `RunDirectoryError` if
    state or record belong to another training, and `DataError` if the texts do not fill a block.
    """
    identity = job.identity()
    if read_record(job.record_file, identity) is None:
        yield from _Training(job, identity).run()


class _Training:
    """A running training: model, optimizer and state."""

    def __init__(self, job: ExpertTrainingJob, identity: str) -> None:
        self._job, self._settings = job, job.settings
        self._accelerator = _accelerator(self._settings, choose_device(job.num_threads))
        tokenizer = load_tokenizer(job.model_dir)
        self._blocks = token_blocks(tokenizer, job.texts, block_tokens=job.settings.block_tokens)
        self._num_steps = job.settings.num_steps(len(self._blocks))
        self._model = load_for_construction(job.model_dir, device=self._accelerator.device).train()
        self._config = {name: getattr(self._model.config, name) for name in job.losses}
        self._model.config.update(dict(job.losses))
        trained = unfreeze(self._model, job.part)
        self._trained = list(trained.values())
        self._optimizer = torch.optim.AdamW(
            self._trained, lr=job.settings.learning_rate, betas=(0.9, 0.95), weight_decay=job.settings.weight_decay
        )
        self._accelerator.prepare(self._model, self._optimizer)
        self._state = TrainingState(job.state_file, identity, trained, self._optimizer)
        self._record = TrainingRecord(identity=identity, num_steps=self._num_steps, num_tokens=0, history=[])

    def run(self) -> Iterator[TrainingProgress]:
        torch.manual_seed(self._settings.seed)
        start, self._record.history = self._state.restore()
        watch, every = GateWatch(self._model.config), max(1, self._num_steps // NUM_POINTS)
        for step in range(start, self._num_steps):
            self._step(step, watch)
            done = step + 1
            is_saved = done % self._settings.checkpoint_every == 0 and done < self._num_steps
            if done % every == 0 or done == self._num_steps or is_saved:
                point = HistoryPoint(step=done, **watch.means())
                self._record.history.append(point)
                if is_saved:
                    self._state.keep(done, self._record.history)
                yield TrainingProgress(
                    name=self._job.name,
                    step=done,
                    num_steps=self._num_steps,
                    epoch=done * self._settings.batch_size / len(self._blocks),
                    loss=point.loss,
                )
        self._finish()

    def _step(self, step: int, watch: GateWatch) -> None:
        places = batch_of_step(
            step, num_blocks=len(self._blocks), batch_size=self._settings.batch_size, seed=self._settings.seed
        )
        rate = self._settings.learning_rate * learning_rate_share(step, self._num_steps, self._settings.warmup_fraction)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        for ids in self._blocks[places].to(self._model.device).chunk(self._settings.gradient_accumulation_steps):
            output, share = self._model(input_ids=ids, labels=ids, use_cache=False), len(ids) / len(places)
            self._accelerator.backward(share * output.loss)
            watch.add(output, share)
        self._accelerator.clip_grad_norm_(self._trained, MAX_GRADIENT_NORM)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def _finish(self) -> None:
        self._model.config.update(self._config)
        write_directory_atomically(self._job.out_dir, self._save)
        self._record.num_tokens = self._num_steps * self._settings.batch_size * self._settings.block_tokens
        self._job.record_file.parent.mkdir(parents=True, exist_ok=True)
        write_json(self._job.record_file, self._record)
        self._job.state_file.unlink(missing_ok=True)

    def _save(self, directory: Path) -> None:
        self._model.save_pretrained(directory)
        model_dir = self._job.model_dir
        source = SourceCheckpoint(
            name=model_dir.name, directory=model_dir, config=self._model.config, reader=TensorReader(model_dir)
        )
        copy_companions(source, directory)


def unfreeze(model: Any, part: TrainedPart) -> dict[str, nn.Parameter]:
    """Freeze all parameters except those of `part`, and return the trainable ones by name."""
    wanted = _is_of(model, part)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(wanted(name))
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def _is_of(model: Any, part: TrainedPart) -> Any:
    if part == "everything":
        return lambda _: True
    if part == "networks":
        family = family_of(model.config.model_type)
        layers = range(model.config.num_hidden_layers)
        return {name for layer in layers for name in family.ffn_sources(layer).values()}.__contains__
    kinds = (".mlp.gate.",) if part == "gates" else (".mlp.gate.", ".mlp.experts.")
    return lambda name: any(kind in name for kind in kinds)


def learning_rate_share(step: int, num_steps: int, warmup_fraction: float) -> float:
    """Return the learning rate relative to its peak: linear warm-up, then cosine decay to zero."""
    warmup = warmup_fraction * num_steps
    if step < warmup:
        return (step + 1) / math.ceil(warmup)
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (num_steps - warmup)))


def _accelerator(settings: ExpertTraining, device: str) -> Accelerator:
    """Return an accelerator with its own precision; accelerate would reuse the first one of the process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator(mixed_precision=PRECISIONS[settings.precision], cpu=device == "cpu")


def token_blocks(tokenizer: Any, texts: Sequence[str], *, block_tokens: int) -> torch.Tensor:
    """Return the texts' tokens in blocks [num_blocks, block_tokens], with an end token after each text.

    Tokens after the last full block are dropped. Raises `DataError` without a full block.
    """
    end = end_token(tokenizer)
    stream = [token for text in texts for token in (*plain_ids(tokenizer, text), end)]
    num_blocks = len(stream) // block_tokens
    if not num_blocks:
        raise DataError(
            f"{len(stream)} tokens of text do not fill one block of {block_tokens}",
            remedy="give more text, or lower block_tokens",
        )
    return torch.tensor(stream[: num_blocks * block_tokens]).view(num_blocks, block_tokens)


def batch_of_step(step: int, *, num_blocks: int, batch_size: int, seed: int) -> list[int]:
    """Return the block indices of a step. Each epoch has its own random order; batches may span two epochs."""
    places = range(step * batch_size, (step + 1) * batch_size)
    orders = {epoch: _order(epoch, num_blocks, seed) for epoch in {place // num_blocks for place in places}}
    return [orders[place // num_blocks][place % num_blocks] for place in places]


def _order(epoch: int, num_blocks: int, seed: int) -> list[int]:
    return random.Random(f"{seed}:{epoch}").sample(range(num_blocks), num_blocks)
