"""Train a router: fit the classifier, set temperatures and threshold on the validation texts, test it once."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

import moe_ray
from moe_ray.arrays import BoolArray, FloatArray
from moe_ray.config.schema import OTHER, RouterConfig
from moe_ray.domains.loading import hash_rank
from moe_ray.errors import ConfigError, DataError, ModelError
from moe_ray.gating.calibration import calibration, confusion_matrix, fit_temperatures, label_results, macro_f1, softmax
from moe_ray.progress import Report
from moe_ray.proportions import wilson_bounds
from moe_ray.routing.classifier import ClassifierOutputs, TextClassifier, classifier_class
from moe_ray.routing.files import OutOfDomainResult, RouterRecord, RouterTestResults
from moe_ray.routing.out_of_domain import Mahalanobis, OutOfDomainScorer, ScoreName, auroc, fpr95, threshold_keeping
from moe_ray.routing.router import Router, readable
from moe_ray.texts.labelled import LabelledText, RouterTexts, codes, texts_fingerprint

# Of each domain, for the means and the spread that Mahalanobis distances are measured in: enough for a shrunk
# covariance, and it spares a second pass of a large encoder over all training texts.
MAX_MAHALANOBIS_TEXTS = 1000
# The defaults without out-of-domain queries to choose by. A fine-tuned encoder is confident about every text, but its
# features tell out-of-domain queries (mean AUROC 0.98 against 0.57 by energy); those of the others tell less than
# energy does (benchmarks.router_accuracy).
DEFAULT_SCORES: Mapping[str, ScoreName] = {"transformer": "mahalanobis", "tfidf": "energy", "embedding": "energy"}


class Detection(NamedTuple):
    """How the router tells out-of-domain queries, and by which measurement that was chosen."""

    scorer: OutOfDomainScorer
    score: ScoreName
    threshold: float
    measured: list[OutOfDomainResult]


def fit_router(
    config: RouterConfig, texts: RouterTexts, *, device: str, report: Report
) -> tuple[Router, RouterTestResults]:
    """Train the kind of router that `config` names on "cpu" or "cuda", and test it.

    The router holds its test results, and `save` writes them beside it. Raises `DataError` where the texts cannot
    train or test a router, and what the classifier's `train` raises.
    """
    _require_learnable(texts)
    learned_from, texts = texts_fingerprint(texts), _readable(texts)
    started_s = time.monotonic()
    classifier = classifier_class(config.kind).train(
        config, texts.labels, texts.train, texts.validation, device=device, report=report
    )
    train_s = time.monotonic() - started_s
    outputs = classifier.outputs([text.text for text in texts.validation])
    _require_finite(outputs)
    gold = np.array(codes(texts.validation, texts.labels))
    own = np.array([label != OTHER for label in texts.labels])
    scorer = OutOfDomainScorer(
        own=own,
        temperatures=fit_temperatures(outputs.logits, gold),
        mahalanobis=_fit_mahalanobis(classifier, texts, own),
    )
    detection = _detection(config, scorer, outputs, own[gold])
    record = _record(config, texts.labels, learned_from, detection)
    router = Router(classifier=classifier, record=record, mahalanobis=scorer.mahalanobis)
    results = evaluate(router, texts, train_s=train_s, validation_out_of_domain=detection.measured)
    kept = router.mahalanobis if detection.score == "mahalanobis" else None
    return replace(router, mahalanobis=kept, test_results=results), results


def _require_finite(outputs: ClassifierOutputs) -> None:
    """Raise `ModelError` for a classifier whose training diverged: no temperature and no threshold fits it."""
    if not (np.isfinite(outputs.logits).all() and np.isfinite(outputs.features).all()):
        raise ModelError(
            "the router's training diverged: its outputs are not finite numbers",
            where="router.training",
            remedy="lower router.training.learning_rate",
        )


def _require_learnable(texts: RouterTexts) -> None:
    """Raise `DataError` unless there is something to tell apart, to learn from, to calibrate and to test with."""
    labels = texts.labels
    counts = {part: Counter(text.label for text in getattr(texts, part)) for part in ("train", "validation", "test")}
    shown = {part: _shown(labels, count) for part, count in counts.items()}
    unknown = sorted(set().union(*counts.values()) - set(labels))
    if unknown:
        raise _data_error(f"texts are labelled {', '.join(unknown)}; the labels are {', '.join(labels)}")
    if len(labels) < 2:
        raise _data_error(f"a router needs at least two labels, and all texts have one: {shown['train']}")
    missing = [label for label in labels if not counts["train"][label]]
    if missing:
        raise _data_error(f"no training text of {', '.join(missing)}; there are {shown['train']}")
    if counts["validation"].total() < len(labels):
        raise _data_error(f"fewer validation texts than labels: {shown['validation']}")
    for part in ("validation", "test"):
        if not any(counts[part][domain] for domain in texts.domains):
            raise _data_error(f"no {part} text of any domain: {shown[part]}")


def _shown(labels: Sequence[str], counts: Counter[str]) -> str:
    return ", ".join(f"{counts[label]} of {label}" for label in labels)


def _data_error(what: str) -> DataError:
    return DataError(
        what,
        where="router.data",
        remedy="give every domain more texts (router.data.DOMAIN), or larger test_fraction and validation_fraction",
    )


def _readable(texts: RouterTexts) -> RouterTexts:
    """The texts as the trained router will read them."""
    return replace(
        texts,
        train=_all_readable(texts.train),
        validation=_all_readable(texts.validation),
        test=_all_readable(texts.test),
        out_of_domain={name: _all_readable(part) for name, part in texts.out_of_domain.items()},
    )


def _all_readable(texts: Sequence[LabelledText]) -> tuple[LabelledText, ...]:
    return tuple(replace(text, text=readable(text.text)) for text in texts)


def _fit_mahalanobis(classifier: TextClassifier, texts: RouterTexts, own: BoolArray) -> Mahalanobis:
    ranked = sorted(texts.train, key=lambda text: hash_rank(text.id))
    by_domain = [[text for text in ranked if text.label == domain] for domain in texts.domains]
    drawn = [text for of_domain in by_domain for text in of_domain[:MAX_MAHALANOBIS_TEXTS]]
    features = classifier.outputs([text.text for text in drawn]).features
    return Mahalanobis.fit(features, np.array(codes(drawn, texts.labels)), own)


def _detection(
    config: RouterConfig, scorer: OutOfDomainScorer, outputs: ClassifierOutputs, is_own: BoolArray
) -> Detection:
    """Choose score and threshold by the outputs of the n validation texts; `is_own` [n]: those of a domain."""
    scores = scorer.all_scores(outputs)
    own, other = ({name: values[mask] for name, values in scores.items()} for mask in (is_own, ~is_own))
    score = _chosen_score(config, own, other)
    threshold = threshold_keeping(own[score], config.out_of_domain.keep)
    measured = out_of_domain_results(OTHER, own, other, {score: threshold}) if not is_own.all() else []
    return Detection(scorer, score, threshold, measured)


def _chosen_score(
    config: RouterConfig, own: Mapping[ScoreName, FloatArray], other: Mapping[ScoreName, FloatArray]
) -> ScoreName:
    wanted = config.out_of_domain.score
    if wanted == "auto":
        default = DEFAULT_SCORES[config.kind]
        return max(own, key=lambda name: auroc(own[name], other[name])) if len(other[default]) else default
    if wanted not in own:
        raise ConfigError(
            f"{wanted} needs queries of no domain to learn from",
            where="router.out_of_domain.score",
            remedy="name some under router.other, or choose another score",
        )
    return wanted


def _record(config: RouterConfig, labels: Sequence[str], learned_from: str, detection: Detection) -> RouterRecord:
    return RouterRecord(
        moe_ray_version=moe_ray.__version__,
        kind=config.kind,
        labels=list(labels),
        temperature=detection.scorer.temperatures.uncertain,
        confident_temperature=detection.scorer.temperatures.confident,
        out_of_domain_score=detection.score,
        threshold=detection.threshold,
        query=config.query,
        settings=config.model_dump(mode="json"),
        texts=learned_from,
    )


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
