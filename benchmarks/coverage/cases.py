"""What is simulated: populations, numbers of examples, and how two systems' answers hang together."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from benchmarks.coverage.populations import Scores, accuracy, bits_per_byte, macro_f1, pass_at_1, rouge_like


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueCase:
    """The interval of one system's value."""

    family: str
    setting: str
    num_examples: int
    scores: Scores


@dataclass(frozen=True, slots=True, kw_only=True)
class PairCase:
    """The interval and the test of the difference of two systems on the same examples."""

    family: str
    setting: str
    num_examples: int
    rho: float
    a: Scores
    b: Scores

    @property
    def truth(self) -> float:
        return round(self.a.truth - self.b.truth, 12)


@dataclass(frozen=True, slots=True, kw_only=True)
class ManyCase:
    """`num_equal` systems that are as good as the baseline and `num_better` that are better, all tested at once."""

    family: str
    setting: str
    num_examples: int
    rho: float
    baseline: Scores
    better: Scores
    num_equal: int
    num_better: int


Case = ValueCase | PairCase | ManyCase

SHARES = {f"{share:.0%} right": accuracy(share) for share in (0.5, 0.9, 0.99)}
LABEL_SKILLS = {
    "40 % known, the rest guessed": macro_f1(0.4),
    "75 % known": macro_f1(0.75),
    "95 % known": macro_f1(0.95),
    "99 % known": macro_f1(0.99),
    "75 %, of maybe 20 %": macro_f1(0.75, 0.75, 0.2),
}
OVERLAPS = {
    "Beta(2, 5)": rouge_like(0.0),
    "30 % zeros": rouge_like(0.3),
    "90 % zeros": rouge_like(0.9),
    "most near 0": rouge_like(0.0, 0.5, 5.0),
}
SOLVED = {"solved by halves": pass_at_1(0.3, 0.7), "nearly all solved": pass_at_1(1.5, 0.1)}
BITS = {"texts of like length": bits_per_byte(0.3), "of unlike length": bits_per_byte(1.0)}


@lru_cache(maxsize=1)
def all_cases() -> tuple[Case, ...]:
    """Every case, in the order of the tables."""
    return (*_values(), *_pairs(), *_many())


def _values() -> Iterator[ValueCase]:
    for family, settings, sizes in (
        ("accuracy", SHARES, (10, 20, 50, 500)),
        ("macro-F1", LABEL_SKILLS, (20, 50, 200, 500)),
        ("ROUGE-like", OVERLAPS, (5, 10, 20, 50, 200, 500)),
        ("pass@1 of 5", SOLVED, (10, 20, 50, 200)),
        ("bits per byte", BITS, (5, 10, 50, 500)),
    ):
        for setting, scores in settings.items():
            for size in sizes:
                yield ValueCase(family=family, setting=setting, num_examples=size, scores=scores)


def _both(scores: Scores) -> tuple[Scores, Scores]:
    return scores, scores


def _pairs() -> Iterator[PairCase]:
    for family, setting, a, b, rho, sizes in (
        ("accuracy", "50 % both", *_both(accuracy(0.5)), 0.0, (10, 50, 500)),
        ("accuracy", "80 % both, much alike", *_both(accuracy(0.8)), 0.8, (10, 50, 500)),
        ("accuracy", "99 % both", *_both(accuracy(0.99)), 0.5, (50, 500)),
        ("accuracy", "80 % against 70 %", accuracy(0.8), accuracy(0.7), 0.5, (50, 200, 500)),
        ("macro-F1", "60 % both", *_both(macro_f1(0.6)), 0.5, (20, 50, 200)),
        ("macro-F1", "95 % both", *_both(macro_f1(0.95)), 0.5, (20, 50, 200)),
        ("macro-F1", "80 % against 70 %", macro_f1(0.8), macro_f1(0.7), 0.5, (50, 200)),
        ("macro-F1", "95 % against 40 %", macro_f1(0.95), macro_f1(0.4), 0.5, (20, 50)),
        ("ROUGE-like", "Beta(2, 5) both", *_both(rouge_like(0.0)), 0.0, (10, 50, 200)),
        ("ROUGE-like", "the same, much alike", *_both(rouge_like(0.0)), 0.9, (10, 50, 200)),
        ("ROUGE-like", "90 % zeros both", *_both(rouge_like(0.9)), 0.8, (10, 50, 200)),
        ("ROUGE-like", "equal means, unlike shapes", rouge_like(0.0, 1, 9), rouge_like(0.8, 5, 5), 0.0, (10, 50, 200)),
        ("ROUGE-like", "0.29 against 0.20", rouge_like(0.0), rouge_like(0.3), 0.5, (20, 50)),
        ("pass@1 of 5", "solved by halves, both", *_both(pass_at_1(0.3, 0.7)), 0.8, (10, 50, 200)),
        ("bits per byte", "of unlike length, both", *_both(bits_per_byte(1.0)), 0.5, (10, 50, 200)),
    ):
        for size in sizes:
            yield PairCase(family=family, setting=setting, num_examples=size, rho=rho, a=a, b=b)


def _many() -> Iterator[ManyCase]:
    for family, better, baseline in (
        ("accuracy", accuracy(0.8), accuracy(0.6)),
        ("ROUGE-like", rouge_like(0.0), rouge_like(0.3)),
    ):
        for num_equal, num_better in ((8, 0), (4, 4)):
            setting = f"{num_equal} equal, {num_better} better"
            yield ManyCase(
                family=family,
                setting=setting,
                num_examples=50,
                rho=0.5,
                baseline=baseline,
                better=better,
                num_equal=num_equal,
                num_better=num_better,
            )
