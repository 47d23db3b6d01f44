"""The scores of a run as systems see them: arranged, their failures counted, and who answers what."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from moe_ray.comparison.columns import score_matrix
from moe_ray.comparison.failures import count_failures, countable_metrics
from moe_ray.comparison.reference_systems import best_single_system, oracle_system, random_system
from moe_ray.comparison.routed_systems import RoutedExamples, cascade_system, routed_examples, routed_system
from moe_ray.comparison.run_matrix import RunMatrix
from moe_ray.comparison.systems import System, standard_systems
from moe_ray.scoring.score import Metric
from moe_ray.scoring.table import Scores
from moe_ray.store.records import Manifest
from moe_ray.store.routes import Routes

HEADLINE_METRICS = ("pass@1", "accuracy", "final_number", "rouge_l")


class Analysis(NamedTuple):
    """The scores of a run as systems see them, their failures counted.

    `metrics` have the worst value that failures count as, `domain_metrics` each domain's in their order, `asked` what
    the router said, `systems` all that the run can show.
    """

    run: RunMatrix
    metrics: dict[str, Metric]
    domain_metrics: dict[str, list[str]]
    asked: dict[str, RoutedExamples]
    systems: tuple[System, ...]


def analyse(scores: Scores, metrics: Mapping[str, Metric], manifest: Manifest, routes: Routes | None) -> Analysis:
    """Arrange the scores of a run, count its failures, and find its systems."""
    raw = score_matrix(scores)
    metrics = countable_metrics([raw], metrics)
    found = {domain: _ordered(metrics, raw.metrics_of(domain)) for domain in manifest.domains}
    domain_metrics = {domain: names for domain, names in found.items() if names}
    run = RunMatrix(
        scores=count_failures(raw, metrics),
        headlines={domain: metrics[names[0]] for domain, names in domain_metrics.items()},
        models=list(manifest.models),
        baseline=manifest.baseline,
        experts=manifest.experts,
    )
    asked = {} if routes is None else routed_examples(run, routes)
    return Analysis(run, metrics, domain_metrics, asked, tuple(_standard(run, routes, asked)))


def _ordered(metrics: Iterable[str], present: frozenset[str]) -> list[str]:
    """The metrics of a domain in their order, the one that headlines speak of first."""
    names = [name for name in metrics if name in present]
    first = next((name for name in HEADLINE_METRICS if name in present), None)
    return sorted(names, key=lambda name: name != first)


def _standard(run: RunMatrix, routes: Routes | None, asked: Mapping[str, RoutedExamples]) -> list[System]:
    """The standard systems, those behind the router, what those are measured by, and the models alone."""
    found = standard_systems(
        run.scores, domains=list(run.headlines), models=run.models, baseline=run.baseline, experts=run.experts
    )
    behind: list[System | None] = []
    if routes is not None and asked:
        behind.append(routed_system(run, asked))
        behind.append(cascade_system(run, asked, run.baseline, routes.threshold) if run.baseline else None)
    if routes is not None or run.is_full:
        behind += [oracle_system(run), random_system(run), best_single_system(run)]
    policies = [system for system in found if system.kind == "policy"]
    alone = [system for system in found if system.kind == "model"]
    return [*policies, *(system for system in behind if system is not None), *alone]
