"""Scores for out-of-domain queries against closed forms, SciPy and scikit-learn."""

import math

import numpy as np
import pytest
from scipy.spatial.distance import mahalanobis
from sklearn.covariance import LedoitWolf
from sklearn.metrics import roc_auc_score

from moe_ray.arrays import FloatArray
from moe_ray.gating.calibration import Temperatures
from moe_ray.routing.classifier import ClassifierOutputs
from moe_ray.routing.out_of_domain import Mahalanobis, OutOfDomainScorer, auroc, fpr95, threshold_keeping


def outputs(logits: FloatArray) -> ClassifierOutputs:
    return ClassifierOutputs(logits=logits, features=logits)


def scorer(own: list[bool], temperature: float = 1.0) -> OutOfDomainScorer:
    return OutOfDomainScorer(own=np.array(own), temperatures=Temperatures(temperature), mahalanobis=None)


def test_energy_of_equal_logits_grows_with_the_logarithm_of_their_number() -> None:
    for temperature in (0.5, 1.0, 4.0):
        found = scorer([True] * 3, temperature).scores("energy", outputs(np.full((2, 3), 1.5)))
        assert found == pytest.approx(1.5 + temperature * math.log(3))


def test_energy_of_a_cold_router_is_its_highest_logit() -> None:
    logits = np.array([[3.0, -1.0, 0.0], [2.0, 2.5, -4.0]])
    assert scorer([True] * 3, 1e-3).scores("energy", outputs(logits)) == pytest.approx([3.0, 2.5])


def test_what_the_router_learned_of_out_of_domain_queries_lowers_every_score_but_energy() -> None:
    own = [True, True, False]
    plain, out_of_domain = outputs(np.array([[2.0, 0.0, -9.0]])), outputs(np.array([[2.0, 0.0, 9.0]]))
    for name in ("max_probability", "other_probability"):
        assert scorer(own).scores(name, out_of_domain) < scorer(own).scores(name, plain)
    assert scorer(own).scores("energy", out_of_domain) == scorer(own).scores("energy", plain)
    assert scorer(own).scores("other_probability", out_of_domain) == pytest.approx(
        1 - 1 / (1 + math.exp(-7) + math.exp(-9))
    )


def test_scores_that_cannot_be_computed_are_not_offered() -> None:
    assert scorer([True, True]).names == ("max_probability", "energy")
    assert scorer([True, False]).names == ("max_probability", "energy", "other_probability")


def test_the_distance_is_scipys_to_the_nearest_mean_with_scikit_learns_shrunk_covariance() -> None:
    rng = np.random.default_rng(0)
    gold = rng.integers(0, 3, 90)
    features = rng.normal(size=(90, 5)) @ rng.normal(size=(5, 5)) + 3 * gold[:, None]
    own = np.array([True, True, False])
    means = [features[gold == label].mean(axis=0) for label in (0, 1)]
    centred = np.concatenate([features[gold == label] - means[label] for label in (0, 1)])
    precision = LedoitWolf(assume_centered=True).fit(centred).precision_
    expected = [-min(mahalanobis(text, mean, precision) for mean in means) for text in features]
    assert Mahalanobis.fit(features, gold, own).scores(features) == pytest.approx(expected, rel=1e-9)


def test_features_that_never_vary_leave_distances_finite() -> None:
    flat = np.ones((6, 4))
    gold = np.array([0, 0, 0, 1, 1, 1])
    assert Mahalanobis.fit(flat, gold, np.array([True, True])).scores(flat) == pytest.approx(0.0)
    flat[:, 0] = [0.0, 1.0, 2.0, 0.0, 1.0, 2.0]
    assert np.isfinite(Mahalanobis.fit(flat, gold, np.array([True, True])).scores(flat + 1)).all()


@pytest.mark.parametrize("decimals", [0, 1, 8])
def test_auroc_is_scikit_learns_with_and_without_ties(decimals: int) -> None:
    rng = np.random.default_rng(decimals)
    own, out_of_domain = rng.normal(0.7, 1, 300).round(decimals), rng.normal(0, 1, 200).round(decimals)
    expected = roc_auc_score([1] * 300 + [0] * 200, np.concatenate([own, out_of_domain]))
    assert auroc(own, out_of_domain) == pytest.approx(expected, abs=1e-12)


def test_auroc_is_one_when_all_own_are_above_and_a_half_when_all_are_equal() -> None:
    assert auroc(np.array([2.0, 3.0]), np.array([0.0, 1.0])) == 1.0
    assert auroc(np.ones(3), np.ones(4)) == 0.5


@pytest.mark.parametrize("share", [0.6, 0.95, 0.99, 1.0])
@pytest.mark.parametrize("num", [1, 2, 7, 20, 100])
def test_a_threshold_keeps_at_least_its_share_and_no_higher_one_does(num: int, share: float) -> None:
    for seed in range(20):
        own = np.random.default_rng(seed).integers(0, 8, num).astype(float)
        threshold = threshold_keeping(own, share)
        assert (own >= threshold).mean() >= share - 1e-12
        above = own[own > threshold]
        assert len(above) < share * num


def test_false_positives_are_the_out_of_domain_queries_at_or_above_the_threshold_that_keeps_95_percent() -> None:
    own = np.arange(100.0)
    assert fpr95(own, np.array([4.0, 5.0, 6.0, -1.0])) == 0.5
