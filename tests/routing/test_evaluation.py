"""The test of a router: against scikit-learn, and of routers whose figures theory tells."""

import math

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix as sklearn_confusion
from sklearn.metrics import f1_score, precision_recall_fscore_support

from moe_ray.config.schema import OTHER, RouterConfig
from moe_ray.gating.calibration import MAX_TEMPERATURE, confusion_matrix, label_results, macro_f1, softmax
from moe_ray.routing import classifier as registry
from moe_ray.routing.files import RouterTestResults
from moe_ray.routing.training import fit_router
from moe_ray.texts.labelled import RouterTexts
from tests.routing.queries import DOMAINS, WrongClassifier, nothing_reported, router_texts

ONE_IN_A_MILLION = 1e-6


def measured(kind: str, texts: RouterTexts, monkeypatch: pytest.MonkeyPatch) -> RouterTestResults:
    """Train a classifier whose logits are known beforehand, and test it as any other."""
    monkeypatch.setitem(registry.CLASSIFIERS, "tfidf", f"tests.routing.queries:{kind}")
    return fit_router(RouterConfig(kind="tfidf"), texts, device="cpu", report=nothing_reported)[1]


@pytest.mark.parametrize("seed", range(6))
def test_confusion_precision_recall_and_f1_are_scikit_learns(seed: int) -> None:
    rng = np.random.default_rng(seed)
    num_labels = 5
    gold, predicted = rng.integers(0, 3 + seed % 3, 60), rng.integers(0, 3 + seed % 2, 60)  # some labels are absent
    confusion = confusion_matrix(gold, predicted, num_labels)
    assert confusion.tolist() == sklearn_confusion(gold, predicted, labels=range(num_labels)).tolist()
    assert macro_f1(confusion) == pytest.approx(f1_score(gold, predicted, average="macro", zero_division=0))
    expected = precision_recall_fscore_support(gold, predicted, labels=range(num_labels), zero_division=np.nan)
    for at, result in enumerate(label_results([str(label) for label in range(num_labels)], confusion)):
        found = [math.nan if value is None else value for value in (result.precision, result.recall, result.f1)]
        assert found == pytest.approx([column[at] for column in expected[:3]], nan_ok=True)
        assert result.n == int((gold == at).sum())


@pytest.mark.parametrize("labels", [DOMAINS[:2], DOMAINS, (*DOMAINS, OTHER)])
def test_a_random_router_is_right_as_often_as_chance_and_tells_nothing_out_of_domain(
    labels: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    results = measured("RandomClassifier", router_texts(labels, num_each=400, num_test_each=1500), monkeypatch)
    num_right = sum(results.confusion[at][at] for at in range(len(labels)))
    assert results.accuracy == num_right / results.n
    assert binomtest(num_right, results.n, 1 / len(labels)).pvalue > ONE_IN_A_MILLION
    assert results.macro_f1 == pytest.approx(1 / len(labels), abs=0.05)
    num_own = 1500 * len(set(labels) - {OTHER})
    for result in results.out_of_domain:
        standard_error = math.sqrt((num_own + result.n + 1) / (12 * num_own * result.n))  # of Mann and Whitney's U
        assert abs(result.auroc - 0.5) < 5 * standard_error
        assert result.fpr95 == pytest.approx(0.95, abs=0.03)
        assert result.kept is None or result.kept == pytest.approx(0.95, abs=0.03)
    assert results.own_kept == pytest.approx(0.95, abs=0.03)


def test_a_random_router_learns_by_calibration_that_it_knows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    results = measured("RandomClassifier", router_texts(num_each=400, num_test_each=1500), monkeypatch)
    logits = np.random.default_rng(0).normal(scale=2.0, size=(200_000, 3))
    mean_confidence = float(softmax(logits).max(axis=1).mean())
    assert results.before_scaling.ece == pytest.approx(mean_confidence - 1 / 3, abs=0.03)
    assert results.after_scaling.ece < 0.03
    assert results.after_scaling.nll == pytest.approx(math.log(3), abs=0.01)


def test_an_always_wrong_router_has_no_accuracy_and_an_error_equal_to_its_confidence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    results = measured("WrongClassifier", router_texts(num_each=20), monkeypatch)
    assert results.accuracy == results.macro_f1 == results.accuracy_low == 0.0
    assert results.temperature == pytest.approx(MAX_TEMPERATURE)
    rest = math.exp(WrongClassifier.margin)
    assert results.before_scaling.ece == pytest.approx(rest / (rest + 2))
    assert results.before_scaling.nll == pytest.approx(math.log(rest + 2))
    rest = math.exp(WrongClassifier.margin / MAX_TEMPERATURE)
    assert results.after_scaling.ece == pytest.approx(rest / (rest + 2))
    assert [result.recall for result in results.per_label] == [0.0] * 3
    assert results.confusion == [[0, 40, 0], [0, 0, 40], [40, 0, 0]]


def test_every_score_is_measured_on_every_set_and_only_the_routers_own_has_a_kept_share(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    results = measured("RandomClassifier", router_texts((*DOMAINS, OTHER), num_each=20), monkeypatch)
    names = ["max_probability", "energy", "mahalanobis", "other_probability"]
    assert [(item.set, item.score) for item in results.out_of_domain] == [
        (s, n) for s in (OTHER, "sports") for n in names
    ]
    assert {item.score for item in results.out_of_domain if item.kept is not None} == {results.out_of_domain_score}
    assert [item.score for item in results.validation_out_of_domain] == names
    best = max(results.validation_out_of_domain, key=lambda item: item.auroc)
    assert results.out_of_domain_score == best.score
