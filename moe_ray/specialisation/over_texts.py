"""Nulls and intervals of measures, with the text as the unit. Needs NumPy and SciPy alone.

A measure is a function of class totals: [..., C, F] -> [..., M]. It must accept leading axes. Shapes: n texts, C
classes, F columns that are summed over the texts of a class, M values, P permutations.
"""

# ruff: noqa: N803 - capital suffixes name the axes of an array

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from moe_ray.arrays import FloatArray, IntArray
from moe_ray.fingerprint import fingerprint
from moe_ray.proportions import CONFIDENCE

Measure = Callable[[FloatArray], FloatArray]

NUM_PERMUTATIONS = 999
CHUNK_NUMBERS = 1 << 22


class Jackknife(NamedTuple):
    """`value` as it is, `corrected` for bias, and the standard error: [M] each. `degrees` of freedom of a t test."""

    value: FloatArray
    corrected: FloatArray
    error: FloatArray
    degrees: int

    def interval(self) -> tuple[FloatArray, FloatArray]:
        """Return the 95 % interval around the corrected value, [M] each; NaN where there is no error."""
        from scipy.special import stdtrit

        half = float(stdtrit(self.degrees, (1 + CONFIDENCE) / 2)) * self.error if self.degrees > 0 else np.nan
        return self.corrected - half, self.corrected + half

    def p_values(self, null: float = 0.0) -> FloatArray:
        """Return two-sided p-values of a t test that the truth is `null` [M]; NaN without an error."""
        from scipy.special import stdtr

        t = np.divide(
            np.abs(self.corrected - null), self.error, out=np.full_like(self.error, np.nan), where=self.error > 0
        )
        found: FloatArray = 2 * stdtr(self.degrees, -t)
        return found


class Null(NamedTuple):
    """A measure under random labels, [M] each: its mean, its 2.5 % and 97.5 % points, and the p-values.

    `upper` are shares of permutations with at least the value, the value itself included; `two_sided` of those that are
    at least as far from the mean.
    """

    mean: FloatArray
    low: FloatArray
    high: FloatArray
    upper: FloatArray
    two_sided: FloatArray


def class_sums(rows_nF: FloatArray, codes_n: IntArray, num_classes: int) -> FloatArray:
    """Return the sums of rows by class [C, F]."""
    sums = np.zeros((num_classes, rows_nF.shape[1]))
    np.add.at(sums, codes_n, rows_nF)
    return sums


def null_of(
    measure: Measure,
    rows_nF: FloatArray,
    codes_n: IntArray,
    num_classes: int,
    *,
    purpose: str,
    num_permutations: int = NUM_PERMUTATIONS,
) -> Null:
    """Return the distribution of a measure when labels are permuted over texts, whole texts at a time.

    The permutations follow from `purpose` and the number of texts alone, so that a report repeats itself.
    """
    value = measure(class_sums(rows_nF, codes_n, num_classes))
    drawn = np.concatenate(list(_permuted(measure, rows_nF, codes_n, num_classes, purpose, num_permutations)))
    mean = drawn.mean(axis=0)
    tolerance = 1e-12 * np.maximum(1.0, np.abs(value))
    low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=0)
    upper = (drawn >= value - tolerance).sum(axis=0)
    far = (np.abs(drawn - mean) >= np.abs(value - mean) - tolerance).sum(axis=0)
    return Null(mean, low, high, (upper + 1) / (len(drawn) + 1), (far + 1) / (len(drawn) + 1))


def _permuted(
    measure: Measure, rows: FloatArray, codes: IntArray, num_classes: int, purpose: str, num_permutations: int
) -> Iterator[FloatArray]:
    """Yield values of the measure [P, M], a few permutations at a time."""
    seed = int(fingerprint({"purpose": purpose, "num_texts": len(rows)}), 16)
    rng = np.random.Generator(np.random.PCG64(seed))
    sizes = np.bincount(codes, minlength=num_classes)
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    filled = np.flatnonzero(sizes)
    chunk = max(1, CHUNK_NUMBERS // max(1, rows.size))
    for start in range(0, num_permutations, chunk):
        orders = np.stack([rng.permutation(len(rows)) for _ in range(min(chunk, num_permutations - start))])
        sums = np.zeros((len(orders), num_classes, rows.shape[1]))
        sums[:, filled] = np.add.reduceat(rows[orders], starts[filled], axis=1)
        yield measure(sums)


def jackknife(measure: Measure, rows_nF: FloatArray, codes_n: IntArray, num_classes: int) -> Jackknife:
    """Return value, bias and standard error from leaving out one text at a time, within classes.

    For smooth measures; the first-order bias of plug-in entropies is removed (Efron and Tibshirani 1993, chapter 11,
    for samples of several populations). A class of one text says nothing of its spread and adds nothing.
    """
    totals = class_sums(rows_nF, codes_n, num_classes)
    value = measure(totals)
    bias, variance = np.zeros_like(value), np.zeros_like(value)
    for code in range(num_classes):
        own = rows_nF[codes_n == code]
        if len(own) < 2:
            continue
        without = np.concatenate(list(_without_one(measure, totals, own, code)))
        mean = without.mean(axis=0)
        bias += (len(own) - 1) * (mean - value)
        variance += (len(own) - 1) / len(own) * ((without - mean) ** 2).sum(axis=0)
    degrees = len(rows_nF) - len(np.unique(codes_n))
    return Jackknife(value, value - bias, np.sqrt(variance), degrees)


def _without_one(measure: Measure, totals: FloatArray, own: FloatArray, code: int) -> Iterator[FloatArray]:
    chunk = max(1, CHUNK_NUMBERS // max(1, totals.size))
    for start in range(0, len(own), chunk):
        part = own[start : start + chunk]
        left = np.repeat(totals[None], len(part), axis=0)
        left[:, code] -= part
        yield measure(left)
