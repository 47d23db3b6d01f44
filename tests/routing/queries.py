"""Made-up queries of three domains, and classifiers whose every logit is known beforehand."""

import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from moe_ray.arrays import FloatArray
from moe_ray.config.schema import OTHER, RouterConfig
from moe_ray.routing.classifier import ClassifierOutputs
from moe_ray.texts.labelled import LabelledText, RouterTexts

DOMAINS = ("legal", "biomedical", "code")  # not in the order of the alphabet, which some library might put them in
WORDS = {
    "legal": ["contract", "court", "lease", "landlord", "appeal", "statute", "damages", "clause", "tort", "deed"],
    "biomedical": ["dose", "patient", "trial", "tumour", "enzyme", "placebo", "therapy", "cohort", "insulin", "biopsy"],
    "code": ["function", "list", "loop", "string", "integer", "recursion", "array", "compile", "sort", "parse"],
    OTHER: ["weather", "recipe", "football", "holiday", "garden", "movie", "guitar", "bakery", "train", "picnic"],
    "sports": ["goal", "referee", "penalty", "league", "stadium", "coach", "tournament", "defender", "score", "medal"],
}
COMMON = ["what", "how", "does", "the", "a", "of", "when", "is", "for", "in"]


def query(label: str, seed: int) -> LabelledText:
    """A query of ten words, three of them of its label's own."""
    rng = np.random.default_rng([seed, zlib.crc32(label.encode())])
    words = [*rng.choice(WORDS[label], 3), *rng.choice(COMMON, 7)]
    text = " ".join(rng.permutation(words))
    return LabelledText(id=f"{label}-{seed}", text=f"{text} {seed}", label=label)


def queries(labels: Sequence[str], num_each: int, first: int = 0) -> tuple[LabelledText, ...]:
    return tuple(query(label, seed) for seed in range(first, first + num_each) for label in labels)


def router_texts(labels: Sequence[str] = DOMAINS, num_each: int = 40, num_test_each: int = 40) -> RouterTexts:
    """Texts of `labels` that never repeat, and an out-of-domain set of sports."""
    return RouterTexts(
        labels=tuple(labels),
        train=queries(labels, num_each),
        validation=queries(labels, num_each, first=10_000),
        test=queries(labels, num_test_each, first=20_000),
        out_of_domain={"sports": queries(["sports"], num_test_each, first=30_000)},
    )


def nothing_reported(progress: object) -> None:
    """Take a training's progress."""


class FixedClassifier:
    """Gives each label the logit that `logit` tells for a text; its features are its logits."""

    kind: ClassVar[str] = "fixed"

    def __init__(self, labels: Sequence[str]) -> None:
        self.labels = list(labels)

    @property
    def num_labels(self) -> int:
        return len(self.labels)

    @classmethod
    def train(cls, _config: RouterConfig, labels: Sequence[str], *_texts: Any, **_options: Any) -> Self:
        return cls(labels)

    def logits(self, text: str) -> FloatArray:
        raise NotImplementedError

    def outputs(self, texts: Sequence[str]) -> ClassifierOutputs:
        rows = [self.logits(text) for text in texts]
        logits = np.stack(rows) if rows else np.zeros((0, self.num_labels))
        return ClassifierOutputs(logits=logits, features=logits)

    def save(self, directory: Path) -> None:
        (directory / "labels.json").write_text(json.dumps(self.labels))

    @classmethod
    def load(cls, directory: Path, **_options: Any) -> Self:
        return cls(json.loads((directory / "labels.json").read_text()))


class RandomClassifier(FixedClassifier):
    """Logits from a hash of the text: they know nothing."""

    def logits(self, text: str) -> FloatArray:
        rng = np.random.default_rng(zlib.crc32(text.encode("utf-8", "replace")))
        return rng.normal(scale=2.0, size=self.num_labels)


class WrongClassifier(FixedClassifier):
    """Always sure of the label after the right one. It knows the right one by the made-up queries' words."""

    margin: ClassVar[float] = 5.0

    def logits(self, text: str) -> FloatArray:
        known = [sum(word in text for word in WORDS[label]) for label in self.labels]
        row = np.zeros(self.num_labels)
        row[(int(np.argmax(known)) + 1) % self.num_labels] = self.margin
        return row
