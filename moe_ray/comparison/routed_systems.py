"""The systems behind a router: its choices as they are, and with a threshold below which the baseline answers."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from moe_ray.comparison.columns import BoolArray, FloatArray, ObjectArray
from moe_ray.comparison.run_matrix import RunMatrix
from moe_ray.comparison.systems import CASCADE, ROUTED, ExampleSystem
from moe_ray.store.routes import Routes


class RoutedExamples(NamedTuple):
    """What the router said of the n examples of a domain, in the order of the matrix.

    `experts` [n] are the models that its choices stand for; None where it was not asked, or where the choice has
    neither expert nor baseline. `is_foreign` [n]: the query's score is below the threshold. `scores` and `seconds` [n]
    are NaN where it was not asked.
    """

    experts: ObjectArray
    is_foreign: BoolArray
    scores: FloatArray
    seconds: FloatArray


def routed_examples(run: RunMatrix, routes: Routes) -> dict[str, RoutedExamples]:
    """What the router said, for each domain of which it was asked anything."""
    experts = np.array([*map(run.expert_of, routes.domains), None], dtype=object)
    chosen, is_foreign = np.append(routes.chosen, -1), np.append(routes.is_foreign, False)
    scores, seconds = np.append(routes.scores, np.nan), np.append(routes.seconds, np.nan)
    found: dict[str, RoutedExamples] = {}
    for domain in run.headlines:
        rows = routes.rows(domain, run.scores.example_ids[domain])  # -1, not asked, finds what was appended
        if (rows >= 0).any():
            found[domain] = RoutedExamples(experts[chosen[rows]], is_foreign[rows], scores[rows], seconds[rows])
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
    """As `routed_system`, but the baseline answers what looks foreign."""
    return ExampleSystem(
        name=CASCADE,
        definition=f"as {ROUTED}, but {baseline} answers a query whose score is below {threshold:.4g}",
        members=_members(run) | {baseline},
        example_ids=run.scores.example_ids,
        chosen={domain: np.where(found.is_foreign, baseline, found.experts) for domain, found in asked.items()},
        router_s={domain: found.seconds for domain, found in asked.items()},
        sent_to_baseline={domain: found.is_foreign & (found.experts != baseline) for domain, found in asked.items()},
    )


def _members(run: RunMatrix) -> frozenset[str]:
    return frozenset(expert for domain in run.headlines if (expert := run.expert_of(domain)) is not None)
