"""The router in a run: accuracy, confidence, and the cost of its mistakes."""

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from pydantic import ValidationError

from moe_ray.arrays import BoolArray, FloatArray, IntArray
from moe_ray.comparison.costs import CellCosts
from moe_ray.comparison.matrix import RunMatrix, sign, uncounted_failures
from moe_ray.comparison.policies import RoutedExamples
from moe_ray.comparison.routing_records import Regret, RoutingAccuracy, RoutingSummary, Sweep
from moe_ray.comparison.sweep import threshold_sweep
from moe_ray.comparison.systems import BASELINE, ORACLE, ROUTED, ExampleSystem, System, system_column
from moe_ray.errors import RunDirectoryError, first_line
from moe_ray.gating.calibration import calibration
from moe_ray.proportions import wilson_bounds
from moe_ray.routing.files import RouterTestResults
from moe_ray.store.records import Manifest
from moe_ray.store.routes import Routes


def regrets(run: RunMatrix, systems: Sequence[System], oracle: System) -> list[Regret]:
    """The regret of each policy but the oracle, on every domain that it answers and that someone is to answer.

    On each example, the oracle's score less the system's is the oracle's less the right expert's (the domain's own; the
    baseline where it has none) and the right expert's less the system's. The latter is due to the baseline where a
    threshold sent the example there, or where a system of one model is the baseline; else to the wrong domain. Where
    failures of either cannot be counted, there is no regret.
    """
    return list(_each_regret(run, systems, oracle))


def _each_regret(run: RunMatrix, systems: Sequence[System], oracle: System) -> Iterator[Regret]:
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


def routing_summary(
    manifest: Manifest,
    run: RunMatrix,
    systems: Sequence[System],
    routes: Routes,
    asked: Mapping[str, RoutedExamples],
    cells: CellCosts,
) -> RoutingSummary:
    """What `routes` are worth; `asked` are they in the order of the matrix, `systems` all that the summary names.

    Every domain of the run is one of the router's.
    """
    about = dict(manifest.router or {})
    tested = about.pop("test_results", None)
    gold = _places(routes)
    by_name = {system.name: system for system in systems}
    return RoutingSummary(
        router=about,
        domains=list(routes.domains),
        threshold=routes.threshold,
        accuracy=_accuracies(routes, gold),
        confusion=_confusion(routes, gold),
        calibration=calibration(routes.probabilities, gold),
        test_results=None if tested is None else _test_results(tested),
        route_s=math.fsum(routes.seconds.tolist()) / len(routes.seconds),
        oracle_is_whole=run.is_whole,
        regret=_regrets(run, by_name),
        sweep=_sweep(run, by_name, routes, asked, cells),
    )


def _test_results(tested: object) -> RouterTestResults:
    try:
        return RouterTestResults.model_validate(tested)
    except ValidationError as error:
        raise RunDirectoryError(
            f"the router's test results are damaged: {first_line(error)}",
            where="manifest.json: router.test_results",
            remedy="restore the manifest, or run moe-ray evaluate again to test the router again",
        ) from error


def _places(routes: Routes) -> IntArray:
    """The place of each example's own domain among the router's [n]."""
    places = {domain: at for at, domain in enumerate(routes.domains)}
    return np.array([places[domain] for domain in routes.example_domains], dtype=np.intp)


def _accuracies(routes: Routes, gold: IntArray) -> list[RoutingAccuracy]:
    """Overall first, then the domains that have examples."""
    is_right, is_out_of_domain = routes.chosen == gold, routes.is_out_of_domain
    parts = {None: np.ones(len(gold), dtype=np.bool_)} | {
        domain: where for at, domain in enumerate(routes.domains) if (where := gold == at).any()
    }
    found = []
    for domain, where in parts.items():
        num, num_right = int(where.sum()), int(is_right[where].sum())
        low, high = wilson_bounds(num_right, num)
        found.append(
            RoutingAccuracy(
                domain=domain,
                n=num,
                num_right=num_right,
                accuracy=num_right / num,
                low=low,
                high=high,
                num_out_of_domain=int(is_out_of_domain[where].sum()),
            )
        )
    return found


def _confusion(routes: Routes, gold: IntArray) -> list[list[int]]:
    counts = np.zeros((len(routes.domains), len(routes.domains)), dtype=np.intp)
    np.add.at(counts, (gold, routes.chosen), 1)
    found: list[list[int]] = counts.tolist()
    return found


def _regrets(run: RunMatrix, by_name: Mapping[str, System]) -> list[Regret]:
    oracle = by_name.get(ORACLE)
    return [] if oracle is None else regrets(run, list(by_name.values()), oracle)


def _sweep(
    run: RunMatrix,
    by_name: Mapping[str, System],
    routes: Routes,
    asked: Mapping[str, RoutedExamples],
    cells: CellCosts,
) -> Sweep | None:
    routed, baseline = by_name.get(ROUTED), by_name.get(BASELINE)
    if routed is None or baseline is None:
        return None
    return threshold_sweep(run, routed, baseline, asked, cells, routes.threshold)
