"""Out-of-domain detection: scores that are higher for the domains' own queries.

Shapes: n texts, k labels, d features; `logits` [n, k], `features` [n, d]. `own` [k] is True for the domains' labels and
False for `OTHER`, if the router learned it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self, get_args

import numpy as np

from moe_ray.arrays import BoolArray, FloatArray, IntArray
from moe_ray.gating.calibration import Temperatures, log_sum_exp
from moe_ray.routing.classifier import ClassifierOutputs

ScoreName = Literal["max_probability", "energy", "mahalanobis", "other_probability"]
SCORE_NAMES: tuple[ScoreName, ...] = get_args(ScoreName)

TPR = 0.95  # of the published figure "false positive rate at 95 % true positives"
# Smallest variance of a feature's direction, as a share of the largest; a constant feature has no unit of distance.
MIN_VARIANCE_SHARE = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Mahalanobis:
    """Distance to the nearest domain, in units of the spread that texts have around their domain's mean.

    `means` [num_domains, d]; `whitening` [d, d] turns features into ones of unit variance within a domain.
    """

    means: FloatArray
    whitening: FloatArray

    @classmethod
    def fit(cls, features: FloatArray, gold: IntArray, own: BoolArray) -> Self:
        """Fit to training texts of every domain; texts of `OTHER` are left out.

        One covariance for all domains, shrunk towards a multiple of the identity according to the number of texts
        (Ledoit and Wolf 2004).
        """
        from sklearn.covariance import ledoit_wolf

        places = np.flatnonzero(own)
        means = np.stack([features[gold == place].mean(axis=0) for place in places])
        centred = np.concatenate([features[gold == place] - mean for place, mean in zip(places, means, strict=True)])
        covariance, _ = ledoit_wolf(centred, assume_centered=True)
        variances, directions = np.linalg.eigh(covariance)
        least = MIN_VARIANCE_SHARE * variances[-1] if variances[-1] > 0 else 1.0
        return cls(means=means, whitening=directions / np.sqrt(np.maximum(variances, least)))

    def scores(self, features: FloatArray) -> FloatArray:
        """Minus the distance to the nearest domain's mean [n]."""
        texts, means = features @ self.whitening, self.means @ self.whitening
        distances = np.stack([np.sqrt(((texts - mean) ** 2).sum(axis=1)) for mean in means])
        return np.asarray(-distances.min(axis=0))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OutOfDomainScorer:
    """Computes the scores. `mahalanobis` is None where a router goes by another score and needs no features."""

    own: BoolArray
    temperatures: Temperatures
    mahalanobis: Mahalanobis | None

    @property
    def names(self) -> tuple[ScoreName, ...]:
        """The scores that can be computed."""
        missing = {"other_probability" if self.own.all() else "", "" if self.mahalanobis else "mahalanobis"}
        return tuple(name for name in SCORE_NAMES if name not in missing)

    def scores(self, name: ScoreName, outputs: ClassifierOutputs) -> FloatArray:
        """One score of each text [n], higher where it looks more like the domains' own.

        With `OTHER` among the labels, probabilities are those of all labels, so that what the router learned of
        out-of-domain queries lowers the highest probability of a domain. Energy uses the domains' logits alone, because
        a high logit of `OTHER` is evidence for an out-of-domain query; its temperature is that of uncertain texts.
        """
        if name == "mahalanobis":
            assert self.mahalanobis is not None
            return self.mahalanobis.scores(outputs.features)
        if name == "energy":
            temperature = self.temperatures.uncertain
            return temperature * log_sum_exp(outputs.logits[:, self.own] / temperature)
        domains = self.temperatures.probabilities(outputs.logits)[:, self.own]
        return np.asarray(domains.max(axis=1) if name == "max_probability" else domains.sum(axis=1))

    def all_scores(self, outputs: ClassifierOutputs) -> Mapping[ScoreName, FloatArray]:
        """Every score that can be computed."""
        return {name: self.scores(name, outputs) for name in self.names}


def auroc(own: FloatArray, out_of_domain: FloatArray) -> float:
    """The chance that an own score is above an out-of-domain score, ties counting half. Both hold at least one."""
    ordered = np.sort(out_of_domain)
    below, up_to = np.searchsorted(ordered, own, "left"), np.searchsorted(ordered, own, "right")
    return float((below + up_to).mean() / (2 * len(out_of_domain)))


def threshold_keeping(own: FloatArray, share: float) -> float:
    """The highest of the own scores at or above which at least `share` of them lie, ties kept; at least one score."""
    num_kept = math.ceil(share * len(own) - 1e-9)  # 0.95 * 20 is 19, whatever the last digit says
    return float(np.sort(own)[::-1][max(num_kept, 1) - 1])


def fpr95(own: FloatArray, out_of_domain: FloatArray) -> float:
    """Share of out-of-domain queries that are kept where 95 % of the own are."""
    return float((out_of_domain >= threshold_keeping(own, TPR)).mean())
