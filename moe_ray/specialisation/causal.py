"""Effects of removing experts, from paired changes of a score. Pure functions of arrays: no model, no torch.

A change is the score of a text without the expert, less its score with the model intact: log p(true class) in nats, or
minus bits per byte. So a negative effect is a loss. Three effects of an expert e on a class c:

total      mean change over the texts of c.
specific   total, less the mean change under control draws, which remove as many selections from other experts of the
           layer. It says that it matters *which* expert was removed: removing anything changes the output.
selective  specific effect on c, less the mean of those on the other classes that are tested. This is specialisation.

Texts are the unit. Every effect is a lower bound where other experts take over what was removed.
Shapes: n texts, X experts (or layers of experts), R control draws, C classes.
"""

# ruff: noqa: N803 - capital suffixes name the axes of an array

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from moe_ray.arrays import BoolArray, FloatArray, IntArray
from moe_ray.comparison.statistics import benjamini_hochberg, mcnemar_p
from moe_ray.errors import UserError
from moe_ray.fingerprint import fingerprint
from moe_ray.proportions import CONFIDENCE, wilson_bounds

EffectKind = Literal["total", "specific", "selective"]

MIN_CONTROL_DRAWS = 20
ALPHA = 1 - CONFIDENCE
POWER = 0.8
MAX_EXACT_TEXTS = 16
NUM_RESAMPLES = 999


class Mean(NamedTuple):
    """A mean with its standard error and degrees of freedom; NaN where they are not defined."""

    value: float
    error: float
    degrees: float

    def interval(self) -> tuple[float, float]:
        """The 95 % interval of Student's t."""
        from scipy.special import stdtrit

        half = float(stdtrit(self.degrees, (1 + CONFIDENCE) / 2)) * self.error if self.degrees > 0 else math.nan
        return self.value - half, self.value + half

    def p_value(self) -> float:
        """Two-sided p-value of a t test that the truth is 0; 1 where nothing ever changed."""
        from scipy.special import stdtr

        if self.error == 0 and self.value == 0:
            return 1.0
        if not self.error > 0 or not self.degrees > 0:
            return math.nan
        return float(2 * stdtr(self.degrees, -abs(self.value) / self.error))

    def equivalence_p(self, margin: float) -> float:
        """p-value of two one-sided t tests that the truth is not within (-margin, margin): small shows that it is."""
        from scipy.special import stdtr

        if self.error == 0:
            return 0.0 if abs(self.value) < margin else 1.0
        if not self.error > 0 or not self.degrees > 0:
            return math.nan
        return float(stdtr(self.degrees, -(margin - abs(self.value)) / self.error))

    def detectable(self, alpha: float = ALPHA) -> float:
        """Smallest true effect that a two-sided test at `alpha` shows with a probability of 80 %."""
        from scipy.special import stdtrit

        if not self.degrees > 0:
            return math.nan
        return float(stdtrit(self.degrees, 1 - alpha / 2) + stdtrit(self.degrees, POWER)) * self.error


def mean_of(values: FloatArray) -> Mean:
    """Return the mean of independent values."""
    if len(values) < 2:
        return Mean(float(values.mean()) if len(values) else math.nan, math.nan, 0)
    return Mean(float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values))), len(values) - 1)


def combined(means: Sequence[Mean], weights: Sequence[float]) -> Mean:
    """Return the weighted sum of independent means, its degrees of freedom by Satterthwaite's formula."""
    value = sum(weight * mean.value for weight, mean in zip(weights, means, strict=True))
    parts = [(weight * mean.error) ** 2 for weight, mean in zip(weights, means, strict=True)]
    variance = sum(parts)
    shares = [part**2 / mean.degrees for part, mean in zip(parts, means, strict=True) if part > 0]
    degrees = variance**2 / sum(shares) if shares and sum(shares) > 0 else min(mean.degrees for mean in means)
    return Mean(value, math.sqrt(variance) if variance >= 0 else math.nan, degrees)


def sign_flip_p(values: FloatArray, *, num_flips: int = 9999) -> float:
    """Two-sided p-value that paired changes are symmetric around 0, from flipping their signs.

    All flips are counted for up to `MAX_EXACT_TEXTS` texts; otherwise the p-value is at least 1 / (num_flips + 1):
    adjusted over m tests, a discovery needs num_flips >= 20 m.
    """
    num = len(values)
    observed = abs(float(values.sum()))
    if num <= MAX_EXACT_TEXTS:
        signs = 1 - 2 * ((np.arange(2**num)[:, None] >> np.arange(num)) & 1)
        sums = np.abs(signs @ values)
        return float((sums >= observed - _tolerance(values)).mean())
    rng = _random("sign flips", num)
    sums = np.abs((1 - 2 * rng.integers(0, 2, (num_flips, num), dtype=np.int8)) @ values)
    return float(((sums >= observed - _tolerance(values)).sum() + 1) / (num_flips + 1))


