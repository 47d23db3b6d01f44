"""Small parts of a routing summary, for the tests of what the report says of it."""

from typing import Any

from moe_ray.comparison.records import Summary
from moe_ray.comparison.routing_records import Regret, RoutingAccuracy, RoutingSummary, Sweep, SweepPoint
from moe_ray.proportions import wilson_bounds
from moe_ray.store.routes import Routes
from tests.report.conftest import Reported

DOMAINS = ["biomedical", "legal", "code"]


def routes_of(reported: Reported) -> Routes:
    routes = reported.run.routes()
    assert routes is not None
    return routes


def routing_of(summary: Summary) -> RoutingSummary:
    assert summary.routing is not None
    return summary.routing


def changed(summary: Summary, **fields: Any) -> Summary:
    """`summary` with other fields of its routing."""
    return summary.model_copy(update={"routing": routing_of(summary).model_copy(update=fields)})


def accuracies(right: dict[str, int], n: int, *, out_of_domain: int = 0) -> list[RoutingAccuracy]:
    """The accuracy on each domain's n examples, and on all of them."""

    def one(domain: str | None, num_right: int, num: int) -> RoutingAccuracy:
        low, high = wilson_bounds(num_right, num)
        share = num_right / num
        return RoutingAccuracy(
            domain=domain,
            n=num,
            num_right=num_right,
            accuracy=share,
            low=low,
            high=high,
            num_out_of_domain=out_of_domain,
        )

    return [one(name, num, n) for name, num in right.items()] + [one(None, sum(right.values()), n * len(right))]


def regret(domain: str, *, wrong_domain: float, sent: float = 0.0, worse: float = 0.1) -> Regret:
    return Regret(
        system="routed",
        domain=domain,
        metric=f"metric_of_{domain}",
        n=50,
        n_dropped=0,
        oracle=0.9,
        value=0.9 - wrong_domain - sent - worse,
        regret=wrong_domain + sent + worse,
        wrong_domain=wrong_domain,
        sent_to_baseline=sent,
        right_expert_worse=worse,
    )


def sweep_of(*thresholds: float, strong: str | None = "routed") -> Sweep:
    points = [
        SweepPoint(
            threshold=threshold,
            baseline_share=at / (len(thresholds) - 1),
            strong_share=1 - at / (len(thresholds) - 1),
            value=0.8 - 0.1 * at,
            recovered=None,
            busy_s=None,
            memory_byte_s=None,
        )
        for at, threshold in enumerate(thresholds)
    ]
    return Sweep.model_validate(
        {
            "strong": strong,
            "gap": 0.1,
            "gap_low": 0.05 if strong else -0.05,
            "gap_high": 0.15,
            "metrics": {"code": "pass@1"},
            "n": 50,
            "n_dropped": 0,
            "points": points,
            "apgr": 0.61,
            "cpt": {50: 0.25, 80: None},
        }
    )
