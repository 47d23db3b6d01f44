"""Evaluate a router on unseen texts."""

import time
from collections.abc import Mapping, Sequence

import numpy as np

from moe_ray.arrays import FloatArray
from moe_ray.config.schema import OTHER
from moe_ray.gating.calibration import calibration, confusion_matrix, label_results, macro_f1, softmax
from moe_ray.proportions import wilson_bounds
from moe_ray.routing.out_of_domain import ScoreName, auroc, fpr95
from moe_ray.routing.results import OutOfDomainResult, RouterTestResults
from moe_ray.routing.router import Router
from moe_ray.texts.labelled import LabelledText, RouterTexts, codes

Scores = Mapping[ScoreName, FloatArray]


def evaluate(
    router: Router,
    texts: RouterTexts,
    *,
    train_s: float = 0.0,
    validation_out_of_domain: Sequence[OutOfDomainResult] = (),
) -> RouterTestResults:
    """Test `router` on the test texts and the out-of-domain sets of `texts`, whose labels are the router's.

    There is at least one test text of a domain. Every out-of-domain score that the router can compute is measured; the
    test texts with the label `OTHER` are an out-of-domain set of that name.
    """
    started_s = time.perf_counter()
    outputs = router.outputs([text.text for text in texts.test])
    seconds = time.perf_counter() - started_s
    gold = np.array(codes(texts.test, router.labels))
    confusion = confusion_matrix(gold, outputs.logits.argmax(axis=1), len(router.labels))
    num_right = int(np.trace(confusion))
    low, high = wilson_bounds(num_right, len(gold))
    is_own = router.own[gold]
    scores = router.scorer.all_scores(outputs)
    own, other = ({name: values[mask] for name, values in scores.items()} for mask in (is_own, ~is_own))
    return RouterTestResults(
        labels=list(router.labels),
        num_train=len(texts.train),
        num_validation=len(texts.validation),
        n=len(gold),
        accuracy=num_right / len(gold),
        accuracy_low=low,
        accuracy_high=high,
        macro_f1=macro_f1(confusion),
        per_label=label_results(router.labels, confusion),
        confusion=confusion.tolist(),
        temperature=router.record.temperature,
        confident_temperature=router.record.confident_temperature,
        before_scaling=calibration(softmax(outputs.logits), gold),
        after_scaling=calibration(router.record.temperatures.probabilities(outputs.logits), gold),
        out_of_domain_score=router.record.out_of_domain_score,
        threshold=router.threshold,
        own_kept=float((own[router.record.out_of_domain_score] >= router.threshold).mean()),
        validation_out_of_domain=list(validation_out_of_domain),
        out_of_domain=_out_of_domain(router, own, other, texts.out_of_domain),
        train_s=train_s,
        seconds_per_text=seconds / len(gold),
    )


def _out_of_domain(
    router: Router, own: Scores, other: Scores, sets: Mapping[str, Sequence[LabelledText]]
) -> list[OutOfDomainResult]:
    kept = {router.record.out_of_domain_score: router.threshold}
    scores = {
        name: router.scorer.all_scores(router.outputs([text.text for text in texts]))
        for name, texts in sets.items()
        if texts
    }
    if len(other[router.record.out_of_domain_score]):
        scores = {OTHER: other, **scores}
    return [result for name, values in scores.items() for result in out_of_domain_results(name, own, values, kept)]


def out_of_domain_results(
    name: str, own: Scores, out_of_domain: Scores, kept: Mapping[ScoreName, float]
) -> list[OutOfDomainResult]:
    """How well each score tells the set `name` from the own texts. `kept`: the router's score, with its threshold."""
    return [
        OutOfDomainResult(
            set=name,
            score=score,
            n=len(out_of_domain[score]),
            auroc=auroc(own[score], out_of_domain[score]),
            fpr95=fpr95(own[score], out_of_domain[score]),
            kept=float((out_of_domain[score] >= kept[score]).mean()) if score in kept else None,
        )
        for score in own
    ]
