"""The embedding router: a small gating network on a causal model's frozen mean input embeddings.

Its directory holds all that it needs, so that it loads where the causal model is not: the embeddings that it looks up
are copied there in the checkpoint's own dtype.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
import transformers
from safetensors.torch import load_file, save_file

from moe_ray.architectures.gating_network import GatingNetwork
from moe_ray.arrays import FloatArray
from moe_ray.config.schema import RouterConfig
from moe_ray.engines.transformers.loading import read_pretrained
from moe_ray.errors import ConfigError, DataError
from moe_ray.files import read_json
from moe_ray.gating.embeddings import InputEmbeddings, mean_text_embeddings, read_input_embeddings
from moe_ray.gating.fitting import LabelledFeatures, balanced_weights, fit, fit_settings, load_gating, save_gating
from moe_ray.progress import Report
from moe_ray.routing.classifier import ClassifierOutputs
from moe_ray.routing.files import LARGEST_MAX_TOKENS, TRAINING_FILE, reading
from moe_ray.texts.labelled import LabelledText, codes

WHERE = "router.base_model"
READING_FILE = "reading.json"
MATRIX_FILE = "embeddings.safetensors"
TOKENIZER_FOLDER = "tokenizer"


class EmbeddingClassifier:
    """Looks up a text's tokens, averages their embeddings and lets a gating network judge the mean.

    The features are what its last hidden layer makes of the mean when the mean's length counts too: distances between
    them tell out-of-domain queries better than between those behind the logits (measured). See `TextClassifier`.
    """

    kind: ClassVar[str] = "embedding"

    def __init__(
        self, embeddings: InputEmbeddings, network: GatingNetwork, max_tokens: int, training: Mapping[str, Any]
    ) -> None:
        """Take embeddings and network on one device; `training` is what training.json tells."""
        self._embeddings = embeddings
        self._network = network
        self._max_tokens = max_tokens
        self._training = training

    @property
    def num_labels(self) -> int:
        return self._network.num_outputs

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
        """Fit the gating network to the mean embeddings of `train`; see `TextClassifier.train`.

        Raises `ConfigError` without a base model, `ModelError` where its embeddings or its tokenizer cannot be had, and
        `DataError` for a label without training texts, or no validation texts.
        """
        if config.base_model is None:
            what = "an embedding router needs a causal model, whose input embeddings it looks up"
            raise ConfigError(what, where=WHERE, remedy="name a hub id or the local path of one")
        _require_texts(labels, train, validation)
        read = read_input_embeddings(config.base_model, config.revision, where=WHERE)
        embeddings = InputEmbeddings(tokenizer=read.tokenizer, matrix=read.matrix.to(device))
        max_tokens, settings = config.training.max_tokens, fit_settings(config.training)
        known, held_out = (_labelled(embeddings, labels, part, max_tokens) for part in (train, validation))
        weights = balanced_weights(known.labels, len(labels)) if config.balance == "weighted" else None
        fitted = fit(known, held_out, len(labels), settings, label_weights=weights, report=report)
        training = {
            "base_model": config.base_model,
            "revision": config.revision,
            "settings": asdict(settings),
            "label_weights": weights if weights is None else dict(zip(labels, weights.tolist(), strict=True)),
            "epochs": [asdict(epoch) for epoch in fitted.epochs],
            "best_epoch": fitted.best_epoch,
        }
        return cls(embeddings, fitted.network, max_tokens, training)

    def outputs(self, texts: Sequence[str]) -> ClassifierOutputs:
        """Logits and features of `texts`; see `TextClassifier.outputs`."""
        with torch.inference_mode():
            means = mean_text_embeddings(self._embeddings, texts, max_tokens=self._max_tokens)
            return ClassifierOutputs(
                logits=_array(self._network(means)), features=_array(self._network.features(means))
            )

    def save(self, directory: Path) -> None:
        """Write the embeddings, the tokenizer, the network, what it reads and how it was trained."""
        save_file({"embeddings": self._embeddings.matrix.contiguous()}, directory / MATRIX_FILE)
        self._embeddings.tokenizer.save_pretrained(directory / TOKENIZER_FOLDER)
        save_gating(self._network, directory)
        _write_json(directory / READING_FILE, {"max_tokens": self._max_tokens})
        _write_json(directory / TRAINING_FILE, self._training)

    @classmethod
    def load(cls, directory: Path, *, device: str) -> Self:
        """Read a saved classifier back; see `TextClassifier.load`."""
        network = load_gating(directory, device=device)
        with reading(directory / READING_FILE):
            max_tokens = _positive(read_json(directory / READING_FILE)["max_tokens"])
        with reading(directory / TRAINING_FILE):
            training = read_json(directory / TRAINING_FILE)
        with reading(directory / MATRIX_FILE):
            matrix = load_file(directory / MATRIX_FILE, device=device)["embeddings"]
            _require_matrix(matrix, network.num_inputs)
        folder = directory / TOKENIZER_FOLDER
        with reading(folder, (Exception,)):
            tokenizer = read_pretrained(transformers.AutoTokenizer, folder, local_files_only=True)
        return cls(InputEmbeddings(tokenizer=tokenizer, matrix=matrix), network, max_tokens, training)


def _require_texts(labels: Sequence[str], train: Sequence[LabelledText], validation: Sequence[LabelledText]) -> None:
    missing = sorted(set(labels) - {text.label for text in train})
    if missing or not validation:
        raise DataError(
            f"no training texts of {', '.join(missing)}" if missing else "no validation texts",
            where="router.data",
            remedy="give every domain more texts",
        )


def _labelled(
    embeddings: InputEmbeddings, labels: Sequence[str], texts: Sequence[LabelledText], max_tokens: int
) -> LabelledFeatures:
    means = mean_text_embeddings(embeddings, [text.text for text in texts], max_tokens=max_tokens)
    return LabelledFeatures(features=means, labels=torch.tensor(codes(texts, labels), device=means.device))


def _array(tensor: torch.Tensor) -> FloatArray:
    array: FloatArray = tensor.double().cpu().numpy()
    return array


def _positive(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= LARGEST_MAX_TOKENS:
        raise ValueError(f"max_tokens must be a number from 1 to {LARGEST_MAX_TOKENS}")
    return value


def _require_matrix(matrix: torch.Tensor, num_inputs: int) -> None:
    if matrix.dim() != 2 or matrix.shape[1] != num_inputs or not matrix.is_floating_point() or not len(matrix):
        raise ValueError(f"embeddings are {list(matrix.shape)} of {matrix.dtype}; the network reads {num_inputs}")


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
