"""The rules of cleaning once more, slowly and plainly: what the tests hold the fast ones against."""

import re
import unicodedata
from collections.abc import Iterable
from fractions import Fraction
from itertools import combinations

NEAR = Fraction(7, 10)


def same_key(text: str) -> str:
    return re.sub(r"\s+", " ", unicodedata.normalize("NFKC", text).casefold()).strip()


def shingle_set(text: str) -> frozenset[tuple[str, ...]]:
    """Word 3-shingles of a text in Latin script."""
    words = re.findall(r"[^\W_]+", same_key(text)) or [same_key(text)]
    return frozenset(tuple(words[at : at + 3]) for at in range(max(1, len(words) - 2)))


def similarity(first: str, second: str) -> Fraction:
    one, other = shingle_set(first), shingle_set(second)
    return Fraction(len(one & other), len(one | other))


def near_pairs(texts: Iterable[str]) -> set[tuple[str, str]]:
    """All pairs, in order, whose similarity is 0.7 or more."""
    return {(a, b) for a, b in combinations(sorted(texts), 2) if similarity(a, b) >= NEAR}