def _tolerance(values: FloatArray) -> float:
    return 1e-12 * float(np.abs(values).sum())


def _random(purpose: str, num_texts: int) -> np.random.Generator:
    seed = int(fingerprint({"purpose": purpose, "num_texts": num_texts}), 16)
    return np.random.Generator(np.random.PCG64(seed))


def min_texts(num_tests: int) -> int:
    """Return how many texts a class needs: fewer, all changed one way, could not be discovered among so many tests.

    It is the smallest n with 2 / 2^n <= 0.05 / num_tests, as of McNemar's and the sign-flip test.
    """
    return math.ceil(math.log2(2 * max(1, num_tests) / ALPHA))


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertEffect:
    """One effect of one expert on one class.

    `value` with `low` and `high`, its 95 % interval over texts (and control draws), are in the unit of the changes;
    `d_z` is the value in standard deviations of a text's change. `p_value` is of no effect, and `q_value` is adjusted
    over `family`; None for a class with too few texts. `equivalence_p` is of an effect of at least the margin, None
    without one. `detectable` is the smallest true effect that would be found among all tests with a probability of
    80 %. `no_headroom`: the intact model is at chance on the class, so that accuracy could not fall.
    """

    kind: EffectKind
    expert: int
    label: int
    num_texts: int
    value: float
    low: float
    high: float
    d_z: float
    p_value: float | None
    q_value: float | None
    family: str
    equivalence_p: float | None
    detectable: float
    no_headroom: bool


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PairedChanges:
    """What was measured: `removed` [n, X] and `controls` [n, X, R] are changes of the score, `labels` [n] classes.

    `controls` are matched to the expert within class and rank, with the same draw for all texts. `right` [n] says which
    texts the intact model classifies rightly, where that is known; `chance` is the share that guessing gets right.
    """

    removed: FloatArray
    controls: FloatArray
    labels: IntArray
    num_classes: int
    right: BoolArray | None = None
    chance: float | None = None

    def require_valid(self) -> None:
        """Raise `UserError` for arrays that do not fit each other, and for too few control draws."""
        num, num_experts = self.removed.shape
        if self.controls.shape[:2] != (num, num_experts) or len(self.labels) != num:
            raise UserError(
                f"changes of {num} texts and {num_experts} experts, controls of {list(self.controls.shape)} "
                f"and {len(self.labels)} labels",
                remedy="give arrays over the same texts and experts",
            )
        if len(self.labels) and not 0 <= self.labels.min() <= self.labels.max() < self.num_classes:
            raise UserError(
                f"labels from {self.labels.min()} to {self.labels.max()} for {self.num_classes} classes",
                remedy="number the classes from 0",
            )
        if self.controls.shape[2] < MIN_CONTROL_DRAWS:
            raise UserError(
                f"{self.controls.shape[2]} control draws", remedy=f"draw at least {MIN_CONTROL_DRAWS} for each expert"
            )
        if not (np.isfinite(self.removed).all() and np.isfinite(self.controls).all()):
            raise UserError("some changes are not finite", remedy="leave out texts whose score is not finite")


def causal_effects(changes: PairedChanges, *, family: str, margin: float | None = None) -> list[ExpertEffect]:
    """Return all three effects of every expert on every class; specific and selective ones are tested.

    p-values are adjusted by Benjamini-Hochberg over all specific and selective effects together, which `family` names.
    `margin` asks for equivalence tests. Raises `UserError` for arrays that do not fit.
    """
    changes.require_valid()
    num_experts, num_classes = changes.removed.shape[1], changes.num_classes
    num_tests = 2 * num_experts * num_classes
    needed = min_texts(num_tests)
    found = [effect for expert in range(num_experts) for effect in _effects_of(changes, expert, needed)]
    sizes = np.bincount(changes.labels, minlength=num_classes)
    p_values = [
        None if kind == "total" or sizes[label] < needed else _none_if_nan(mean.p_value())
        for kind, _, label, mean, _ in found
    ]
    q_values = benjamini_hochberg(p_values)
    num_tested = sum(p_value is not None for p_value in p_values)
    flat = no_headroom(changes)
    effects = []
    for (kind, expert, label, mean, spread), p_value, q_value in zip(found, p_values, q_values, strict=True):
        low, high = mean.interval()
        effects.append(
            ExpertEffect(
                kind=kind,
                expert=expert,
                label=label,
                num_texts=int(sizes[label]),
                value=mean.value,
                low=low,
                high=high,
                d_z=mean.value / spread if spread > 0 else math.nan,
                p_value=p_value,
                q_value=q_value,
                family=f"{family} ({num_tested} tests)",
                equivalence_p=None if margin is None else _none_if_nan(mean.equivalence_p(margin)),
                detectable=mean.detectable(ALPHA / max(1, num_tested)),
                no_headroom=bool(flat[label]),
            )
        )
    return effects


