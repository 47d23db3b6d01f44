"""Train a part of a model on text, from where an earlier attempt was stopped: on a CPU to bit-equal weights.

Nothing here knows Ray. A job is all that a worker needs; folders in it are on a disk that driver and workers share.
"""

import math
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
from moe_ray.errors import RunDirectoryError
from moe_ray.files import write_directory_atomically, write_json
from moe_ray.fingerprint import fingerprint
from moe_ray.moe.btx.blocks import batch_of_step, token_blocks
from moe_ray.moe.btx.config import ExpertTraining, TrainedPart
from moe_ray.moe.btx.state import HistoryPoint, TrainingRecord, TrainingState, read_record
from moe_ray.moe.families import family_of
from moe_ray.moe.running import load_for_construction, load_tokenizer


def mixture_layers(config: Any) -> tuple[int, ...]:
    """The decoder layers that have experts, of an own architecture's configuration; none of a dense model's."""
    if not hasattr(config, "is_mixture"):
        return ()
    return tuple(layer for layer in range(config.num_hidden_layers) if config.is_mixture(layer))


def load_entropy(counts: torch.Tensor) -> float:
    """The entropy of the shares in `counts` [E] as a part of its maximum: 1 when all are alike, 0 when one has all."""
    shares = counts.double() / counts.sum()
    return float(-(shares * shares.clamp(min=1e-300).log()).sum() / math.log(len(counts)))


class GateWatch:
    """Means over training steps: the loss and, of a mixture, its gates' losses and each layer's load entropy."""

    def __init__(self, config: Any) -> None:
        self._layers = mixture_layers(config)
        self._top_k = getattr(config, "num_experts_per_tok", 1)
        self._reset()

    def _reset(self) -> None:
        self._num_steps = 0.0
        self._sums: dict[str, float] = {}
        self._counts: dict[int, torch.Tensor] = {}

    def add(self, output: Any, share: float) -> None:
        """Take in the output of a part of a step, which is `share` of it."""
        self._num_steps += share
        found = {"loss": output.loss, "balancing": output.get("aux_loss"), "z": output.get("z_loss")}
        for name, value in found.items():
            if value is not None:
                self._sums[name] = self._sums.get(name, 0.0) + share * float(value.detach())
        for layer, logits in zip(self._layers, output.get("router_logits") or (), strict=False):
            self._count(layer, logits.detach())

    def _count(self, layer: int, logits: torch.Tensor) -> None:
        """Count the experts that each token of logits [T, E] asks."""
        asked = logits.topk(self._top_k, dim=-1).indices.flatten()
        counts = torch.bincount(asked, minlength=logits.shape[-1]).cpu()
        self._counts[layer] = self._counts[layer] + counts if layer in self._counts else counts

    def means(self) -> dict[str, Any]:
        """Return what `HistoryPoint` says of the steps since the last call, and begin anew."""
        means: dict[str, Any] = {name: total / self._num_steps for name, total in self._sums.items()}
        if self._counts:
            means["load_entropy"] = {layer: load_entropy(counts) for layer, counts in self._counts.items()}
        self._reset()
        return means


MAX_GRADIENT_NORM = 1.0
NUM_POINTS = 50
PRECISIONS = {"float32": "no", "bfloat16": "bf16"}  # as accelerate names them
RECORDS_FOLDER = ".trainings"  # no name of an expert begins so


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertTrainingJob:
    """Train `part` of the checkpoint in `model_dir` on `texts`, and write the result to `out_dir`.

    "networks" are the feed-forwards of every layer. `losses` are coefficients of the configuration of a mixture.
    Record and resumable state lie in the folder `.trainings` beside `out_dir`, under its name.
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
        """What decides the trained weights; where they lie does not, nor how often a state is kept."""
        return fingerprint(
            {
                "model": identity_hashes(self.model_dir),
                "texts": self.texts,
                "settings": self.settings.deciding(),
                "part": self.part,
                "losses": dict(self.losses),
            }
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingStep:
    """How far the training `name` is; `loss` is the mean since it was told last, in nats a token with the gates'."""

    name: str
    step: int
    num_steps: int
    loss: float


RunTrainings = Callable[[Sequence[ExpertTrainingJob]], Iterator[TrainingStep]]
"""Runs trainings, of which there is at least one, at once or one after the other, and yields how far each is."""


def in_turn(jobs: Sequence[ExpertTrainingJob]) -> Iterator[TrainingStep]:
    """Train one after the other, in this process."""
    for job in jobs:
        yield from train(job)


def complete(
    jobs: Sequence[ExpertTrainingJob],
    run: RunTrainings,
    *,
    begun: Callable[[Sequence[ExpertTrainingJob]], object] = lambda _: None,
    heard: Callable[[TrainingStep], object] = lambda _: None,
) -> list[TrainingRecord]:
    """Run the jobs that are not done, and return the records of all. `begun` hears of those that are run.

    Raises `RunDirectoryError` when a record is another training's, or did not come to this machine's disk.
    """
    identities = [job.identity() for job in jobs]
    pairs = list(zip(jobs, identities, strict=True))
    if waiting := [job for job, identity in pairs if read_record(job.record_file, identity) is None]:
        begun(waiting)
        for step in run(waiting):
            heard(step)
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


def train(job: ExpertTrainingJob) -> Iterator[TrainingStep]:
    """Train, and yield how far it is; the checkpoint and, last, its record are written before the end.

    What is finished already is not done again, and what was stopped goes on from its last state. Raises
    `RunDirectoryError` when state or record are of another training, `DataError` when the texts fill no block.
    """
    identity = job.identity()
    if read_record(job.record_file, identity) is None:
        yield from _Training(job, identity).run()


class _Training:
    """A model in memory with its optimizer, at `step` of `num_steps`."""

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

    def run(self) -> Iterator[TrainingStep]:
        torch.manual_seed(self._settings.seed)
        start, self._record.history = self._state.restore()
        watch, every = GateWatch(self._model.config), max(1, self._num_steps // NUM_POINTS)
        for step in range(start, self._num_steps):
            self._step(step, watch)
            done = step + 1
            is_kept = done % self._settings.checkpoint_every == 0 and done < self._num_steps
            if done % every == 0 or done == self._num_steps or is_kept:
                point = HistoryPoint(step=done, **watch.means())
                self._record.history.append(point)
                if is_kept:
                    self._state.keep(done, self._record.history)
                yield TrainingStep(name=self._job.name, step=done, num_steps=self._num_steps, loss=point.loss)
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
    """Let only `part` of the model learn, and return its parameters by name."""
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
    """The share of the peak rate: linear warm-up, then a cosine to zero."""
    warmup = warmup_fraction * num_steps
    if step < warmup:
        return (step + 1) / math.ceil(warmup)
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (num_steps - warmup)))


def _accelerator(settings: ExpertTraining, device: str) -> Accelerator:
    """Mixed precision on one device. accelerate would keep a process's first precision for all that it trains."""
    AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator(mixed_precision=PRECISIONS[settings.precision], cpu=device == "cpu")
