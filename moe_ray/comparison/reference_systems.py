"""What a router is measured by: the best model of each example, an expert drawn by chance, the best model alone."""

import math

import numpy as np

from moe_ray.comparison.columns import ObjectArray
from moe_ray.comparison.run_matrix import RunMatrix, sign
from moe_ray.comparison.sums import count_rows, exact_sums, value_of_sums
from moe_ray.comparison.systems import BEST_SINGLE, ORACLE, RANDOM, DomainSystem, ExampleSystem, was_asked_all
from moe_ray.domains.sampling import hash_rank


def oracle_system(run: RunMatrix) -> ExampleSystem | None:
    """The model with the best headline score, for each example; None in a run of one model.

    Of equal ones the first by preference is taken. An example that no model has a score for is answered by none.
    """
    if len(run.models) < 2:
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
    found = [(model, run.headline(model, domain)) for model in run.by_preference(domain)]
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
    """
    order = list(dict.fromkeys([*filter(None, [run.baseline]), *run.models]))
    means = {model: mean for model in order if (mean := _mean_of_headlines(run, model)) is not None}
    if len(means) < 2:
        return None
    best = max(means, key=means.__getitem__)
    return DomainSystem(
        name=BEST_SINGLE,
        definition=f"{best} answers everything: the best model alone, chosen by these very examples",
        kind="policy",
        models=dict.fromkeys(run.headlines, best),
    )


def _mean_of_headlines(run: RunMatrix, model: str) -> float | None:
    """None where the model was not asked everything, or has no value on some domain."""
    values = [_value(run, model, domain) for domain in run.headlines] if run.was_asked_everything(model) else [None]
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if len(known) == len(values) else None


def _value(run: RunMatrix, model: str, domain: str) -> float | None:
    metric, column = run.headlines[domain], run.headline(model, domain)
    if column is None:
        return None
    rows = count_rows(column, metric, run.scores.gold_labels(domain, metric.name))
    value = value_of_sums(exact_sums(rows), metric)
    return None if value is None else sign(metric) * value
