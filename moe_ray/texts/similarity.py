"""Duplicates and near duplicates of texts.

The same: equal after Unicode NFKC, case folding, and with every run of white space as one space. Nearly the same: of
the word 3-shingles that either has, both have `NEAR_PERCENT` or more (their Jaccard similarity).
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from hashlib import blake2b
from itertools import takewhile

import numpy as np
import numpy.typing as npt

from moe_ray.characters import whole_characters

NEAR_PERCENT = 70
SHINGLE_WORDS = 3

# Scripts that put no space between words (kana and Han; Thai and Lao; Myanmar; Khmer): each character is a word.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]|[^\W_]+")
_HASH_BYTES = 8

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


def are_near(first: Shingles, second: Shingles) -> bool:
    """Say whether both have `NEAR_PERCENT` of the shingles that either has: a Jaccard similarity of 0.7."""
    smaller, larger = sorted((first.size, second.size))
    if smaller < _num_needed(larger):
        return False
    num_common = np.intersect1d(first, second, assume_unique=True).size
    return num_common >= _num_needed(smaller + larger - num_common)


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


class NearIndex:
    """Texts that were added, found again by texts that are nearly the same: all such, and no others.

    Two sets that have `NEAR_PERCENT` of their elements in common share one of the few that come first in either, in
    whatever order all elements stand (prefix filtering: Bayardo, Ma and Srikant 2007). Rarest first, almost no others
    share one; how common a shingle is, `sample` says.
    """

    def __init__(self, sample: Iterable[Shingles]) -> None:
        together = np.concatenate([np.empty(0, dtype=np.uint64), *sample])
        self._known, self._counts = np.unique(together, return_counts=True)
        self._keys_by_shingle: defaultdict[int, list[Hashable]] = defaultdict(list)
        self._shingles: dict[Hashable, Shingles] = {}

    def near(self, own: Shingles) -> list[Hashable]:
        """Return the keys of the added texts that are nearly the same, in the order in which they were added."""
        keys = dict.fromkeys(key for each in self._rarest(own) for key in self._keys_by_shingle.get(each, ()))
        return [key for key in keys if are_near(own, self._shingles[key])]

    def add(self, key: Hashable, own: Shingles) -> None:
        """Take a text in, under a key that is new."""
        self._shingles[key] = own
        for each in self._rarest(own):
            self._keys_by_shingle[each].append(key)

    def _rarest(self, own: Shingles) -> list[int]:
        num_rarest = own.size - _num_needed(own.size) + 1
        at = np.searchsorted(self._known, own).clip(max=max(0, self._known.size - 1))
        counts = np.where(self._known[at] == own, self._counts[at], 0) if self._known.size else np.zeros(own.size)
        rarest: list[int] = own[np.lexsort((own, counts))[:num_rarest]].tolist()
        return rarest


def _num_needed(num_in_all: int) -> int:
    """Return the least number that is `NEAR_PERCENT` of `num_in_all`."""
    return -(-NEAR_PERCENT * num_in_all // 100)


def _num_common(words: list[list[str]]) -> int:
    """Return how many words all begin with: as many as the first and the last of them in sorted order."""
    pairs = zip(min(words), max(words), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _hash(shingle: str) -> int:
    return int.from_bytes(blake2b(whole_characters(shingle, "?").encode(), digest_size=_HASH_BYTES).digest())
