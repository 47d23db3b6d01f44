"""Random resamples that depend on nothing but the number of examples: the same everywhere, in every run."""

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from moe_ray.comparison.columns import FloatArray
from moe_ray.fingerprint import fingerprint

NUM_RESAMPLES = 2000
MIN_PERMUTATIONS, MAX_PERMUTATIONS = 999, 9999
MAX_PERMUTED_BITS = 10**8
CACHED_ELEMENTS = 10**7
CHUNK_ELEMENTS = 4 * 10**6


def resampled_sums(rows: FloatArray) -> FloatArray:
    """Sums of `rows` [n, k] over bootstrap resamples of the n examples: [NUM_RESAMPLES, k]."""
    num_examples = len(rows)
    if num_examples * NUM_RESAMPLES <= CACHED_ELEMENTS:
        return _weighted_sums(_cached_counts(num_examples), rows)
    rng = generator("bootstrap", num_examples)
    parts = _parts(NUM_RESAMPLES, num_examples)
    return np.concatenate([_weighted_sums(_draw_counts(rng, size, num_examples), rows) for size in parts])


def subset_sums(rows: FloatArray) -> FloatArray:
    """Sums of `rows` [n, k] over random halves: every example is in with probability 1/2. [num_permutations(n), k]."""
    num_examples = len(rows)
    rng = generator("permutation", num_examples)
    parts = _parts(num_permutations(num_examples), num_examples)
    sums = [_weighted_sums(rng.integers(0, 2, (size, num_examples), dtype=np.uint8), rows) for size in parts]
    return np.concatenate(sums)


def num_permutations(num_examples: int) -> int:
    """How many permutations are drawn: fewer for very many examples, never under MIN_PERMUTATIONS."""
    return max(MIN_PERMUTATIONS, min(MAX_PERMUTATIONS, MAX_PERMUTED_BITS // max(1, num_examples)))


def generator(purpose: str, num_examples: int) -> np.random.Generator:
    """A random source that depends on what it is for and on the number of examples, and on nothing else."""
    seed = int(fingerprint({"purpose": purpose, "num_examples": num_examples}), 16)
    return np.random.Generator(np.random.PCG64(seed))


@lru_cache(maxsize=8)
def _cached_counts(num_examples: int) -> npt.NDArray[np.uint16]:
    """Metrics and systems of a domain share their number of examples, and so their resamples."""
    return _draw_counts(generator("bootstrap", num_examples), NUM_RESAMPLES, num_examples)


def _draw_counts(rng: np.random.Generator, num_resamples: int, num_examples: int) -> npt.NDArray[np.uint16]:
    """How often each example is drawn: [num_resamples, n], each row multinomial over n draws."""
    drawn = rng.integers(0, num_examples, (num_resamples, num_examples), dtype=np.int64)
    drawn += np.arange(num_resamples)[:, None] * num_examples
    counts = np.bincount(drawn.ravel(), minlength=num_resamples * num_examples)
    return counts.astype(np.uint16).reshape(num_resamples, num_examples)


def _weighted_sums(counts: npt.NDArray[np.unsignedinteger], rows: FloatArray) -> FloatArray:
    size = max(1, CHUNK_ELEMENTS // max(1, counts.shape[1]))
    parts = [counts[start : start + size].astype(np.float64) @ rows for start in range(0, len(counts), size)]
    return np.concatenate(parts)


def _parts(total: int, num_examples: int) -> list[int]:
    """Split `total` resamples so that each part stays within CHUNK_ELEMENTS."""
    size = max(1, CHUNK_ELEMENTS // max(1, num_examples))
    return [min(size, total - start) for start in range(0, total, size)]
