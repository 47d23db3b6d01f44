"""The text classifier behind a transformer router."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
import transformers

from moe_ray.config.schema import RouterConfig
from moe_ray.engines.transformers.loading import read_pretrained
from moe_ray.errors import CapacityError
from moe_ray.files import read_json, write_json
from moe_ray.progress import Report
from moe_ray.routing.classifier import ClassifierOutputs
from moe_ray.routing.files import TRAINING_FILE, damaged, reading
from moe_ray.routing.transformer.encoder import make_base
from moe_ray.routing.transformer.fitting import fit
from moe_ray.routing.transformer.forward import make_forward
from moe_ray.routing.transformer.tokens import TextReader, pad
from moe_ray.routing.transformer.watch import TrainingHistory
from moe_ray.texts.labelled import LabelledText

FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", TRAINING_FILE)
BATCH_ROWS = 32
# Of a batch, by device. Two cores take a text of 512 tokens a quarter faster among 4 than among 32, whose activations
# leave the cache (benchmarks.router_speed); a GPU wants as many as its memory holds.
MAX_TOKENS = {"cpu": 2048, "cuda": 65_536}
WINDOW_TEXTS = 4096  # sorted by length at a time, so that a million texts are never all in memory as tokens


class TransformerClassifier:
    """Implements `moe_ray.routing.classifier.TextClassifier` with an encoder and its classification head.

    `labels` are in the order of the logits. `history` tells how it was trained.
    """

    kind: ClassVar[str] = "transformer"

    def __init__(self, model: Any, tokenizer: Any, history: TrainingHistory, *, device: str) -> None:
        """Take a transformers sequence-classification model, which reads `tokenizer.model_max_length` tokens."""
        self.labels = tuple(model.config.id2label[at] for at in range(model.config.num_labels))
        self.history = history
        self._model = model.to(_available(device))
        self._tokenizer = tokenizer
        self._reader = TextReader(tokenizer)
        self._forward = make_forward(self._model)

    @property
    def num_labels(self) -> int:
        return len(self.labels)

    @classmethod
    def train(
        cls,
        config: RouterConfig,
        labels: Sequence[str],
        train: Sequence[LabelledText],
        validation: Sequence[LabelledText],
        *,
        device: str,
        report: Report,
    ) -> Self:
        """Fine-tune, or train from random weights; see `TextClassifier.train`."""
        _available(device)
        transformers.set_seed(config.training.seed)
        base = make_base(config, labels, [text.text for text in train])
        history = fit(base, config, labels, train, validation, device=device, report=report)
        return cls(base.model, base.tokenizer, history, device=device)

    def outputs(self, texts: Sequence[str]) -> ClassifierOutputs:
        """Logits and features of `texts`; see `TextClassifier.outputs`. Features are what enters the head's last layer.

        Which texts stand together in a batch moves the last digits at most.
        """
        logits = np.zeros((len(texts), self.num_labels))
        features = np.zeros((len(texts), self._forward.num_features))
        for start in range(0, len(texts), WINDOW_TEXTS):
            rows = self._reader.read(texts[start : start + WINDOW_TEXTS])
            by_length = sorted(range(len(rows)), key=lambda at: len(rows[at]))
            for places in batches(by_length, list(map(len, rows)), MAX_TOKENS[self._model.device.type]):
                found = self._forward(pad([rows[at] for at in places], self._reader.pad_token_id))
                into = start + np.array(places)
                logits[into], features[into] = found.logits, found.features
        return ClassifierOutputs(logits=logits, features=features)

    def save(self, directory: Path) -> None:
        """Write a plain transformers checkpoint, and beside it training.json."""
        self._model.save_pretrained(directory)
        self._tokenizer.save_pretrained(directory)
        write_json(directory / TRAINING_FILE, self.history)

    @classmethod
    def load(cls, directory: Path, *, device: str) -> Self:
        """Read a saved classifier back; its logits are the same to the last bit. See `TextClassifier.load`."""
        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        history = _history(directory)
        tokenizer = _read(transformers.AutoTokenizer, directory, "tokenizer.json")
        model_config = _read(transformers.AutoConfig, directory, "config.json")
        model, info = _read(
            transformers.AutoModelForSequenceClassification,
            directory,
            "model.safetensors",
            config=model_config,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # so that they are named in the info, and refused below with the missing
        )
        lacking = sorted([*info["missing_keys"], *(str(key[0]) for key in info["mismatched_keys"])])
        if lacking:
            raise damaged(directory / "model.safetensors", f"it lacks {len(lacking)} weights, {lacking[0]} first")
        return cls(model, tokenizer, history, device=device)


def batches(order: Sequence[int], lengths: Sequence[int], max_tokens: int) -> Iterator[list[int]]:
    """Yield `order`, places by ascending length, in batches of at most `BATCH_ROWS` rows and `max_tokens` with padding.

    A row that is longer than that is a batch of its own.
    """
    batch: list[int] = []
    for place in order:
        if batch and (len(batch) == BATCH_ROWS or (len(batch) + 1) * lengths[place] > max_tokens):
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch


def _available(device: str) -> str:
    if device == "cuda" and not torch.cuda.is_available():
        raise CapacityError("torch sees no GPU here", where="router.gpus", remedy="set gpus: 0 to use the CPU")
    return device


def _history(directory: Path) -> TrainingHistory:
    """Read training.json, after a look at whether all files are there: transformers names others than it lacks."""
    for name in FILES:
        with reading(directory / name):
            (directory / name).stat()
            if name.endswith(".json"):
                read_json(directory / name)
    with reading(directory / TRAINING_FILE):  # pydantic's ValidationError is a ValueError
        return TrainingHistory.model_validate_json((directory / TRAINING_FILE).read_bytes())


def _read(reader: Any, directory: Path, file_name: str, **settings: Any) -> Any:
    with reading(directory / file_name, (Exception,)):
        return read_pretrained(reader, directory, local_files_only=True, **settings)
