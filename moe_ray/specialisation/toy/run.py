"""`moe-ray specialise train-toy`: train a model for each seed, and measure it on held-out texts. Resumable."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from moe_ray.config.schema import ModelConfig
from moe_ray.device import use_threads
from moe_ray.engines.settings import TransformersSettings
from moe_ray.engines.transformers.classifying import class_logits
from moe_ray.engines.transformers.loading import load
from moe_ray.files import write_directory_atomically, write_json, write_text_atomically
from moe_ray.fingerprint import fingerprint
from moe_ray.moe.btx.tokens import learn_tokenizer
from moe_ray.moe.running import load_tokenizer
from moe_ray.proportions import wilson_bounds
from moe_ray.specialisation.causal import mean_of
from moe_ray.specialisation.toy import records
from moe_ray.specialisation.toy.data import ToyData, read_toy_data, write_texts
from moe_ray.specialisation.toy.records import ToyPlan, ToyReport, ToySeedRecord
from moe_ray.specialisation.toy.request import ToyConfig
from moe_ray.specialisation.toy.training import ToyTrainer, save_toy

TEST_BATCH_SIZE = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class ToyProgress:
    """Calls while a toy is trained: the number of epochs of all seeds and those that are done, then each epoch."""

    on_start: Callable[[int, int], object] = field(default=lambda _num_epochs, _num_done: None)
    on_epoch: Callable[[int, float], object] = field(default=lambda _seed, _loss: None)


def train_toy(config: ToyConfig, out: Path, progress: ToyProgress | None = None) -> ToyReport:
    """Train the seeds that `out` does not hold yet, and return the report on all of them.

    Raises `DataError` for texts that cannot be used, and `RunDirectoryError` for a folder of another toy.
    """
    progress = progress or ToyProgress()
    data = read_toy_data(config)
    plan = _plan(config, data)
    records.claim(out, plan)
    write_texts(out / records.TRAIN_FILE, data.train)
    write_texts(out / records.TEST_FILE, data.test)
    use_threads(config.cpu_threads)
    tokenizer = _tokenizer(config, data, out / records.TOKENIZER)
    found = {seed: records.read_seed(out, seed, plan.identity) for seed in config.seeds}
    epochs, num_done = config.training.epochs, sum(one is not None for one in found.values())
    progress.on_start(epochs * len(found), epochs * num_done)
    for seed in [seed for seed, record in found.items() if record is None]:
        found[seed] = _train_seed(config, data, tokenizer, seed, out, plan.identity, progress)
    report = _report(config, data, [record for record in found.values() if record is not None])
    write_text_atomically(out / records.REPORT_FILE, report.model_dump_json(indent=2) + "\n")
    return report


def _plan(config: ToyConfig, data: ToyData) -> ToyPlan:
    texts = [[[one.id, one.label, one.text] for one in part] for part in (data.train, data.test)]
    settings = config.deciding()
    identity = fingerprint({"settings": settings, "classes": data.classes, "texts": texts})
    return ToyPlan(identity=identity, settings=settings, texts=data.counts())


def _tokenizer(config: ToyConfig, data: ToyData, folder: Path) -> Any:
    """Return the tokenizer in `folder`, which is learned from the training texts once."""
    if not folder.exists():
        learned = learn_tokenizer([text.text for text in data.train], config.vocabulary_size)
        write_directory_atomically(folder, learned.save_pretrained)
    return load_tokenizer(folder)


def _train_seed(
    config: ToyConfig, data: ToyData, tokenizer: Any, seed: int, out: Path, identity: str, progress: ToyProgress
) -> ToySeedRecord:
    trainer = ToyTrainer(config, data, tokenizer, seed=seed)
    losses: list[float] = []

    def on_epoch(loss: float) -> None:
        losses.append(loss)
        progress.on_epoch(seed, loss)

    num_steps = trainer.train(on_epoch)
    made: list[ToySeedRecord] = []

    def write(folder: Path) -> None:
        save_toy(trainer.model, tokenizer, folder)
        right = _right(folder, data, config)
        low, high = wilson_bounds(int(right.sum()), len(right))
        labels = np.array([text.label for text in data.test])
        record = ToySeedRecord(
            seed=seed,
            identity=identity,
            num_parameters=sum(one.numel() for one in trainer.model.parameters()),
            num_steps=num_steps,
            loss=losses[-1],
            num_texts=len(right),
            accuracy=float(right.mean()),
            low=low,
            high=high,
            class_accuracy={name: float(right[labels == name].mean()) for name in data.classes},
        )
        write_json(folder / records.SEED_FILE, record)
        made.append(record)

    write_directory_atomically(records.seed_folder(out, seed), write)
    return made[-1]


def _right(folder: Path, data: ToyData, config: ToyConfig) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Return for each test text whether the checkpoint, loaded as `ablate` loads it, names its class."""
    loaded = load(
        ModelConfig(path=str(folder.absolute()), gpus=0, prompt_style="completion"),
        TransformersSettings(),
        any_head=True,
    )
    texts = [text.text for text in data.test]
    rows = [ids[: config.max_tokens] for ids in loaded.tokenizer(texts, verbose=False)["input_ids"]]
    found: list[int] = []
    for start in range(0, len(rows), TEST_BATCH_SIZE):
        found += class_logits(loaded, rows[start : start + TEST_BATCH_SIZE]).argmax(dim=-1).tolist()
    return np.array([data.classes[code] == text.label for code, text in zip(found, data.test, strict=True)])


def _report(config: ToyConfig, data: ToyData, seeds: Sequence[ToySeedRecord]) -> ToyReport:
    over_seeds = mean_of(np.array([one.accuracy for one in seeds]))
    low, high = over_seeds.interval() if len(seeds) > 1 else (None, None)
    sizes = [counts["test"] for counts in data.counts().values()]
    return ToyReport(
        model=config.model.kind,
        texts=data.counts(),
        seeds=list(seeds),
        accuracy=over_seeds.value,
        low=low,
        high=high,
        majority=max(sizes) / sum(sizes),
    )
