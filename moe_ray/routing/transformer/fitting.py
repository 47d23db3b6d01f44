"""Training a sequence-classification model with transformers' Trainer."""

import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import transformers
from torch.nn import functional
from torch.utils.data import DataLoader, Sampler
from transformers.trainer_callback import PrinterCallback

from moe_ray.config.schema import RouterConfig
from moe_ray.gating.calibration import confusion_matrix, macro_f1
from moe_ray.gating.fitting import balanced_weights
from moe_ray.progress import Report
from moe_ray.routing.transformer.encoder import BaseModel
from moe_ray.routing.transformer.tokens import TextReader, TokenIds, pad
from moe_ray.routing.transformer.watch import EncoderTraining, EpochWatch, TrainingHistory
from moe_ray.texts.labelled import LabelledText, codes

BATCHES_OF_POOL = 64


class LengthBatches(Sampler[list[int]]):
    """The places of rows, batch by batch, redrawn in each pass.

    Rows are shuffled, sorted by length within pools of 64 batches, and the batches shuffled again: unlike
    transformers' own length grouping, whose batches of a pool follow each other from the longest to the shortest, and
    with the length the label.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self._lengths = lengths
        self.batch_size = batch_size
        self._generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return -(-len(self._lengths) // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        order = self._shuffled(len(self._lengths))
        pools = _chunks(order, self.batch_size * BATCHES_OF_POOL)
        sorted_rows = [row for pool in pools for row in sorted(pool, key=self._lengths.__getitem__)]
        batches = _chunks(sorted_rows, self.batch_size)
        yield from (batches[at] for at in self._shuffled(len(batches)))

    def _shuffled(self, num: int) -> list[int]:
        places: list[int] = torch.randperm(num, generator=self._generator).tolist()
        return places


def _chunks(rows: Sequence[int], size: int) -> list[list[int]]:
    return [list(rows[at : at + size]) for at in range(0, len(rows), size)]


# A pretrained encoder is fitted in a few passes, and forgets with more; random weights take as many as still help.
PRETRAINED_EPOCHS, SCRATCH_EPOCHS = 3, 20
PRETRAINED_RATE = 5e-5
# Adam's best rate falls with a layer's width: 1e-4 at DistilBERT's 768, and no more than 1e-3 in narrow models.
SCRATCH_RATE_TIMES_WIDTH, MAX_SCRATCH_RATE = 0.0768, 1e-3
EVALUATION_ROWS = 32
LOGS_PER_EPOCH = 20

EncodedRow = tuple[TokenIds, int]


def fit(
    base: BaseModel,
    config: RouterConfig,
    labels: Sequence[str],
    train: Sequence[LabelledText],
    validation: Sequence[LabelledText],
    *,
    device: str,
    report: Report,
) -> TrainingHistory:
    """Train `base.model` in place, to the weights of its best epoch. Leaves no file behind.

    Every label has a training text, and there is some validation text.
    """
    settings = _settings(base, config, labels, train, device)
    watch = EpochWatch(settings.patience, report)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="moe-ray-router-") as folder:
        trainer = RouterTrainer(
            model=base.model,
            args=_arguments(settings, len(train), folder),
            data_collator=lambda rows: _collated(rows, base.tokenizer.pad_token_id),
            train_dataset=_rows(base, labels, train),
            eval_dataset=sorted(_rows(base, labels, validation), key=lambda row: len(row[0])),
            compute_loss_func=LabelLoss(list(settings.label_weights.values())),
            compute_metrics=lambda outcome: _measured(outcome, len(labels)),
            callbacks=[watch],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    trainer.accelerator.unwrap_model(trainer.model_wrapped, keep_fp32_wrapper=False)  # ends mixed precision
    watch.restore_best(base.model)
    return TrainingHistory(
        settings=settings,
        epochs=watch.epochs,
        best_epoch=watch.best_epoch,
        stopped_early=len(watch.epochs) < settings.max_epochs,
        train_s=time.perf_counter() - started,
    )


class RouterTrainer(transformers.Trainer):  # type: ignore[misc]  # transformers is not typed
    """A `Trainer` whose batches hold texts of like length."""

    def get_train_dataloader(self) -> DataLoader[Any]:
        lengths = [len(token_ids) for token_ids, _ in self.train_dataset]
        batches = LengthBatches(lengths, self.args.per_device_train_batch_size, self.args.seed)
        return DataLoader(self.train_dataset, batch_sampler=batches, collate_fn=self.data_collator)


class LabelLoss:
    """Cross-entropy, in nats: the mean over a batch's texts, each times the weight of its label if there are weights.

    It is not divided by the weights of the batch, as torch's own would be: that would undo them in every batch of one
    label, and batches of like length are often nearly of one.
    """

    def __init__(self, weights: Sequence[float]) -> None:
        self._weights = torch.tensor(weights) if weights else None

    def __call__(self, outputs: Any, labels: torch.Tensor, **_: Any) -> torch.Tensor:
        """Return the loss of a batch."""
        losses = functional.cross_entropy(outputs["logits"].float(), labels, reduction="none")
        if self._weights is not None:
            losses = losses * self._weights.to(labels.device)[labels]
        return losses.mean()


def _settings(
    base: BaseModel, config: RouterConfig, labels: Sequence[str], train: Sequence[LabelledText], device: str
) -> EncoderTraining:
    training = config.training
    max_epochs = training.epochs or (PRETRAINED_EPOCHS if base.pretrained else SCRATCH_EPOCHS)
    num_steps = max_epochs * math.ceil(len(train) / training.batch_size)
    weights = balanced_weights(torch.tensor(codes(train, labels)), len(labels)).tolist()
    scratch_rate = min(MAX_SCRATCH_RATE, SCRATCH_RATE_TIMES_WIDTH / base.model.config.hidden_size)
    return EncoderTraining(
        base=base.name,
        pretrained=base.pretrained,
        num_parameters=base.model.num_parameters(),
        device=device,
        precision=_precision(device),
        max_epochs=max_epochs,
        batch_size=training.batch_size,
        learning_rate=training.learning_rate or (PRETRAINED_RATE if base.pretrained else scratch_rate),
        weight_decay=training.weight_decay,
        num_warmup_steps=round(training.warmup_fraction * num_steps),
        patience=training.patience,
        max_tokens=base.max_tokens,
        seed=training.seed,
        label_weights=dict(zip(labels, weights, strict=True)) if config.balance == "weighted" else {},
    )


def _precision(device: str) -> str:
    if device == "cpu":
        return "float32"
    return "bfloat16" if torch.cuda.is_bf16_supported() else "float16"


def _arguments(settings: EncoderTraining, num_train: int, folder: str) -> Any:
    arguments = transformers.TrainingArguments(
        output_dir=folder,
        use_cpu=settings.device == "cpu",
        num_train_epochs=settings.max_epochs,
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=EVALUATION_ROWS,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        warmup_steps=settings.num_warmup_steps,
        seed=settings.seed,
        bf16=settings.precision == "bfloat16",
        fp16=settings.precision == "float16",
        eval_strategy="epoch",
        logging_steps=max(1, num_train // settings.batch_size // LOGS_PER_EPOCH),
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        log_level="error",
        remove_unused_columns=False,
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # else the Trainer spreads each batch over all GPUs that it sees
    return arguments


def _rows(base: BaseModel, labels: Sequence[str], texts: Sequence[LabelledText]) -> list[EncodedRow]:
    token_ids = TextReader(base.tokenizer).read([text.text for text in texts])
    return list(zip(token_ids, codes(texts, labels), strict=True))


def _collated(rows: Sequence[EncodedRow], pad_token_id: int) -> dict[str, torch.Tensor]:
    batch = pad([token_ids for token_ids, _ in rows], pad_token_id)
    return {**batch, "labels": torch.tensor([label for _, label in rows])}


def _measured(outcome: Any, num_labels: int) -> dict[str, float]:
    predicted = np.asarray(outcome.predictions).argmax(axis=1)
    return {"macro_f1": macro_f1(confusion_matrix(np.asarray(outcome.label_ids), predicted, num_labels))}
