"""The interface of the text classifiers behind a router."""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol, Self, cast

from moe_ray.arrays import FloatArray
from moe_ray.config.schema import RouterConfig
from moe_ray.progress import Report
from moe_ray.texts.labelled import LabelledText


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifierOutputs:
    """What a classifier says of n texts: `logits` [n, num_labels] and the `features` [n, num_features] behind them."""

    logits: FloatArray
    features: FloatArray


class TextClassifier(Protocol):
    """Gives every label a logit. It knows neither temperature nor threshold: `Router` does.

    Any text is taken as it is: empty, very long (its beginning counts), in any script.
    """

    kind: ClassVar[str]

    @property
    def num_labels(self) -> int: ...

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
        """Fit a classifier to `train`; `validation` says when to stop. `device` is "cpu" or "cuda".

        The same arguments give the same weights on the same machine. Raises `ModelError` for a base model that cannot
        be had, and `DataError` for texts that nothing can be learned from.
        """
        ...

    def outputs(self, texts: Sequence[str]) -> ClassifierOutputs:
        """Logits and features of `texts`; none of them for no texts."""
        ...

    def save(self, directory: Path) -> None:
        """Write everything that `load` needs into an existing directory."""
        ...

    @classmethod
    def load(cls, directory: Path, *, device: str) -> Self:
        """Read a saved classifier back. Raises `ModelError` naming the file that is missing or damaged."""
        ...


CLASSIFIERS = {
    "transformer": "moe_ray.routing.transformer:TransformerClassifier",
    "tfidf": "moe_ray.routing.tfidf:TfidfClassifier",
    "embedding": "moe_ray.routing.embedding:EmbeddingClassifier",
}


def classifier_class(kind: str) -> type[TextClassifier]:
    """The classifier of `kind`, a key of `CLASSIFIERS`."""
    module_name, _, class_name = CLASSIFIERS[kind].partition(":")
    return cast(type[TextClassifier], getattr(importlib.import_module(module_name), class_name))
