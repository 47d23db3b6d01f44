"""Training a router: what it learns from, what it sets on validation, and what it refuses."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binomtest

from moe_ray.config.schema import OTHER, RouterConfig
from moe_ray.errors import ConfigError, DataError
from moe_ray.gating.calibration import calibration, fit_temperatures
from moe_ray.routing.out_of_domain import auroc
from moe_ray.routing.router import Router
from moe_ray.routing.training import fit_router
from moe_ray.texts.labelled import RouterTexts, codes, texts_fingerprint
from tests.routing.queries import DOMAINS, nothing_reported, queries, router_texts

FOUR = (*DOMAINS, OTHER)


def fitted(texts: RouterTexts, **out_of_domain: object) -> Router:
    config = RouterConfig.model_validate({"kind": "tfidf", "out_of_domain": out_of_domain})
    return fit_router(config, texts, device="cpu", report=nothing_reported)[0]


def test_temperatures_and_threshold_are_set_on_validation_alone() -> None:
    texts = router_texts()
    router = fitted(texts, keep=0.9)
    asked = [text.text for text in texts.validation]
    gold = np.array(codes(texts.validation, DOMAINS))
    assert router.record.temperatures == fit_temperatures(router.outputs(asked).logits, gold)
    kept = np.mean(router.judge(asked).scores >= router.threshold)
    assert 0.9 <= kept < 0.9 + 2 / len(asked)
    other_test = fitted(replace(texts, test=texts.test[:9], out_of_domain={}), keep=0.9)
    assert other_test.threshold == router.threshold
    assert other_test.record.temperatures == router.record.temperatures


def test_test_results_are_what_the_router_says_of_the_test_texts() -> None:
    texts = router_texts(FOUR)
    router = fitted(texts)
    results = router.test_results
    assert results is not None
    own = [text for text in texts.test if text.label != OTHER]
    judged = router.judge([text.text for text in own])
    out_of_domain = router.judge([text.text for text in texts.out_of_domain["sports"]])
    assert results.own_kept == pytest.approx(np.mean(judged.scores >= router.threshold))
    chosen = next(
        item for item in results.out_of_domain if item.set == "sports" and item.score == results.out_of_domain_score
    )
    assert chosen.kept == pytest.approx(np.mean(out_of_domain.scores >= router.threshold))
    assert chosen.auroc == pytest.approx(auroc(judged.scores, out_of_domain.scores))
    assert (results.n, results.num_train, results.num_validation) == (160, 160, 160)
    wilson = binomtest(round(results.accuracy * 160), 160).proportion_ci(method="wilson")
    assert (results.accuracy_low, results.accuracy_high) == pytest.approx((wilson.low, wilson.high))
    assert results.after_scaling.nll <= results.before_scaling.nll


def test_a_binary_routers_calibration_is_that_of_its_probabilities() -> None:
    texts = router_texts(DOMAINS[:2])
    router = fitted(texts)
    assert router.test_results is not None
    probabilities = router.predict_proba([text.text for text in texts.test])
    expected = calibration(probabilities, np.array(codes(texts.test, DOMAINS[:2])))
    assert router.test_results.after_scaling.ece == pytest.approx(expected.ece, abs=1e-12)


@pytest.mark.parametrize("score", ["max_probability", "energy", "mahalanobis", "other_probability"])
def test_a_named_score_is_taken_and_tells_sports_from_the_domains(score: str) -> None:
    router = fitted(router_texts(FOUR), score=score)
    assert router.record.out_of_domain_score == score
    assert router.test_results is not None
    found = {item.score: item.auroc for item in router.test_results.out_of_domain if item.set == "sports"}
    assert found[score] > 0.8


def test_without_out_of_domain_queries_to_choose_by_the_score_is_energy() -> None:
    router = fitted(router_texts())
    assert router.record.out_of_domain_score == "energy"
    assert router.test_results is not None
    assert router.test_results.validation_out_of_domain == []


def test_the_probability_of_other_needs_that_label() -> None:
    with pytest.raises(ConfigError, match="other_probability needs queries of no domain"):
        fitted(router_texts(), score="other_probability")


def test_the_record_names_the_texts_and_the_settings() -> None:
    texts = router_texts()
    record = fitted(texts, keep=0.8).record
    assert record.texts == texts_fingerprint(texts)
    assert RouterConfig.model_validate(record.settings).out_of_domain.keep == 0.8
    assert record.labels == list(DOMAINS)


def test_control_characters_in_training_texts_do_no_harm() -> None:
    texts = router_texts()
    spoilt = tuple(replace(text, text=text.text.replace(" ", "\0") + "\ud800") for text in texts.train)
    router = fitted(replace(texts, train=spoilt))
    assert router.test_results is not None
    assert router.test_results.accuracy > 0.9


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        (router_texts(["legal"]), "all texts have one: 40 of legal"),
        (
            replace(router_texts(), train=queries(DOMAINS[:2], 5)),
            "no training text of code; there are 5 of legal, 5 of biomedical, 0 of code",
        ),
        (
            replace(router_texts(), validation=queries(["legal"], 2)),
            "fewer validation texts than labels: 2 of legal, 0 of biomedical, 0 of code",
        ),
        (replace(router_texts(FOUR), validation=queries([OTHER], 9)), "no validation text of any domain"),
        (replace(router_texts(), test=()), "no test text of any domain: 0 of legal"),
        (replace(router_texts(), train=queries(["legal", "sports"], 5)), "texts are labelled sports; the labels are"),
    ],
)
def test_texts_that_cannot_train_a_router_are_refused_with_their_counts(texts: RouterTexts, says: str) -> None:
    with pytest.raises(DataError, match=says) as caught:
        fitted(texts)
    assert caught.value.remedy
