"""Made-up populations of scores whose true values are known: one system's, and two systems' on the same examples.

A population draws columns of n examples. Two systems' answers to an example are bound by a normal copula: `rho` 0 are
independent, 1 are equal in rank.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr
from scipy.stats import beta, gamma

from moe_ray.arrays import FloatArray
from moe_ray.comparison.columns import Column, empty_column
from moe_ray.scoring.score import Metric

ACCURACY = Metric(name="accuracy", definition="right or wrong", binary=True)
MACRO_F1 = Metric(name="macro_f1", definition="mean F1 over labels", aggregation="macro_f1")
MEAN = Metric(name="mean", definition="mean, weighted where there are weights")

LABELS = ("yes", "no", "maybe")
PUBMEDQA_SHARES = np.array([276, 169, 55]) / 500
NUM_SAMPLES = 5

Quantile = Callable[[FloatArray, np.random.Generator, np.random.Generator], Column]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """One metric of one system.

    `quantile` turns a uniform number in (0, 1) for each example into its score. It gets two random sources: what all
    systems see of the examples, and this system's own luck.
    """

    truth: float
    quantile: Quantile
    metric: Metric


def plain_column(values: FloatArray, weights: FloatArray | None = None) -> Column:
    """A column in which everything is scored."""
    column = empty_column(len(values))
    column.values[:] = values
    column.weights[:] = 1.0 if weights is None else weights
    column.reasons[:] = None
    return column


def accuracy(share: float) -> Scores:
    """Right with chance `share`."""
    return Scores(truth=share, metric=ACCURACY, quantile=lambda u, *_: plain_column((u < share).astype(np.float64)))


def rouge_like(share_of_zeros: float, a: float = 2.0, b: float = 5.0) -> Scores:
    """Values in [0, 1]: zero with chance `share_of_zeros`, else Beta(a, b)."""

    def quantile(u: FloatArray, *_: np.random.Generator) -> Column:
        above = np.clip((u - share_of_zeros) / (1 - share_of_zeros), 0, 1)
        return plain_column(np.where(u < share_of_zeros, 0.0, beta.ppf(above, a, b)))

    return Scores(truth=(1 - share_of_zeros) * a / (a + b), metric=MEAN, quantile=quantile)


def pass_at_1(a: float, b: float) -> Scores:
    """Share of five samples that pass; a task's chance to be solved is Beta(a, b)."""

    def quantile(u: FloatArray, _: np.random.Generator, own: np.random.Generator) -> Column:
        return plain_column(own.binomial(NUM_SAMPLES, beta.ppf(u, a, b)) / NUM_SAMPLES)

    return Scores(truth=a / (a + b), metric=MEAN, quantile=quantile)


def bits_per_byte(log_sd_of_bytes: float) -> Scores:
    """Gamma(4, 1/4) + 20 / bytes, weighted by bytes, which are log-normal around 200: short texts cost more a byte."""

    def quantile(u: FloatArray, shared: np.random.Generator, _: np.random.Generator) -> Column:
        weights = 200 * np.exp(log_sd_of_bytes * shared.normal(size=len(u)))
        return plain_column(gamma.ppf(u, 4, scale=0.25) + 20 / weights, weights)

    return Scores(truth=1 + 20 / (200 * np.exp(log_sd_of_bytes**2 / 2)), metric=MEAN, quantile=quantile)


def macro_f1(*skills: float) -> Scores:
    """PubMedQA's labels; each is known with its label's skill, else one of the three is guessed."""
    skill = np.broadcast_to(skills, 3)
    recalls = skill[:, None] * np.eye(3) + (1 - skill[:, None]) / 3
    joint = PUBMEDQA_SHARES[:, None] * recalls
    f1 = 2 * np.diag(joint) / (joint.sum(axis=0) + joint.sum(axis=1))
    names = np.array(LABELS, dtype=object)

    def quantile(u: FloatArray, shared: np.random.Generator, own: np.random.Generator) -> Column:
        gold = np.searchsorted(np.cumsum(PUBMEDQA_SHARES)[:2], shared.random(len(u)), side="right")
        label = np.where(u < skill[gold], gold, own.integers(0, 3, len(u)))
        column = plain_column((gold == label).astype(np.float64))
        column.golds[:] = names[gold]
        column.labels[:] = names[label]
        return column

    return Scores(truth=float(f1.mean()), metric=MACRO_F1, quantile=quantile)


def draw(scores: Scores, num_examples: int, rng: np.random.Generator) -> Column:
    """A column of independent examples."""
    return scores.quantile(rng.random(num_examples), rng, rng)


def draw_together(systems: Sequence[Scores], rho: float, num_examples: int, rng: np.random.Generator) -> list[Column]:
    """Columns of `systems` on the same examples."""
    common = rng.normal(size=num_examples)
    seed = int(rng.integers(2**63))
    columns = []
    for scores in systems:
        luck = np.sqrt(rho) * common + np.sqrt(1 - rho) * rng.normal(size=num_examples)
        columns.append(scores.quantile(ndtr(luck), np.random.default_rng(seed), rng))
    return columns
