"""Decisions: the label that a generated answer names, and the label with the highest likelihood."""

import math
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import ClassVar

from moe_ray.domains.example import Example
from moe_ray.scoring.letters import bare, begins_with_a_word, choice_of, first_letter, has_letters, read_letters, stated
from moe_ray.scoring.reading import (
    ReadingSettings,
    bounded,
    boxed,
    json_value,
    last_line,
    without_latex,
)
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
UNREAD = "no choice could be read"

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
    if found is None or (has_letters(choices) and begins_with_a_word(text, tuple(choices))):
        return text
    return text[found.end() :]


class DecisionSettings(ReadingSettings):
    """Settings of the grader `decision`."""

    unknown_ways: ClassVar[frozenset[str]] = frozenset({"last"})


def read_choice(text: str, choices: Sequence[str], settings: ReadingSettings) -> str | None:
    """Return the choice that `text` names, read in the first of the settings' ways that finds one; else None."""
    return next((found for way in settings.read if (found := _read(way, text, choices, settings)) is not None), None)


def _read(way: str, text: str, choices: Sequence[str], settings: ReadingSettings) -> str | None:
    short = bounded(text)
    match way:
        case "auto":
            return _auto(text, choices)
        case "first":
            return first_letter(text, tuple(choices)) if has_letters(choices) else parse_decision(text, choices)
        case "last_line":
            return _auto(last_line(short), choices)
        case "boxed":
            return _named_by(boxed(short), choices)
        case "json":
            return _named_by(json_value(short, settings.key), choices)
        case "answer_is":
            return stated(short, tuple(choices))
        case _:
            return _named_by(settings.search.last(short), choices)


def _auto(text: str, choices: Sequence[str]) -> str | None:
    return read_letters(text, tuple(choices)) if has_letters(choices) else parse_decision(text, choices)


def _named_by(fragment: str | None, choices: Sequence[str]) -> str | None:
    """Return the choice that a part of an answer is, or that it names."""
    if fragment is None:
        return None
    return choice_of(bare(without_latex(fragment)), choices) or _auto(fragment, choices)


class DecisionGrader:
    """The decision of a generated answer. An answer that names no choice is a failure of the model: its accuracy and
    macro-F1 have no value, its label is "unparsed", and `decision_parsed` counts it. Beside other samples of the same
    example it is wrong. An example's `grading` holds `label` and `choices`.
    """

    def __init__(self, num_samples: int = 1, settings: ReadingSettings | None = None) -> None:
        self.num_samples = num_samples
        self._settings = settings or DecisionSettings()
        single = num_samples == 1
        mean = "" if single else f"; mean over {num_samples} samples"
        first = "" if single else "; of the first sample"
        self.metrics: tuple[Metric, ...] = (
            Metric(
                name="accuracy",
                definition=f"share of answers whose decision is the gold label; without a decision, unscored{mean}",
                binary=single,
            ),
            Metric(
                name="macro_f1",
                definition=f"F1 of the generated decision, mean over the gold labels; unread is unscored{first}",
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
            labels = [read_choice(text, choices, self._settings) for text in usable_texts(answers)]
        except UnscorableError as error:
            return unscored(example, model, self.metrics, error)
        num_read = sum(label is not None for label in labels)
        accuracy = labels.count(gold) / len(labels) if num_read else None
        macro_f1 = None if labels[0] is None else float(labels[0] == gold)
        detail = sample_detail(len(labels), self.num_samples)
        return [
            score(
                example,
                model,
                metric,
                value,
                reason=UNREAD if value is None else None,
                failed=value is None,
                label=labels[0] or UNPARSED,
                gold=gold,
                detail=detail,
            )
            for metric, value in zip(self.metrics, (accuracy, macro_f1, num_read / len(labels)), strict=True)
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
