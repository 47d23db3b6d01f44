"""When two texts are the same, and when nearly so.

The same: equal after Unicode NFKC, case folding, and with every run of white space as one space. Nearly the same: of
the word 3-shingles that either has, both have `NEAR_JACCARD` or more. MinHash finds the pairs that may be, and the
exact Jaccard similarity decides.
"""

import re
import unicodedata
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import takewhile
from typing import Any

import numpy as np
import numpy.typing as npt

NEAR_JACCARD = 0.7
SHINGLE_WORDS = 3

# A pair of Jaccard similarity s is no candidate with probability (1 - s**ROWS)**BANDS: 2e-8 at 0.7.
BANDS, ROWS = 42, 3

# Scripts that put no space between words (kana and Han; Thai and Lao; Myanmar; Khmer): each character is a word.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]|[^\W_]+")
_HASH_BYTES = 8
_LOW_32_BITS = 0xFFFFFFFF

Shingles = npt.NDArray[np.uint64]


def normal_form(text: str) -> str:
    """Return what is equal for texts that count as the same; empty when nothing but space is in it."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def shingles(form: str) -> Shingles:
    """Return the sorted hashes of the word 3-shingles of a normal form. Punctuation does not count.

    A text of one or two words has itself as its only shingle, and a text without words its characters: so short texts
    are near only when they are equal.
    """
    words = _WORD.findall(form) or [form]
    starts = range(max(1, len(words) - SHINGLE_WORDS + 1))
    return np.array(sorted({_hash(" ".join(words[at : at + SHINGLE_WORDS])) for at in starts}), dtype=np.uint64)


def jaccard(first: Shingles, second: Shingles) -> float:
    """Return the share of the shingles of either that both have."""
    num_common = np.intersect1d(first, second, assume_unique=True).size
    return num_common / (first.size + second.size - num_common)


def without_affixes(forms: Sequence[str]) -> list[str]:
    """Cut off the words that all `forms` begin with, and those that all end with: a template around what differs.

    Forms that are all equal stay as they are, and so does a form that is nothing but template.
    """
    if len(set(forms)) < 2:
        return list(forms)
    words = [form.split(" ") for form in forms]
    num_first = _num_common(words)
    num_last = _num_common([each[::-1] for each in words])
    return [
        " ".join(each[num_first : max(num_first, len(each) - num_last)]) or form
        for each, form in zip(words, forms, strict=True)
    ]


@dataclass(frozen=True, slots=True, eq=False)
class Sketch:
    """What an index compares of a form."""

    shingles: Shingles
    minhash: Any


class NearIndex:
    """Forms that were added, found again by forms that are nearly the same."""

    def __init__(self) -> None:
        # Imported here: it loads scipy, which commands that need no near duplicates shall not wait for.
        from datasketch import MinHash, MinHashLSH  # type: ignore[import-untyped]

        self._blank = MinHash(num_perm=BANDS * ROWS, hashfunc=_low_bits)
        self._index = MinHashLSH(num_perm=BANDS * ROWS, params=(BANDS, ROWS))
        self._shingles: dict[Hashable, Shingles] = {}

    def sketch(self, form: str) -> Sketch:
        """Return the sketch of a normal form."""
        own, minhash = shingles(form), self._blank.copy()
        minhash.update_batch(own.tolist())
        return Sketch(own, minhash)

    def near(self, sketch: Sketch) -> list[Hashable]:
        """Return the keys of the added forms that are nearly the same, in no order that counts."""
        keys = self._index.query(sketch.minhash)
        return [key for key in keys if jaccard(sketch.shingles, self._shingles[key]) >= NEAR_JACCARD]

    def add(self, key: Hashable, sketch: Sketch) -> None:
        """Take a form in, under a key that is new."""
        self._index.insert(key, sketch.minhash)
        self._shingles[key] = sketch.shingles


def _num_common(words: list[list[str]]) -> int:
    """Return how many words all begin with: as many as the first and the last of them in sorted order."""
    pairs = zip(min(words), max(words), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _hash(shingle: str) -> int:
    return int.from_bytes(blake2b(shingle.encode(errors="replace"), digest_size=_HASH_BYTES).digest())


def _low_bits(value: int) -> int:
    return value & _LOW_32_BITS
