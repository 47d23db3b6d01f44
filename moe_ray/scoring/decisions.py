"""Decisions: the label that a generated answer names first, and the label that the model finds likeliest."""

import math
import re
from collections.abc import Sequence
from functools import lru_cache

from moe_ray.domains.example import Example
from moe_ray.scoring.samples import (
    UnscorableError,
    sample_detail,
    score,
    unscored,
    usable_likelihoods,
    usable_texts,
)
from moe_ray.scoring.score import Metric, Score
from moe_ray.store.answers import Answer

UNPARSED = "unparsed"

_LEAD_IN = r"[\W_]*(?:(?:the\s+)?answer\b(?:\s+is\b)?[\W_]*)?"


@lru_cache(maxsize=64)
def _pattern(choices: tuple[str, ...]) -> re.Pattern[str]:
    """Match any choice as a whole word in any case; the longest first, so that "not guilty" is not read as "not".

    The group that matched says which choice it was: group i is choice i of `_longest_first`. Comparing the matched text
    with the choices again would fail, because the matcher and `str.casefold` differ (on the dotted and the dotless I).
    """
    groups = "|".join(f"({re.escape(choice)})" for choice in _longest_first(choices))
    return re.compile(rf"(?<!\w)(?:{groups})(?!\w)", re.IGNORECASE)


def _longest_first(choices: tuple[str, ...]) -> list[str]:
    return sorted(choices, key=len, reverse=True)


@lru_cache(maxsize=64)
def _leading_pattern(choices: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(_LEAD_IN + _pattern(choices).pattern + r"[\W_]*", re.IGNORECASE)


def parse_decision(text: str, choices: Sequence[str]) -> str | None:
    """Return the choice that `text` names first, as a whole word in any case; None when it names none."""
    found = _pattern(tuple(choices)).search(text)
    if found is None or found.lastindex is None:
        return None
    return _longest_first(tuple(choices))[found.lastindex - 1]


def after_decision(text: str, choices: Sequence[str]) -> str:
    """Return `text` without the decision that it begins with ("Yes, ...", "Answer: no."), if it begins with one."""
    found = _leading_pattern(tuple(choices)).match(text)
    return text[found.end() :] if found else text


class DecisionGrader:
    """The decision of a generated answer. An answer that names no choice is wrong, is labelled "unparsed", and is
    counted by `decision_parsed`. An example's `grading` holds `label` and `choices`.
    """

    def __init__(self, num_samples: int = 1) -> None:
        self.num_samples = num_samples
        single = num_samples == 1
        mean = "" if single else f"; mean over {num_samples} samples"
        first = "" if single else "; of the first sample"
        self.metrics: tuple[Metric, ...] = (
            Metric(
                name="accuracy",
                definition=f"share of answers whose first decision word is the gold label; unparsed is wrong{mean}",
                binary=single,
            ),
            Metric(
                name="macro_f1",
                definition=f"F1 of the generated decision, mean over the gold labels; unparsed is wrong{first}",
                aggregation="macro_f1",
            ),
            Metric(
                name="decision_parsed",
                definition=f"share of answers that name one of the choices{mean}",
                binary=single,
            ),
        )

    def grade(self, example: Example, model: str, answers: Sequence[Answer]) -> list[Score]:
        """Return the scores of accuracy, macro_f1 and decision_parsed; see `Grader.grade`."""
        try:
            gold, choices = gold_and_choices(example)
            labels = [parse_decision(text, choices) or UNPARSED for text in usable_texts(answers)]
        except UnscorableError as error:
            return unscored(example, model, self.metrics, error)
        right = [float(label == gold) for label in labels]
        parsed = [float(label != UNPARSED) for label in labels]
        values = (sum(right) / len(right), right[0], sum(parsed) / len(parsed))
        detail = sample_detail(len(labels), self.num_samples)
        return [
            score(example, model, metric, value, label=labels[0], gold=gold, detail=detail)
            for metric, value in zip(self.metrics, values, strict=True)
        ]


class LikelihoodDecisionGrader:
    """The choice whose text is likeliest after the prompt; of equals the first. Nothing is normalised by length."""

    metrics: tuple[Metric, ...] = (
        Metric(
            name="accuracy_loglik",
            definition="share of examples where the choice of the highest log-likelihood is the gold label",
            binary=True,
        ),
        Metric(
            name="macro_f1_loglik",
            definition="F1 of the choice of the highest log-likelihood, mean over the gold labels",
            aggregation="macro_f1",
        ),
    )

    def grade(self, example: Example, model: str, answers: Sequence[Answer]) -> list[Score]:
        """Return the scores of accuracy_loglik and macro_f1_loglik; see `Grader.grade`."""
        try:
            gold, choices = gold_and_choices(example)
            label = _likeliest(usable_likelihoods(answers), choices)
        except UnscorableError as error:
            return unscored(example, model, self.metrics, error)
        value = float(label == gold)
        return [score(example, model, metric, value, label=label, gold=gold) for metric in self.metrics]


def gold_and_choices(example: Example) -> tuple[str, list[str]]:
    """Return the gold label and the choices; raises `UnscorableError` when `example` has none."""
    label, choices = example.grading.get("label"), example.grading.get("choices")
    if not isinstance(label, str) or not isinstance(choices, list) or not choices:
        raise UnscorableError("the example has no label and choices")
    return label, choices


def _likeliest(answer: Answer, choices: Sequence[str]) -> str:
    values = (answer.loglikelihoods or [])[: len(choices)]
    if len(values) < len(choices):
        raise UnscorableError(f"{len(values)} log-likelihoods for {len(choices)} choices")
    known = [value for value in values if value is not None]
    if len(known) < len(choices):
        raise UnscorableError("a choice does not fit the model's context after the prompt", failed=True)
    if any(math.isnan(value) for value in known):
        raise UnscorableError("a log-likelihood is not a number", failed=True)
    return choices[known.index(max(known))]
