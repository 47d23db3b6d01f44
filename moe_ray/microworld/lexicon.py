"""Invented words, and the pairs of facts that are trained on or held out."""

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

_CONSONANTS = "bdfgklmnrstvz"
_VOWELS = "aiou"

FirstT = TypeVar("FirstT")
SecondT = TypeVar("SecondT")


class Coiner:
    """Coins invented words, each at most once, so that no word has two meanings in one world."""

    def __init__(self, seed: str) -> None:
        self._random = random.Random(f"words:{seed}")
        self._coined: set[str] = set()

    def words(self, num_words: int) -> tuple[str, ...]:
        """Return `num_words` new lower-case words of two syllables."""
        coined: list[str] = []
        while len(coined) < num_words:
            word = self._word()
            if word not in self._coined:
                self._coined.add(word)
                coined.append(word)
        return tuple(coined)

    def _word(self) -> str:
        parts = (_CONSONANTS, _VOWELS, _CONSONANTS, _VOWELS)
        return "".join(self._random.choice(part) for part in parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class PairSplit(Generic[FirstT, SecondT]):
    """Combinations of two facts; no combination is in both parts, every single fact is in `train`."""

    train: tuple[tuple[FirstT, SecondT], ...]
    test: tuple[tuple[FirstT, SecondT], ...]


def split_pairs(
    first: Sequence[FirstT], second: Sequence[SecondT], num_test: int, rng: random.Random
) -> PairSplit[FirstT, SecondT]:
    """Hold out `num_test` combinations of a fact of `first` with one of `second`.

    The diagonal is never held out, so every fact can be learned; raises `ValueError` when too few others remain.
    """
    indices = list(itertools.product(range(len(first)), range(len(second))))
    candidates = [(i, j) for i, j in indices if i % len(second) != j % len(first)]
    if len(candidates) < num_test:
        raise ValueError(f"{num_test} combinations to hold out, but only {len(candidates)} can be")
    held_out = set(rng.sample(candidates, num_test))
    return PairSplit(
        train=tuple((first[i], second[j]) for i, j in indices if (i, j) not in held_out),
        test=tuple((first[i], second[j]) for i, j in sorted(held_out)),
    )
