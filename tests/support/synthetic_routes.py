"""A made-up router: what it says of a synthetic run, and how it stood a made-up test. It is as often right as sure."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from moe_ray.arrays import FloatArray
from moe_ray.gating.calibration import calibration, confusion_matrix, label_results, macro_f1, softmax
from moe_ray.proportions import wilson_bounds
from moe_ray.routing.files import OutOfDomainResult, RouterTestResults
from moe_ray.routing.out_of_domain import auroc, fpr95
from moe_ray.store.routes import Routes
from moe_ray.store.run_directory import RunDirectory

SKILL, PERFECT = 2.2, 12.0
TEST_TEXTS = 150
OVERCONFIDENCE = 2.0
KEPT = 0.95


def logits_of(gold: Sequence[int], num_domains: int, skill: float, rng: np.random.Generator) -> FloatArray:
    """Logits [n, num_domains] whose softmax is the true probability: noise, and `skill` in the gold domain's place."""
    drawn = rng.normal(size=(len(gold), num_domains))
    drawn[np.arange(len(gold)), list(gold)] += skill
    return drawn * skill


def synthetic_routes(run: RunDirectory, *, skill: float = SKILL, seed: int = 0) -> Routes:
    """Routes for every example of `run`; `skill` 0 is a router that knows nothing."""
    domains = list(run.manifest().domains)
    examples = [example for domain in domains for example in run.each_example(domain)]
    rng = np.random.default_rng(seed)
    drawn = logits_of([domains.index(example.domain) for example in examples], len(domains), skill, rng)
    probabilities = softmax(drawn + rng.normal(size=drawn.shape) * 1e-9)
    scores = probabilities.max(axis=1)
    return Routes(
        router="synthetic",
        domains=tuple(domains),
        threshold=float(np.quantile(scores, 1 - KEPT)),
        example_domains=tuple(example.domain for example in examples),
        example_ids=tuple(example.id for example in examples),
        probabilities=probabilities,
        scores=scores,
        seconds=rng.uniform(0.002, 0.004, len(examples)),
    )


def synthetic_test(labels: Sequence[str], *, skill: float = SKILL, num_texts: int = TEST_TEXTS) -> RouterTestResults:
    """A test on `num_texts` texts of each label; before its temperature was set, the router was too sure."""
    rng = np.random.default_rng(1)
    gold = np.repeat(np.arange(len(labels)), num_texts)
    own = logits_of(gold.tolist(), len(labels), skill, rng)
    out_of_domain = rng.normal(size=(400, len(labels)))
    own_scores, out_of_domain_scores = own.max(axis=1), out_of_domain.max(axis=1)
    threshold = float(np.quantile(own_scores, 1 - KEPT))
    confusion = confusion_matrix(gold, own.argmax(axis=1), len(labels))
    num_right = int(np.trace(confusion))
    low, high = wilson_bounds(num_right, len(gold))
    found = OutOfDomainResult(
        set="web_questions",
        score="energy",
        n=len(out_of_domain),
        auroc=auroc(own_scores, out_of_domain_scores),
        fpr95=fpr95(own_scores, out_of_domain_scores),
        kept=float((out_of_domain_scores >= threshold).mean()),
    )
    return RouterTestResults(
        labels=list(labels),
        num_train=8 * len(gold),
        num_validation=len(gold),
        n=len(gold),
        accuracy=num_right / len(gold),
        accuracy_low=low,
        accuracy_high=high,
        macro_f1=macro_f1(confusion),
        per_label=label_results(labels, confusion),
        confusion=confusion.tolist(),
        temperature=OVERCONFIDENCE,
        before_scaling=calibration(softmax(own * OVERCONFIDENCE), gold),
        after_scaling=calibration(softmax(own), gold),
        out_of_domain_score="energy",
        threshold=threshold,
        own_kept=KEPT,
        validation_out_of_domain=[found.model_copy(update={"score": "max_probability", "kept": None}), found],
        out_of_domain=[found, found.model_copy(update={"set": "small_talk"})],
        train_s=312.0,
        seconds_per_text=0.003,
    )


def route(run: RunDirectory, *, skill: float = SKILL, with_test: bool = True) -> Routes:
    """Add a router to a synthetic run, and return what it said."""
    manifest, routes = run.manifest(), synthetic_routes(run, skill=skill)
    about: dict[str, Any] = {"kind": "tfidf"}
    if with_test:
        about["test_results"] = synthetic_test(routes.domains).model_dump(mode="json")
    run.write_manifest(manifest.model_copy(update={"router": about}))
    run.write_routes(routes)
    return routes
