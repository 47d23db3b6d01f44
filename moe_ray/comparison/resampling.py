"""Random resamples that depend on nothing but the number of examples: the same everywhere, in every run.

Above MAX_UNITS examples, random blocks of examples are resampled instead of single ones. Blocks of independent
examples are independent too, so spreads stay right (with MAX_UNITS blocks, to 1 in 100), and the cost no longer grows.
"""

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from moe_ray.comparison.columns import FloatArray
from moe_ray.fingerprint import fingerprint

NUM_RESAMPLES = 2000
NUM_PERMUTATIONS = 9999
MAX_UNITS = 5000
CHUNK_ELEMENTS = 4 * 10**6
# One less than a float's, because rounding may exceed the bound.
SUM_BITS = 52
SMALLEST_FLOAT = 5e-324


def resampled_sums(rows: FloatArray) -> FloatArray:
    """Sums of `rows` [n, k] over bootstrap resamples of the n examples: [NUM_RESAMPLES, k]."""
    units = _units(rows)
    return _weighted_sums(_resample_counts(len(units)), units)


def subset_sums(rows: FloatArray) -> FloatArray:
    """Sums of `rows` [n, k] over random subsets: every example is in with probability 1/2. [NUM_PERMUTATIONS, k]."""
    units = _units(rows)
    rng = generator("permutation", len(units))
    size = max(1, CHUNK_ELEMENTS // len(units))
    sizes = [min(size, NUM_PERMUTATIONS - start) for start in range(0, NUM_PERMUTATIONS, size)]
    return np.concatenate(
        [_weighted_sums(rng.integers(0, 2, (size, len(units)), dtype=np.uint8), units) for size in sizes]
    )


def generator(purpose: str, num_examples: int) -> np.random.Generator:
    """A random source that depends on what it is for and on the number of examples, and on nothing else."""
    seed = int(fingerprint({"purpose": purpose, "num_examples": num_examples}), 16)
    return np.random.Generator(np.random.PCG64(seed))


def summable(values: FloatArray, bound: npt.ArrayLike) -> FloatArray:
    """Return `values` [n, k] rounded to multiples of a power of two, so that sums of them up to `bound` ([k] or one for
    all) are exact.

    A matrix product adds in an order that the processor and the number of threads decide; exact sums are the same in
    every order. What is rounded away is below 2e-16 of the bound.
    """
    _, exponent = np.frexp(bound)
    step = np.maximum(np.ldexp(1.0, exponent - SUM_BITS), SMALLEST_FLOAT)
    rounded: FloatArray = np.rint(values / step) * step
    return rounded


def _units(rows: FloatArray) -> FloatArray:
    """What is resampled: the rows themselves, or the sums of MAX_UNITS random blocks of them; their sums are exact."""
    units = rows if len(rows) <= MAX_UNITS else _blocks(rows)
    return summable(units, len(units) * np.abs(units).max(axis=0))


def _blocks(rows: FloatArray) -> FloatArray:
    shuffled = rows[generator("blocks", len(rows)).permutation(len(rows))]
    starts = np.arange(MAX_UNITS) * len(rows) // MAX_UNITS
    units: FloatArray = np.add.reduceat(shuffled, starts, axis=0)
    return units


@lru_cache(maxsize=4)
def _resample_counts(num_units: int) -> npt.NDArray[np.uint16]:
    """How often each unit is drawn: [NUM_RESAMPLES, num_units], each row multinomial over as many draws as units.

    Kept, because the metrics and systems of a domain share their number of examples.
    """
    rng = generator("bootstrap", num_units)
    drawn = rng.integers(0, num_units, (NUM_RESAMPLES, num_units), dtype=np.int64)
    drawn += np.arange(NUM_RESAMPLES)[:, None] * num_units
    counts = np.bincount(drawn.ravel(), minlength=NUM_RESAMPLES * num_units)
    return counts.astype(np.uint16).reshape(NUM_RESAMPLES, num_units)


def _weighted_sums(counts: npt.NDArray[np.unsignedinteger], units: FloatArray) -> FloatArray:
    """`counts` [b, n] times `units` [n, k], a part at a time so that the floats of few resamples are in memory."""
    size = max(1, CHUNK_ELEMENTS // len(units))
    return np.concatenate(
        [counts[start : start + size].astype(np.float64) @ units for start in range(0, len(counts), size)]
    )
