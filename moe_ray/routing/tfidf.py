"""The router for small machines: word and character statistics (TF-IDF) and multinomial logistic regression."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from moe_ray.arrays import FloatArray, IntArray
from moe_ray.config.schema import RouterConfig
from moe_ray.errors import DataError
from moe_ray.files import read_json
from moe_ray.gating.calibration import confusion_matrix, macro_f1
from moe_ray.progress import Report, TrainingProgress
from moe_ray.routing.classifier import ClassifierOutputs
from moe_ray.routing.files import LARGEST_MAX_TOKENS, read_arrays, reading, require_shape
from moe_ray.texts.labelled import LabelledText, codes

ANALYZERS: tuple[dict[str, Any], ...] = (
    {"analyzer": "word", "ngram_range": (1, 2)},
    {"analyzer": "char_wb", "ngram_range": (2, 4)},
)
FEW_TEXTS = 100  # among fewer than these, a term that occurs once is not yet a chance
INVERSE_STRENGTHS = (1.0, 3.0, 10.0, 30.0, 100.0)  # of the L2 penalty, scikit-learn's C
MAX_ITERATIONS = 1000

TERMS_FILE = "terms.json"
WEIGHTS_FILE = "weights.npz"


class TfidfClassifier:
    """A linear classifier over the words, word pairs and runs of two to four characters of a text.

    `terms` lists what each analyzer counts, `idfs` their weights; `coefficients` [num_labels, num_terms] and
    `intercepts` [num_labels] sum to zero over the labels. `max_words` of a text are read. The features behind the
    logits are the logits themselves.
    """

    kind: ClassVar[str] = "tfidf"

    def __init__(
        self,
        terms: Sequence[Sequence[str]],
        idfs: Sequence[FloatArray],
        coefficients: FloatArray,
        intercepts: FloatArray,
        max_words: int,
    ) -> None:
        self._terms = terms
        self._idfs = idfs
        self._coefficients = coefficients
        self._intercepts = intercepts
        self._max_words = max_words
        self._vectorizers = [
            _restored(analyzer, known, idf) for analyzer, known, idf in zip(ANALYZERS, terms, idfs, strict=True)
        ]

    @property
    def num_labels(self) -> int:
        return len(self._intercepts)

    @classmethod
    def train(
        cls,
        config: RouterConfig,
        labels: Sequence[str],
        train: Sequence[LabelledText],
        validation: Sequence[LabelledText],
        *,
        device: str,  # noqa: ARG003 - the protocol has it
        report: Report,
    ) -> Self:
        """Fit the terms and, for each strength of the penalty, the weights; keep what fits `validation` best.

        See `TextClassifier.train`. It runs on the CPU whatever `device` is.
        """
        max_words = config.training.max_tokens
        terms, idfs, counted = _fitted([_beginning(text.text, max_words) for text in train])
        unfit = cls(terms, idfs, np.zeros((len(labels), counted.shape[1])), np.zeros(len(labels)), max_words)
        held_out = unfit._counted([text.text for text in validation])
        gold, held_out_gold = (np.array(codes(texts, labels)) for texts in (train, validation))
        best, best_f1 = (unfit._coefficients, unfit._intercepts), -1.0
        for step, weights in enumerate(_fits(counted, gold, weighted=config.balance == "weighted"), start=1):
            predicted = _logits(held_out, *weights).argmax(axis=1)
            f1 = macro_f1(confusion_matrix(held_out_gold, predicted, len(labels)))
            report(TrainingProgress(step=step, num_steps=len(INVERSE_STRENGTHS), epoch=float(step), macro_f1=f1))
            if f1 > best_f1:
                best, best_f1 = weights, f1
        return cls(terms, idfs, *best, max_words)

    def outputs(self, texts: Sequence[str]) -> ClassifierOutputs:
        """Logits and features of `texts`; see `TextClassifier.outputs`."""
        if not texts:
            nothing = np.zeros((0, self.num_labels))
            return ClassifierOutputs(logits=nothing, features=nothing)
        logits = _logits(self._counted(texts), self._coefficients, self._intercepts)
        return ClassifierOutputs(logits=logits, features=logits)

    def save(self, directory: Path) -> None:
        """Write the terms as JSON and the numbers as a NumPy archive, neither of which can hold code."""
        known = {"max_words": self._max_words, "terms": self._terms}
        (directory / TERMS_FILE).write_text(json.dumps(known, ensure_ascii=False), encoding="utf-8")
        numbers = {f"idf_{at}": idf for at, idf in enumerate(self._idfs)}
        weights = {"coefficients": self._coefficients, "intercepts": self._intercepts}
        np.savez(directory / WEIGHTS_FILE, allow_pickle=False, **weights, **numbers)

    @classmethod
    def load(cls, directory: Path, *, device: str) -> Self:  # noqa: ARG003 - the protocol has it
        """Read a saved classifier; its logits are the same to the last bit. See `TextClassifier.load`."""
        with reading(directory / TERMS_FILE):
            known = read_json(directory / TERMS_FILE)
            terms, max_words = known["terms"], known["max_words"]
            _require_terms(terms, max_words)
        with reading(directory / WEIGHTS_FILE):
            numbers = read_arrays(directory / WEIGHTS_FILE)
            idfs = [numbers[f"idf_{at}"] for at in range(len(ANALYZERS))]
            coefficients, intercepts = numbers["coefficients"], numbers["intercepts"]
            for known_terms, idf in zip(terms, idfs, strict=True):
                require_shape("idf", idf, (len(known_terms),))
            require_shape("intercepts", intercepts, (len(intercepts),))
            require_shape("coefficients", coefficients, (len(intercepts), sum(map(len, terms))))
            return cls(terms, idfs, coefficients, intercepts, max_words)

    def _counted(self, texts: Sequence[str]) -> Any:
        from scipy.sparse import hstack

        beginnings = [_beginning(text, self._max_words) for text in texts]
        return hstack([vectorizer.transform(beginnings) for vectorizer in self._vectorizers], format="csr")


def _require_terms(terms: object, max_words: object) -> None:
    if not isinstance(max_words, int) or isinstance(max_words, bool) or not 1 <= max_words <= LARGEST_MAX_TOKENS:
        raise ValueError(f"max_words must be a number from 1 to {LARGEST_MAX_TOKENS}")
    lists = terms if isinstance(terms, list) and len(terms) == len(ANALYZERS) else [None]
    if not all(isinstance(known, list) and all(isinstance(term, str) for term in known) for known in lists):
        raise ValueError(f"terms must be {len(ANALYZERS)} lists of texts")


def _beginning(text: str, max_words: int) -> str:
    return " ".join(text.split(None, max_words)[:max_words])


def _fitted(texts: Sequence[str]) -> tuple[list[list[str]], list[FloatArray], Any]:
    """What each analyzer counts in `texts`, the weight of each such term, and `texts` as weighted counts."""
    from scipy.sparse import hstack
    from sklearn.feature_extraction.text import TfidfVectorizer

    least = 1 if len(texts) < FEW_TEXTS else 2
    vectorizers = [TfidfVectorizer(sublinear_tf=True, min_df=least, **analyzer) for analyzer in ANALYZERS]
    try:
        counted = hstack([vectorizer.fit_transform(texts) for vectorizer in vectorizers], format="csr")
    except ValueError as error:  # scikit-learn's way to say that it found no terms
        raise DataError(
            f"nothing can be learned from the {len(texts)} training texts: {error}",
            where="router.data",
            remedy="check that the texts are queries in words",
        ) from error
    terms = [vectorizer.get_feature_names_out().tolist() for vectorizer in vectorizers]
    return terms, [np.asarray(vectorizer.idf_, dtype=np.float64) for vectorizer in vectorizers], counted


def _restored(analyzer: dict[str, Any], terms: Sequence[str], idf: FloatArray) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(sublinear_tf=True, vocabulary=terms, **analyzer)
    vectorizer.idf_ = idf
    return vectorizer


def _fits(counted: Any, gold: IntArray, *, weighted: bool) -> Iterator[tuple[FloatArray, FloatArray]]:
    """Coefficients and intercepts for each strength of the penalty, from strong to weak.

    Each is fitted from zero: from the weights of a stronger penalty the slope is so small that it ends where it began.
    """
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(max_iter=MAX_ITERATIONS, class_weight="balanced" if weighted else None)
    for strength in INVERSE_STRENGTHS:
        model.set_params(C=strength).fit(counted, gold)
        coefficients, intercepts = np.array(model.coef_), np.array(model.intercept_)
        if len(coefficients) == 1:  # of two labels, scikit-learn keeps the second's advantage over the first
            coefficients = np.concatenate([-coefficients / 2, coefficients / 2])
            intercepts = np.concatenate([-intercepts / 2, intercepts / 2])
        yield coefficients, intercepts


def _logits(counted: Any, coefficients: FloatArray, intercepts: FloatArray) -> FloatArray:
    return np.asarray(counted @ coefficients.T + intercepts, dtype=np.float64)
