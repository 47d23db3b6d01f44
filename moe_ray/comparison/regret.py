"""What a system loses to the oracle, and by which of its mistakes."""

import math
from collections.abc import Iterator, Sequence

import numpy as np

from moe_ray.comparison.columns import BoolArray, FloatArray
from moe_ray.comparison.failures import uncounted_failures
from moe_ray.comparison.records import Regret
from moe_ray.comparison.run_matrix import RunMatrix, sign
from moe_ray.comparison.systems import ExampleSystem, System, system_column


def regrets(run: RunMatrix, systems: Sequence[System], oracle: System) -> list[Regret]:
    """The regret of each policy but the oracle, on every domain that it answers and that someone is to answer.

    On each example, the oracle's score less the system's is the oracle's less the right expert's (the domain's own; the
    baseline where it has none) and the right expert's less the system's. The latter is due to the baseline where a
    threshold sent the example there, or where a system of one model is the baseline; else to the wrong domain. Where
    failures of either cannot be counted, there is no regret.
    """
    return list(_regrets(run, systems, oracle))


def _regrets(run: RunMatrix, systems: Sequence[System], oracle: System) -> Iterator[Regret]:
    for domain in run.headlines:
        for system in systems:
            if system.kind == "policy" and system.name != oracle.name and domain in system.domains():
                found = _regret(run, system, oracle, domain)
                if found is not None:
                    yield found


def _regret(run: RunMatrix, system: System, oracle: System, domain: str) -> Regret | None:
    metric, right = run.headlines[domain], run.headline(run.expert_of(domain) or "", domain)
    if right is None:
        return None
    best, own = (system_column(run.scores, one, domain, metric.name) for one in (oracle, system))
    if any(uncounted_failures(run.scores, column, domain, metric) for column in (own, right)):
        return None
    known = best.scored & own.scored & right.scored
    if not known.any():
        return None
    weights = best.weights[known] if metric.aggregation == "mean" else np.ones(int(known.sum()))
    sent = _sent_to_baseline(run, system, domain)[known]
    mistake = (right.values - own.values)[known] * sign(metric)
    wrong_domain = _mean(np.where(sent, 0.0, mistake), weights)
    sent_to_baseline = _mean(np.where(sent, mistake, 0.0), weights)
    right_expert_worse = _mean((best.values - right.values)[known] * sign(metric), weights)
    return Regret(
        system=system.name,
        domain=domain,
        metric=metric.name,
        n=int(known.sum()),
        n_dropped=int((~known).sum()),
        oracle=_mean(best.values[known], weights),
        value=_mean(own.values[known], weights),
        regret=wrong_domain + sent_to_baseline + right_expert_worse,
        wrong_domain=wrong_domain,
        sent_to_baseline=sent_to_baseline,
        right_expert_worse=right_expert_worse,
    )


def _sent_to_baseline(run: RunMatrix, system: System, domain: str) -> BoolArray:
    num = len(run.scores.example_ids[domain])
    if isinstance(system, ExampleSystem):
        return system.sent_to_baseline.get(domain, np.zeros(num, dtype=np.bool_))
    return np.full(num, system.members == {run.baseline})


def _mean(values: FloatArray, weights: FloatArray) -> float:
    return math.fsum((values * weights).tolist()) / math.fsum(weights.tolist())
