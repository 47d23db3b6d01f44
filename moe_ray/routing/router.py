"""The router: text -> probabilities over domains, and whether the text belongs to any of them."""

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np

from moe_ray.arrays import BoolArray, FloatArray
from moe_ray.characters import whole_characters
from moe_ray.config.schema import OTHER
from moe_ray.errors import ModelError
from moe_ray.files import write_directory_atomically, write_json
from moe_ray.routing.classifier import ClassifierOutputs, TextClassifier, classifier_class
from moe_ray.routing.files import (
    ROUTER_FILE,
    TEST_RESULTS_FILE,
    RouterRecord,
    RouterTestResults,
    read_mahalanobis,
    read_record,
    read_test_results,
    require_recorded,
    weights_fingerprint,
    write_mahalanobis,
)
from moe_ray.routing.out_of_domain import Mahalanobis, OutOfDomainScorer

# Eight characters a token of the largest `training.max_tokens`: no classifier reads farther.
MAX_CHARACTERS = 65_536
TEXTS_AT_ONCE = 1024
# Of a text with nothing to read: no text scores as low, and JSON can hold it, which it cannot an infinite one.
BLANK_SCORE = -1e9

_UNREADABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


class Judgement(NamedTuple):
    """What a router says of n texts: `probabilities` [n, num_domains], out-of-domain `scores` [n], `seconds` [n].

    `seconds` is a text's share of the time that its batch took.
    """

    probabilities: FloatArray
    scores: FloatArray
    seconds: FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Where one text goes. `domain` is the most probable one, even if the text `is_out_of_domain`."""

    probabilities: Mapping[str, float]
    domain: str
    score: float
    is_out_of_domain: bool
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Router:
    """A trained router. `Router.load` reads one; `moe_ray.routing.training.fit_router` trains one.

    Every string is a text that it can judge: control characters and lone surrogates are read as spaces, and of a very
    long text the beginning counts. A blank text has probabilities, and is out-of-domain by definition.
    """

    classifier: TextClassifier
    record: RouterRecord
    mahalanobis: Mahalanobis | None = None
    test_results: RouterTestResults | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        """The domains, and `OTHER` if the router learned it, in the order of the classifier's logits."""
        return tuple(self.record.labels)

    @property
    def domains(self) -> tuple[str, ...]:
        """The names behind the columns of probabilities."""
        return tuple(label for label in self.labels if label != OTHER)

    @property
    def threshold(self) -> float:
        """A text whose score is below is out-of-domain: the baseline answers it."""
        return self.record.threshold

    @property
    def fingerprint(self) -> str | None:
        """Names what decides the routes, wherever the router is copied to; None before it is saved."""
        return self.record.fingerprint

    @property
    def own(self) -> BoolArray:
        """True for the labels [num_labels] that are domains."""
        return np.array([label != OTHER for label in self.labels])

    @property
    def scorer(self) -> OutOfDomainScorer:
        return OutOfDomainScorer(own=self.own, temperatures=self.record.temperatures, mahalanobis=self.mahalanobis)

    def predict_proba(self, texts: Sequence[str]) -> FloatArray:
        """Probabilities [num_texts, num_domains], in the order of `domains`; a row lacks that of `OTHER` to 1."""
        return self.judge(texts).probabilities

    def judge(self, texts: Sequence[str]) -> Judgement:
        """The results of `route` as arrays. Raises `TypeError` for what is no sequence of strings."""
        parts = list(self._judged(texts))
        if not parts:
            return Judgement(np.zeros((0, len(self.domains))), np.zeros(0), np.zeros(0))
        return Judgement(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))

    def route(self, texts: Sequence[str]) -> list[Route]:
        """Say of each text where it goes."""
        domains, judgement = self.domains, self.judge(texts)
        return [
            Route(
                probabilities=dict(zip(domains, row.tolist(), strict=True)),
                domain=domains[int(row.argmax())],
                score=float(score),
                is_out_of_domain=bool(score < self.threshold),
                seconds=float(seconds),
            )
            for row, score, seconds in zip(*judgement, strict=True)
        ]

    def outputs(self, texts: Sequence[str]) -> ClassifierOutputs:
        """The classifier's outputs for `texts` as the router reads them."""
        return self.classifier.outputs([readable(text) for text in texts])

    def _judged(self, texts: Sequence[str]) -> Iterator[Judgement]:
        _require_strings(texts)
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            started_s = time.perf_counter()
            batch = [readable(text) for text in texts[start : start + TEXTS_AT_ONCE]]
            outputs = self.classifier.outputs(batch)
            probabilities = self.record.temperatures.probabilities(outputs.logits)[:, self.own]
            scores = self.scorer.scores(self.record.out_of_domain_score, outputs)
            scores = np.where([is_blank(text) for text in batch], BLANK_SCORE, scores)
            elapsed_s = time.perf_counter() - started_s
            yield Judgement(probabilities, scores, np.full(len(batch), elapsed_s / len(batch)))

    def save(self, directory: Path) -> "Router":
        """Write the router to `directory`, whole or not at all, and return it with its fingerprint.

        A router that is there is replaced. Raises `ModelError` for a directory that holds something else.
        """
        directory = Path(directory)
        if directory.exists() and not (directory / ROUTER_FILE).is_file() and any(directory.iterdir()):
            raise ModelError(
                "refusing to overwrite: not a router directory",
                where=str(directory),
                remedy="name a new or empty directory",
            )
        write_directory_atomically(directory, self._write)
        return replace(self, record=read_record(directory))

    def _write(self, directory: Path) -> None:
        self.classifier.save(directory)
        if self.mahalanobis is not None:
            write_mahalanobis(directory, self.mahalanobis)
        if self.test_results is not None:
            write_json(directory / TEST_RESULTS_FILE, self.test_results)
        record = self.record.model_copy(update={"weights": weights_fingerprint(directory)})
        write_json(directory / ROUTER_FILE, record)

    @classmethod
    def load(cls, directory: Path | str, device: str = "cpu") -> Self:
        """Read a saved router; nothing that lies in its directory is run.

        Raises `ModelError` naming what is missing, damaged, unknown, or not what was saved.
        """
        directory = Path(directory)
        record = read_record(directory)
        classifier = classifier_class(record.kind).load(directory, device=device)
        if classifier.num_labels != len(record.labels):
            raise ModelError(
                f"{len(record.labels)} labels, but weights for {classifier.num_labels}",
                where=str(directory / ROUTER_FILE),
                remedy="copy the router's whole directory again, or train it again",
            )
        num_domains = len(set(record.labels) - {OTHER})
        router = cls(
            classifier=classifier,
            record=record,
            mahalanobis=read_mahalanobis(directory, num_domains)
            if record.out_of_domain_score == "mahalanobis"
            else None,
            test_results=read_test_results(directory),
        )
        require_recorded(directory, record)
        return router


def require_domains(known: Sequence[str], wanted: Sequence[str], *, where: str | None = None) -> None:
    """Raise `ModelError`, with both lists, unless a router that knows some domains knows exactly the wanted ones."""
    if set(wanted) != set(known):
        raise ModelError(
            f"the router chooses between {', '.join(known)}; the experiment's domains are {', '.join(wanted)}",
            where=where,
            remedy="name a router that was trained for these domains, or remove path, so that one is trained",
        )


def readable(text: str) -> str:
    """`text` as a classifier gets it: its beginning, without what no text holds on purpose."""
    return whole_characters(_UNREADABLE.sub(" ", text[:MAX_CHARACTERS]))


def is_blank(text: str) -> bool:
    """True where there is nothing to read: no character but spaces and invisible ones."""
    return not any(character.isprintable() and not character.isspace() for character in text)


def _require_strings(texts: Sequence[str]) -> None:
    """Python takes a string for a sequence of strings; its letters are never what was meant."""
    if isinstance(texts, str | bytes):
        raise TypeError(f"texts are a list of strings, not one {type(texts).__name__}")
    for at, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"text {at} is a {type(text).__name__}, not a string")
