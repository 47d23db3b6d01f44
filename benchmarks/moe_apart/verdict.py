"""From what each text costs each model to a table, differences with their intervals, and one plain sentence."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

AVERAGE = "average"
NUM_DRAWS = 10_000
LEVEL = 0.95

ByText = Mapping[str, Sequence[float]]
"""A figure of each held-out text, by domain."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One model: what it cost to train, tokens and seconds from nothing on, its parameters, and each text's nats."""

    label: str
    num_tokens: int
    num_parameters: int
    num_active: int
    seconds: float
    nats: ByText


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Bits per byte of the first model less those of the second, with the bounds of its interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:+.4f} [{self.low:+.4f}, {self.high:+.4f}]"


def bits_per_byte(nats: ByText, num_bytes: ByText) -> dict[str, float]:
    """Bits per byte of each domain, and the average of the domains."""
    found = {name: sum(nats[name]) / math.log(2) / sum(own) for name, own in num_bytes.items()}
    return {**found, AVERAGE: sum(found.values()) / len(found)}


def differences(first: ByText, second: ByText, num_bytes: ByText, *, seed: int = 0) -> dict[str, Difference]:
    """Compare two models on the same texts, domain by domain and on average.

    The interval is the bootstrap's: texts are drawn again within each domain, the same ones for both models.
    """
    rng = np.random.default_rng(seed)
    drawn = {name: _drawn(first[name], second[name], own, rng) for name, own in num_bytes.items()}
    drawn[AVERAGE] = np.mean(list(drawn.values()), axis=0)
    one, other = bits_per_byte(first, num_bytes), bits_per_byte(second, num_bytes)
    return {name: _difference(one[name] - other[name], values) for name, values in drawn.items()}


def _drawn(
    first: Sequence[float], second: Sequence[float], num_bytes: Sequence[float], rng: np.random.Generator
) -> NDArray[np.float64]:
    places = rng.integers(len(num_bytes), size=(NUM_DRAWS, len(num_bytes)))
    nats = np.subtract(first, second)[places].sum(axis=1)
    drawn: NDArray[np.float64] = nats / math.log(2) / np.asarray(num_bytes)[places].sum(axis=1)
    return drawn


def _difference(value: float, drawn: NDArray[np.float64]) -> Difference:
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Difference(value=value, low=float(low), high=float(high))


def table(rows: Sequence[Row], num_bytes: ByText) -> list[str]:
    """The lines of a Markdown table; the fewest bits of a column are bold."""
    found = [bits_per_byte(row.nats, num_bytes) for row in rows]
    columns = (*num_bytes, AVERAGE)
    fewest = {column: min(one[column] for one in found) for column in columns}
    lines = [
        f"| model | {' | '.join(columns)} | training tokens, M | parameters, M | active, M | training s |",
        "| --- |" + " --- |" * (len(columns) + 4),
    ]
    for row, bits in zip(rows, found, strict=True):
        cells = [_cell(bits[column], is_fewest=bits[column] == fewest[column]) for column in columns]
        costs = f"{row.num_tokens / 1e6:.2f} | {row.num_parameters / 1e6:.3f} | {row.num_active / 1e6:.3f}"
        lines.append(f"| {row.label} | {' | '.join(cells)} | {costs} | {row.seconds:.0f} |")
    return lines


def _cell(bits: float, *, is_fewest: bool) -> str:
    return f"**{bits:.4f}**" if is_fewest else f"{bits:.4f}"


def difference_table(mixture: Row, others: Sequence[Row], num_bytes: ByText) -> list[str]:
    """The lines of a Markdown table: the mixture's bits less each other model's; below 0 the mixture is better."""
    columns = (*num_bytes, AVERAGE)
    lines = [f"| {mixture.label}, less | {' | '.join(columns)} |", "| --- |" + " --- |" * len(columns)]
    for other in others:
        found = differences(mixture.nats, other.nats, num_bytes)
        lines.append(f"| {other.label} | {' | '.join(str(found[column]) for column in columns)} |")
    return lines


def sentence(mixture: Row, dense: Row, num_bytes: ByText) -> str:
    """Say plainly which of the two wins, on average and in each domain; a difference within noise is no win."""
    found = differences(mixture.nats, dense.nats, num_bytes)
    ours, theirs = (bits_per_byte(row.nats, num_bytes)[AVERAGE] for row in (mixture, dense))
    domains = ", ".join(f"{name}: {winner(found[name])}" for name in num_bytes)
    average = found[AVERAGE]
    return (
        f"On average {winner(average)} wins: {ours:.4f} bits per byte of the mixture ({mixture.label}) against "
        f"{theirs:.4f} of the dense model ({dense.label}), a difference of {average}; by domain {domains}."
    )


def winner(difference: Difference) -> str:
    """Which has fewer bits: the mixture, which is the first, or the dense model; neither when 0 is in the interval."""
    if difference.low <= 0 <= difference.high:
        return "neither"
    return "the mixture" if difference.value < 0 else "the dense model"


def missing_rows(rows: Sequence[Row], labels: Sequence[str], num_bytes: ByText) -> list[str]:
    """The labels that have no row with a finite figure of every text."""
    whole = {row.label for row in rows if _is_whole(row, num_bytes)}
    return [label for label in labels if label not in whole]


def _is_whole(row: Row, num_bytes: ByText) -> bool:
    return all(
        len(row.nats.get(name, ())) == len(own) and bool(np.isfinite(row.nats[name]).all())
        for name, own in num_bytes.items()
    )
