"""Duplicates and near duplicates of texts.

Duplicates are equal after Unicode NFKC, case folding and white space normalisation. Near duplicates have a Jaccard
similarity of word 3-shingles of at least `NEAR_PERCENT`.
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
    """Return the normal form of a text, which is equal for duplicates; empty for white space."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def shingles(form: str) -> Shingles:
    """Return the sorted hashes of the word 3-shingles of a normal form. Punctuation is ignored.

    A text of one or two words is a single shingle, as is a text without words; short texts are near duplicates only
    if they are equal.
    """
    words = _WORD.findall(form) or [form]
    starts = range(max(1, len(words) - SHINGLE_WORDS + 1))
    return np.array(sorted({_hash(" ".join(words[at : at + SHINGLE_WORDS])) for at in starts}), dtype=np.uint64)


def are_near(first: Shingles, second: Shingles) -> bool:
    """Return whether the Jaccard similarity is at least `NEAR_PERCENT`."""
    smaller, larger = sorted((first.size, second.size))
    if smaller < _num_needed(larger):
        return False
    num_common = np.intersect1d(first, second, assume_unique=True).size
    return num_common >= _num_needed(smaller + larger - num_common)


def without_affixes(forms: Sequence[str]) -> list[str]:
    """Remove the common leading and trailing words of all `forms`, such as those of a template.

    Forms that are all equal are unchanged, as is a form that consists of the template only.
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
    """An exact index of near duplicates.

    Two sets with a similarity of `NEAR_PERCENT` share an element among the first few of each, in any common order
    of all elements (prefix filtering: Bayardo, Ma and Srikant 2007). Rarest elements first, few other sets share one;
    frequencies come from `sample`.
    """

    def __init__(self, sample: Iterable[Shingles]) -> None:
        together = np.concatenate([np.empty(0, dtype=np.uint64), *sample])
        self._known, self._counts = np.unique(together, return_counts=True)
        self._keys_by_shingle: defaultdict[int, list[Hashable]] = defaultdict(list)
        self._shingles: dict[Hashable, Shingles] = {}

    def near(self, own: Shingles) -> list[Hashable]:
        """Return the keys of added near duplicates, in the order in which they were added."""
        keys = dict.fromkeys(key for each in self._rarest(own) for key in self._keys_by_shingle.get(each, ()))
        return [key for key in keys if are_near(own, self._shingles[key])]

    def add(self, key: Hashable, own: Shingles) -> None:
        """Add a text under a new key."""
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
    """Return the smallest integer that is at least `NEAR_PERCENT` of `num_in_all`."""
    return -(-NEAR_PERCENT * num_in_all // 100)


def _num_common(words: list[list[str]]) -> int:
    """Return the length of the common prefix, which is that of the smallest and the largest element."""
    pairs = zip(min(words), max(words), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _hash(shingle: str) -> int:
    return int.from_bytes(blake2b(whole_characters(shingle, "?").encode(), digest_size=_HASH_BYTES).digest())
