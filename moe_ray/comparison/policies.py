"""Policies over the matrix: baseline, best single model, oracle, random, routed, cascade."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from moe_ray.arrays import BoolArray, FloatArray
from moe_ray.comparison.columns import Column, ObjectArray
from moe_ray.comparison.matrix import RunMatrix, sign
from moe_ray.comparison.resampling import count_rows, exact_sums, value_of_sums
from moe_ray.comparison.systems import (
    BEST_SINGLE,
    CASCADE,
    ORACLE,
    RANDOM,
    ROUTED,
    DomainSystem,
    ExampleSystem,
    system_column,
    was_asked_all,
)
from moe_ray.domains.loading import hash_rank
from moe_ray.scoring.score import Metric
from moe_ray.store.routes import Routes


def oracle_system(run: RunMatrix) -> ExampleSystem | None:
    """The model with the best headline score, for each example.

    Of equal ones the first by preference is taken. An example that no model has a score for is answered by none.
    None in a run of one model, and where models were measured against different references.
    """
    if len(run.models) < 2 or not all(map(run.share_references, run.headlines)):
        return None
    names = ", ".join(dict.fromkeys(metric.name for metric in run.headlines.values()))
    return ExampleSystem(
        name=ORACLE,
        definition=f"the model with the best score on each example, by {names}; no router can know it",
        members=frozenset(run.models),
        example_ids=run.scores.example_ids,
        chosen={domain: _best_models(run, domain) for domain in run.headlines},
    )


def _best_models(run: RunMatrix, domain: str) -> ObjectArray:
    order, metric = run.by_preference(domain), run.headlines[domain]
    if metric.aggregation == "mean":
        return _best_of(run, domain, order)
    # Where all are wrong, the wrong label counts too. Preferring a model there never gives less than that model alone,
    # so that the best of these choices is not below any model.
    orders = [[model, *(other for other in order if other != model)] for model in order]
    picks = [_best_of(run, domain, one) for one in orders]
    labels = run.scores.gold_labels(domain, metric)
    worth = [_value_of(_picked(run, domain, pick), metric, labels) for pick in picks]
    return picks[worth.index(max(worth))]


def _picked(run: RunMatrix, domain: str, picks: ObjectArray) -> Column:
    system = ExampleSystem(
        name=ORACLE,
        definition="",
        members=frozenset(run.models),
        example_ids=run.scores.example_ids,
        chosen={domain: picks},
    )
    return system_column(run.scores, system, domain, run.headlines[domain].name)


def _best_of(run: RunMatrix, domain: str, order: list[str]) -> ObjectArray:
    """The model with the best score of each example; of equal ones the first in `order`."""
    found = [(model, run.headline(model, domain)) for model in order]
    scored = {model: column.values for model, column in found if column is not None}
    values = np.stack(list(scored.values())) * sign(run.headlines[domain])
    is_scored = ~np.isnan(values)
    best = np.where(is_scored, values, -np.inf).argmax(axis=0)
    models: ObjectArray = np.array([*scored, None], dtype=object)[np.where(is_scored.any(axis=0), best, -1)]
    return models


def random_system(run: RunMatrix) -> ExampleSystem | None:
    """One of the experts, each as likely as the others, on the domains where all were asked everything.

    None without two experts, or without such a domain. The draw follows from domain and id alone.
    """
    experts = sorted({run.experts[domain] for domain in run.headlines if domain in run.experts})
    domains = [name for name in run.headlines if all(was_asked_all(run.scores, model, name) for model in experts)]
    if len(experts) < 2 or not domains:
        return None
    return ExampleSystem(
        name=RANDOM,
        definition="one of the experts, drawn evenly by a hash of the example's id",
        members=frozenset(experts),
        example_ids=run.scores.example_ids,
        chosen={domain: _drawn(run, domain, experts) for domain in domains},
    )


def _drawn(run: RunMatrix, domain: str, experts: list[str]) -> ObjectArray:
    """Limits and splits draw by the hash of the id alone: this one is of more, so as not to hang together with them."""
    hashes = (hash_rank(f"an expert for {domain}/{example_id}") for example_id in run.scores.example_ids[domain])
    return np.array(experts, dtype=object)[[int(digits[:15], 16) % len(experts) for digits in hashes]]


def best_single_system(run: RunMatrix) -> DomainSystem | None:
    """The one model with the best mean of the headline metrics; None without two models that answered all domains.

    Metrics of which lower values are better count with a minus. Of equal models the first by preference is taken.
    Models whose scores cannot be ranked are left out, and named with the reason. None where models were measured
    against different references.
    """
    if not all(map(run.share_references, run.headlines)):
        return None
    order = list(dict.fromkeys([*filter(None, [run.baseline]), *run.models]))
    asked = {model: run.reason_against(model) for model in order if run.was_asked_everything(model)}
    ranked = {model: _mean_of_headlines(run, model) for model, reason in asked.items() if reason is None}
    means = {model: mean for model, mean in ranked.items() if mean is not None}
    if len(means) < 2:
        return None
    best = max(means, key=means.__getitem__)
    left_out = "".join(f"; {model} is left out: {reason}" for model, reason in asked.items() if reason)
    return DomainSystem(
        name=BEST_SINGLE,
        definition=f"{best} answers everything: the best model alone, chosen by these very examples{left_out}",
        kind="policy",
        models=dict.fromkeys(run.headlines, best),
    )


def _mean_of_headlines(run: RunMatrix, model: str) -> float | None:
    """None where the model has no value on some domain."""
    values = [_value(run, model, domain) for domain in run.headlines]
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if len(known) == len(values) else None


def _value(run: RunMatrix, model: str, domain: str) -> float | None:
    metric, column = run.headlines[domain], run.headline(model, domain)
    if column is None:
        return None
    value = _value_of(column, metric, run.scores.gold_labels(domain, metric))
    return None if math.isinf(value) else value


def _value_of(column: Column, metric: Metric, labels: Sequence[str]) -> float:
    """The metric with a minus where lower is better; minus infinity without a score."""
    value = value_of_sums(exact_sums(count_rows(column, metric, labels)), metric)
    return -math.inf if value is None else sign(metric) * value


class RoutedExamples(NamedTuple):
    """What the router said of the n examples of a domain, in the order of the matrix.

    `experts` [n] are the models that its choices stand for; None where it was not asked, or where the choice has
    neither expert nor baseline. `is_out_of_domain` [n]: the score is below the threshold. `scores` and `seconds` [n]
    are NaN where it was not asked.
    """

    experts: ObjectArray
    is_out_of_domain: BoolArray
    scores: FloatArray
    seconds: FloatArray


def routed_examples(run: RunMatrix, routes: Routes) -> dict[str, RoutedExamples]:
    """What the router said, for each domain of which it was asked anything."""
    experts = np.array([*map(run.expert_of, routes.domains), None], dtype=object)
    chosen, is_out_of_domain = np.append(routes.chosen, -1), np.append(routes.is_out_of_domain, False)
    scores, seconds = np.append(routes.scores, np.nan), np.append(routes.seconds, np.nan)
    found: dict[str, RoutedExamples] = {}
    for domain in run.headlines:
        rows = routes.rows(domain, run.scores.example_ids[domain])  # -1, not asked, finds what was appended
        if (rows >= 0).any():
            found[domain] = RoutedExamples(experts[chosen[rows]], is_out_of_domain[rows], scores[rows], seconds[rows])
    return found


def routed_system(run: RunMatrix, asked: Mapping[str, RoutedExamples]) -> ExampleSystem:
    """Each example is answered by the expert of its most probable domain; by the baseline where that has none."""
    return ExampleSystem(
        name=ROUTED,
        definition="the expert of the domain that the router finds most probable",
        members=_members(run),
        example_ids=run.scores.example_ids,
        chosen={domain: found.experts for domain, found in asked.items()},
        router_s={domain: found.seconds for domain, found in asked.items()},
    )


def cascade_system(
    run: RunMatrix, asked: Mapping[str, RoutedExamples], baseline: str, threshold: float
) -> ExampleSystem:
    """As `routed_system`, but the baseline answers what looks out-of-domain."""
    return ExampleSystem(
        name=CASCADE,
        definition=f"as {ROUTED}, but {baseline} answers a query whose score is below {threshold:.4g}",
        members=_members(run) | {baseline},
        example_ids=run.scores.example_ids,
        chosen={domain: np.where(found.is_out_of_domain, baseline, found.experts) for domain, found in asked.items()},
        router_s={domain: found.seconds for domain, found in asked.items()},
        sent_to_baseline={
            domain: found.is_out_of_domain & (found.experts != baseline) for domain, found in asked.items()
        },
    )


def _members(run: RunMatrix) -> frozenset[str]:
    return frozenset(expert for domain in run.headlines if (expert := run.expert_of(domain)) is not None)
