"""The records of summary.json's `routing`: accuracy, regret, and the cascade over all thresholds.

docs/summary-schema.md explains them; change both together.
"""

from typing import Any, Literal

from pydantic import AliasChoices, Field

from moe_ray.files import StoredRecord
from moe_ray.gating.calibration import Calibration
from moe_ray.routing.files import RouterTestResults


class RoutingAccuracy(StoredRecord):
    """The router on one domain's examples, or on all (domain None). Interval: 95 %, Wilson.

    `num_out_of_domain` of the n fell below the threshold; the accuracy is that of the most probable domain on all n.
    """

    domain: str | None
    n: int
    num_right: int
    accuracy: float
    low: float
    high: float
    num_out_of_domain: int = Field(validation_alias=AliasChoices("num_out_of_domain", "num_foreign"))


class Regret(StoredRecord):
    """What a system loses to the oracle on one domain's headline metric, over the n examples that all have scored.

    Means per example, weighted as the metric's are; a metric that counts labels has each example's being right here.
    Positive is a loss, whichever way the metric is better. `regret` is exactly the sum of its parts, added in their
    order: `wrong_domain` (another model than the domain's own expert answered), `sent_to_baseline` (the baseline did,
    because the query was classified as out-of-domain, or because the system is the baseline) and `right_expert_worse`
    (the domain's own expert was worse than the best answer). A part is negative where the mistake helped.
    """

    system: str
    domain: str
    metric: str
    n: int
    n_dropped: int
    oracle: float
    value: float
    regret: float
    wrong_domain: float
    sent_to_baseline: float
    right_expert_worse: float


class SweepPoint(StoredRecord):
    """The cascade at one threshold. `value`: mean of the domains' headline metrics.

    `baseline_share`: share of the examples below the threshold. `strong_share`: share that the strong end answers
    (the router's, where neither is). `recovered`: the performance gap recovered, PGR. `busy_s` and `memory_byte_s` are
    means per example, the router's own time included; None where not measured.
    """

    threshold: float
    baseline_share: float
    strong_share: float
    value: float
    recovered: float | None
    busy_s: float | None
    memory_byte_s: float | None


class Sweep(StoredRecord):
    """The cascade over all thresholds, from "the router always" to "the baseline always".

    `strong` is the end of the curve with the better value: "routed" or "baseline". It is None where `gap`, the value of
    the router's end minus the baseline's, has an interval that holds 0 or `not_concluded` says why the ends cannot be
    compared; then there are no `recovered`, `apgr` and `cpt`.

    `apgr`: mean of PGR over the share of strong calls. `cpt`: share of strong calls needed for a PGR of at least the
    key (in percent). Both are of all thresholds, `points` of about 200 of them. `metrics`: domain -> the metric that
    its value is of; `n` examples of these domains have scores at both ends.
    """

    strong: Literal["routed", "baseline"] | None
    gap: float
    gap_low: float | None
    gap_high: float | None
    not_concluded: str | None = None
    metrics: dict[str, str]
    n: int
    n_dropped: int
    points: list[SweepPoint]
    apgr: float | None
    cpt: dict[int, float | None]


class RoutingSummary(StoredRecord):
    """What the router did in this run, and what its mistakes cost.

    `confusion[i][j]`: examples of domain i for which domain j was most probable, in the order of `domains`.
    `oracle_is_whole`: every model has answered every example; otherwise the oracle picks among the answers there are.
    """

    router: dict[str, Any]
    domains: list[str]
    threshold: float
    accuracy: list[RoutingAccuracy]
    confusion: list[list[int]]
    calibration: Calibration
    test_results: RouterTestResults | None
    route_s: float
    oracle_is_whole: bool
    regret: list[Regret]
    sweep: Sweep | None
