"""What the router did in a run: how often it was right, how sure it was, and what its mistakes cost."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from pydantic import ValidationError

from moe_ray.comparison.columns import IntArray
from moe_ray.comparison.costs import CellCosts
from moe_ray.comparison.records import Regret, RoutingAccuracy, RoutingSummary, Sweep
from moe_ray.comparison.regret import regrets
from moe_ray.comparison.routed_systems import RoutedExamples
from moe_ray.comparison.run_matrix import RunMatrix
from moe_ray.comparison.sweep import threshold_sweep
from moe_ray.comparison.systems import BASELINE, ORACLE, ROUTED, System
from moe_ray.errors import RunDirectoryError, first_line
from moe_ray.proportions import wilson_bounds
from moe_ray.routing.calibration import calibration
from moe_ray.routing.results import RouterTestResults
from moe_ray.store.records import Manifest
from moe_ray.store.routes import Routes


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
    is_right, is_foreign = routes.chosen == gold, routes.is_foreign
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
                num_foreign=int(is_foreign[where].sum()),
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
