"""Formatting of numbers, the same in the terminal and in the report."""

import math
import statistics
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

NONE = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"
NO_BREAK = "\N{NO-BREAK SPACE}"
TITLES = {
    "macro_f1": "macro-F1",
    "rouge_l": "ROUGE-L",
    "accuracy_loglik": "accuracy by likelihood",
    "macro_f1_loglik": "macro-F1 by likelihood",
    "gpu_process": "GPU process",
    "torch": "torch peak",
    "resident": "resident set",
}
BYTE_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
MAX_DECIMALS = 6


class Unit(NamedTuple):
    """A unit of `size` base units, for columns whose largest value is `at_least` that many base units."""

    name: str
    size: float
    at_least: float


SECONDS = (Unit("µs", 1e-6, 0), Unit("ms", 1e-3, 1e-3), Unit("s", 1, 1), Unit("min", 60, 600))
BYTES = tuple(Unit(name, 1024**at, 1000 * 1024 ** (at - 1) if at else 0) for at, name in enumerate(BYTE_UNITS))
BYTE_SECONDS = tuple(unit._replace(name=f"{unit.name}·s") for unit in BYTES)
JOULES = (Unit("J", 1, 0), Unit("kJ", 1e3, 1e3), Unit("MJ", 1e6, 1e6))


def number(value: float | None, digits: int = 3) -> str:
    """A value with a fixed number of decimals and a real minus sign."""
    return NONE if value is None else f"{value:.{digits}f}".replace("-", MINUS)


def signed(value: float | None, digits: int = 3) -> str:
    """A difference, with its sign."""
    return NONE if value is None else f"{value:+.{digits}f}".replace("-", MINUS)


def interval(low: float | None, high: float | None, digits: int = 3) -> str:
    """A 95 % interval: "[0.512, 0.634]"."""
    return NONE if low is None or high is None else f"[{number(low, digits)},{NO_BREAK}{number(high, digits)}]"


def probability(p_value: float | None) -> str:
    """A p-value: "0.031", "< 0.001"."""
    if p_value is None:
        return NONE
    return "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"


def p_phrase(p_value: float | None) -> str:
    """A p-value within a sentence: "p = 0.031", "p < 0.001"."""
    text = probability(p_value)
    return (f"p {text}" if text.startswith("<") else f"p = {text}").replace(" ", NO_BREAK)


def count(value: int) -> str:
    """A count with thin thousands separators."""
    return f"{value:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def size(num_bytes: float | None) -> str:
    """Bytes in binary units, three significant digits."""
    if num_bytes is None:
        return NONE
    value, unit = float(num_bytes), 0
    while abs(value) >= 1000 and unit < len(BYTE_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{significant(value)} {BYTE_UNITS[unit]}".replace("-", MINUS)


def joules(value: float | None) -> str:
    """An energy in J, kJ or MJ."""
    if value is None:
        return NONE
    scale, unit = next(((scale, unit) for scale, unit in ((1e6, "MJ"), (1e3, "kJ")) if value >= scale), (1.0, "J"))
    return f"{significant(value / scale)} {unit}"


def seconds(value: float | None) -> str:
    """A duration in the unit that reads best."""
    if value is None:
        return NONE
    if value < 1e-3:
        return f"{significant(value * 1e6)} µs"
    if value < 1:
        return f"{significant(value * 1e3)} ms"
    return f"{significant(value)} s" if value < 600 else f"{significant(value / 60)} min"


def significant(value: float | None) -> str:
    """Three significant digits, never in exponents for the sizes that occur here."""
    if value is None:
        return NONE
    if value == 0:
        return "0"
    return f"{value:.0f}" if abs(value) >= 99.95 else f"{value:#.3g}".rstrip(".")


def in_one_unit(values: Sequence[float | None], units: Sequence[Unit]) -> tuple[str, list[str]]:
    """A column's unit and its numbers in it, all with the same decimals, so that they can be compared by eye.

    The median keeps three significant digits; what is above zero keeps one at least.
    """
    positive = [value for value in values if value]
    unit = [unit for unit in units if unit.at_least <= max(positive, default=0)][-1]
    scaled = [None if value is None else value / unit.size for value in values]
    wanted = 0
    if positive:
        middle, least = statistics.median(positive) / unit.size, min(positive) / unit.size
        wanted = max(2 - math.floor(math.log10(middle)), -math.floor(math.log10(least)))
    return unit.name, [number(value, min(max(wanted, 0), MAX_DECIMALS)) for value in scaled]


def times(ratio: float | None) -> str:
    """A ratio: 1.10 and the sign of multiplication."""
    return NONE if ratio is None else f"{share(ratio)}{NO_BREAK}\N{MULTIPLICATION SIGN}"


def share(ratio: float) -> str:
    """A ratio with two decimals, or three digits of a large one."""
    return number(ratio, 2) if abs(ratio) < 10 else significant(ratio)


def moment(unix_s: float) -> str:
    """A Unix time as date and minute in UTC."""
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d %H:%M UTC")


def words(name: str) -> str:
    """An identifier as words: "bits_per_byte" is "bits per byte"."""
    return TITLES.get(name, name.replace("_", " "))


def plural(num: int, noun: str) -> str:
    """ "1 example", "20 examples"."""
    return f"{count(num)} {noun}" if num == 1 else f"{count(num)} {noun}s"


def percent(ratio: float) -> str:
    """A share in percent, with one decimal."""
    return f"{100 * ratio:.1f}{NO_BREAK}%"


def listed(names: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
