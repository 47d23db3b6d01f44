r"""Numbers: the number that a worked solution ends with, compared with the gold one.

Dollar signs, units, percent signs and separators of thousands are ignored; 3/4 and \frac{3}{4} are one.
"""

import re
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import ClassVar

from moe_ray.domains.example import Example
from moe_ray.scoring.reading import ReadingSettings, bounded, boxed, json_value, last_line, without_latex
from moe_ray.scoring.samples import UnscorableError, sample_detail, score, unscored, usable_texts
from moe_ray.scoring.score import Metric, Score
from moe_ray.store.answers import Answer

MARK = "####"
MAX_DIGITS = 100
UNREAD = "no number could be read"

_NUMBER = re.compile(
    r"(?<![\w.])(?P<sign>-?)\s?\$?\s?(?P<digits>\d{1,3}(?:,\d{3})++(?!\d|,\d)(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)"
    r"(?:[eE](?P<power>[+-]?\d{1,2})(?!\w))?(?:\s?/\s?(?P<under>\d+(?:\.\d+)?)(?!/))?"
)
_MARKED = re.compile(rf"{MARK}[^\w\n-]{{0,10}}(?=[-\d.])")
_STATED = re.compile(r"\banswer\b[^\n.:=]{0,60}?(?:\b(?:is|was|be|equals)\b|[:=])(?P<rest>[^\n]{0,200})", re.IGNORECASE)
_FRACTION = re.compile(r"\\[dt]?frac\s?(?:\{(-?[\d.,]{1,50})\}\s?\{([\d.,]{1,50})\}|(\d)(\d))")
# LaTeX for what a number is written with, and the spaces that separate thousands.
_PLAIN = (
    ("\\$", "$"), ("\\%", "%"), ("\\,", ""), ("\\!", ""), ("{,}", ","), ("\N{MINUS SIGN}", "-"),
    ("\N{NON-BREAKING HYPHEN}", "-"),
)  # fmt: skip
_THIN_SPACE = re.compile(r"(?<=\d)[\u00a0\u2009\u202f](?=\d{3}(?!\d))")


class NumberSettings(ReadingSettings):
    """Settings of the grader `final_number`."""

    unknown_ways: ClassVar[frozenset[str]] = frozenset({"first"})


def read_number(text: str, settings: ReadingSettings) -> Fraction | None:
    """Return the number that `text` gives, read in the first of the settings' ways that finds one; else None."""
    text = bounded(text)
    return next((found for way in settings.read if (found := _read(way, text, settings)) is not None), None)


def _read(way: str, text: str, settings: ReadingSettings) -> Fraction | None:
    match way:
        case "auto":
            return _auto(text)
        case "last":
            return _last(text)
        case "last_line":
            return _last(last_line(text))
        case "boxed":
            return _last(boxed(text))
        case "json":
            return _last(json_value(text, settings.key))
        case "answer_is":
            return _stated(text)
        case _:
            return _last(settings.search.last(text))


def _auto(text: str) -> Fraction | None:
    """Read what follows the last ####; without that the last box, the last statement of the answer, the last number."""
    marks = list(_MARKED.finditer(text))
    if marks:
        return _first(text[marks[-1].end() :])
    for found in (_last(boxed(text)), _stated(text)):
        if found is not None:
            return found
    return _first(text.rpartition(MARK)[2]) if MARK in text else _last(text)


def _stated(text: str) -> Fraction | None:
    """Return the number of the last "the answer is"; of an equation there, its right side."""
    for found in reversed(list(_STATED.finditer(text))):
        sentence = re.split(r"(?<=\D)\.\s|\.\s(?=\D)", found["rest"], maxsplit=1)[0]
        _, equals, right = sentence.rpartition("=")
        number = _first(right if equals else sentence)
        if number is not None:
            return number
    return None


def _numbers(text: str) -> list[Fraction]:
    for spelled, plain in _PLAIN:
        text = text.replace(spelled, plain)
    text = _THIN_SPACE.sub("", _FRACTION.sub(lambda found: "/".join(filter(None, found.groups())), text))
    return [number for found in _NUMBER.finditer(text) if (number := _value(found)) is not None]


def _value(found: re.Match[str]) -> Fraction | None:
    digits, under = found["digits"].replace(",", ""), found["under"]
    if len(digits) > MAX_DIGITS or len(under or "") > MAX_DIGITS:
        return None
    number = Fraction(digits) * Fraction(10) ** int(found["power"] or 0)
    if under is not None and Fraction(under):
        number /= Fraction(under)
    return -number if found["sign"] else number


def _first(text: str) -> Fraction | None:
    return next(iter(_numbers(text)), None)


def _last(text: str | None) -> Fraction | None:
    numbers = _numbers(without_latex(text)) if text else []
    return numbers[-1] if numbers else None


class FinalNumberGrader:
    """Whether the final number is exactly the gold one (72 is 72.0). An example's `grading` holds `number`.

    An answer without a number is a failure of the model, and is counted by `number_given`. Beside other samples of the
    same example it is wrong.
    """

    def __init__(self, num_samples: int = 1, settings: ReadingSettings | None = None) -> None:
        self.num_samples = num_samples
        self._settings = settings or NumberSettings()
        single = num_samples == 1
        mean = "" if single else f"; mean over {num_samples} samples"
        self.metrics: tuple[Metric, ...] = (
            Metric(
                name="final_number",
                definition=f"share of answers whose number is exactly the gold one; without a number, unscored{mean}",
                binary=single,
            ),
            Metric(name="number_given", definition=f"share of answers with a number{mean}", binary=single),
        )

    def grade(self, example: Example, model: str, answers: Sequence[Answer]) -> list[Score]:
        """Return the scores of final_number and number_given; see `Grader.grade`."""
        try:
            gold = _gold(example)
            numbers = [read_number(text, self._settings) for text in usable_texts(answers)]
        except UnscorableError as error:
            return unscored(example, model, self.metrics, error)
        num_read = sum(number is not None for number in numbers)
        detail = sample_detail(len(numbers), self.num_samples)
        right, given = self.metrics
        if not num_read:
            value, reason = None, UNREAD
        else:
            value, reason = numbers.count(gold) / len(numbers), None
        return [
            score(example, model, right, value, reason=reason, failed=value is None, detail=detail),
            score(example, model, given, num_read / len(numbers), detail=detail),
        ]


def _gold(example: Example) -> Fraction:
    gold = example.grading.get("number")
    try:
        return Fraction(Decimal(gold)) if isinstance(gold, str) else Fraction("none")
    except (ValueError, OverflowError, InvalidOperation) as error:
        raise UnscorableError("the example has no number") from error