def _effects_of(changes: PairedChanges, expert: int, needed: int) -> Iterator[tuple[EffectKind, int, int, Mean, float]]:
    """Yield kind, expert, class, effect and the standard deviation over texts, of all effects of one expert.

    A class is contrasted with the others of at least `needed` texts.
    """
    classes = range(changes.num_classes)
    own = [changes.labels == label for label in classes]
    controls = [changes.controls[texts, expert] for texts in own]
    # The change that each draw makes to a class: all texts share it.
    draws = [part.mean(axis=0) if len(part) else np.full(part.shape[1], np.nan) for part in controls]
    specific = [
        mean_of(changes.removed[texts, expert] - part.mean(axis=1)) for texts, part in zip(own, controls, strict=True)
    ]
    for label in classes:
        total = mean_of(changes.removed[own[label], expert])
        yield "total", expert, label, total, _spread(total)
        spread = _spread(specific[label])
        yield "specific", expert, label, combined([specific[label], _draw_error(draws[label])], [1.0, 1.0]), spread
        others = [at for at in classes if at != label and own[at].sum() >= needed]
        if others:
            weights = [1.0, *(-1 / len(others) for _ in others), 1.0]
            contrast = draws[label] - np.mean([draws[at] for at in others], axis=0)
            means = [specific[label], *(specific[at] for at in others), _draw_error(contrast)]
            yield "selective", expert, label, combined(means, weights), spread


def _draw_error(effects_R: FloatArray) -> Mean:
    """Return the error of comparing one removal with the mean of R draws: sd sqrt(1 + 1/R), around 0.

    Which tokens are changed moves all texts together, and the expert's own removal is one such draw. Without this an
    expert that is like any other would be found, the surer the more texts there are.
    """
    num = len(effects_R)
    return Mean(0.0, float(effects_R.std(ddof=1)) * math.sqrt(1 + 1 / num), num - 1)


def _spread(mean: Mean) -> float:
    return mean.error * math.sqrt(mean.degrees + 1) if mean.degrees > 0 else math.nan


def _none_if_nan(value: float) -> float | None:
    return None if math.isnan(value) else value


def no_headroom(changes: PairedChanges) -> BoolArray:
    """Return for each class whether the intact model's accuracy may be chance: Wilson's interval reaches down to it."""
    found = np.zeros(changes.num_classes, dtype=np.bool_)
    if changes.right is None or changes.chance is None:
        return found
    for label in range(changes.num_classes):
        own = changes.right[changes.labels == label]
        if len(own):
            found[label] = wilson_bounds(int(own.sum()), len(own))[0] <= changes.chance
    return found


def accuracy_p(intact_right: BoolArray, removed_right: BoolArray) -> float:
    """Exact McNemar p-value that removal changes accuracy, over the same texts."""
    return mcnemar_p(int((intact_right & ~removed_right).sum()), int((removed_right & ~intact_right).sum()))


class RankAgreement(NamedTuple):
    """Spearman's correlation of two orders of experts, with its 95 % interval over texts."""

    correlation: float
    low: float
    high: float


def rank_agreement(observed: npt.ArrayLike, changes_nX: FloatArray) -> RankAgreement:
    """Compare an observational measure of experts [X] with their loss, minus the mean change over texts [n, X].

    1: what is measured is what matters. Texts are resampled; the observational order is taken as given.
    """
    measured = np.asarray(observed, dtype=np.float64)
    rng = _random("rank agreement", len(changes_nX))
    drawn = [
        _spearman(measured, -changes_nX[rng.integers(0, len(changes_nX), len(changes_nX))].mean(axis=0))
        for _ in range(NUM_RESAMPLES)
    ]
    low, high = np.nanquantile(drawn, [ALPHA / 2, 1 - ALPHA / 2]) if np.isfinite(drawn).any() else (np.nan, np.nan)
    return RankAgreement(_spearman(measured, -changes_nX.mean(axis=0)), float(low), float(high))


def _spearman(a: FloatArray, b: FloatArray) -> float:
    from scipy.stats import rankdata

    ranks = rankdata(a), rankdata(b)
    if np.ptp(ranks[0]) == 0 or np.ptp(ranks[1]) == 0:
        return math.nan
    return float(np.corrcoef(*ranks)[0, 1])
