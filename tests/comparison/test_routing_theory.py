"""Routers whose figures are known beforehand: a perfect one, one that is always wrong, and one that guesses."""

import math
from fractions import Fraction

import numpy as np
import pytest

from moe_ray.comparison.policies import oracle_system, random_system
from moe_ray.comparison.records import Summary
from moe_ray.comparison.routing_records import Regret
from moe_ray.comparison.systems import system_column
from tests.comparison.routed_run import ABSENT, RoutedRun, Values, random_routes, random_values

DOMAINS = ["bio", "code", "law"]
NEXT = {"bio": "code", "code": "law", "law": "bio"}
STANDARD_ERRORS = 4.0


@pytest.fixture(scope="module")
def run() -> RoutedRun:
    return RoutedRun(values=random_values(np.random.default_rng(5), DOMAINS, 60))


def regret_of(summary: Summary, system: str, domain: str) -> Regret:
    assert summary.routing is not None
    return next(item for item in summary.routing.regret if (item.system, item.domain) == (system, domain))


def exact_mean(values: Values) -> Fraction:
    return sum((Fraction(value) for value in values if value is not None), Fraction(0)) / len(values)


def test_a_perfect_routers_answers_are_the_experts_and_its_choices_cost_nothing(run: RoutedRun) -> None:
    summary = run.summary(run.all_to({domain: domain for domain in DOMAINS}))
    assert summary.routing is not None
    assert [item.accuracy for item in summary.routing.accuracy] == [1.0] * 4
    for domain in DOMAINS:
        routed, experts = (summary.value(system, domain, "accuracy") for system in ("routed", "experts"))
        assert routed is not None
        assert experts is not None
        assert routed.model_dump(exclude={"system"}) == experts.model_dump(exclude={"system"})
        found, other = (regret_of(summary, system, domain) for system in ("routed", "experts"))
        assert (found.wrong_domain, found.sent_to_baseline) == (0.0, 0.0)
        assert found.model_dump(exclude={"system"}) == other.model_dump(exclude={"system"})
        assert found.regret == found.right_expert_worse >= 0.0


def test_a_router_that_is_always_wrong_is_never_right_and_loses_what_the_experts_differ_by(run: RoutedRun) -> None:
    summary = run.summary(run.all_to(NEXT))
    assert summary.routing is not None
    assert {item.num_right for item in summary.routing.accuracy} == {0}
    for domain in DOMAINS:
        lost = exact_mean(run.values[domain, f"expert-{domain}"]) - exact_mean(
            run.values[domain, f"expert-{NEXT[domain]}"]
        )
        found = regret_of(summary, "routed", domain)
        assert found.wrong_domain == pytest.approx(float(lost), abs=1e-15)
        assert found.sent_to_baseline == 0.0
        best = [max(v for m in run.models if (v := run.values[domain, m][at]) is not None) for at in range(60)]
        worse = exact_mean(best) - exact_mean(run.values[domain, f"expert-{domain}"])
        assert found.right_expert_worse == pytest.approx(float(worse), abs=1e-15)


def test_where_the_expert_is_the_worst_model_a_wrong_router_gains() -> None:
    values = {("a", "general"): [0.0], ("a", "expert-a"): [0.0], ("a", "expert-b"): [1.0]}
    run = RoutedRun(values=values | {("b", model): value for (_, model), value in values.items()})
    found = regret_of(run.summary(run.all_to({"a": "b", "b": "b"})), "routed", "a")
    assert (found.wrong_domain, found.right_expert_worse, found.regret) == (-1.0, 1.0, 0.0)


def test_a_guessing_router_is_right_once_in_as_many_times_as_there_are_domains(run: RoutedRun) -> None:
    num_seeds, share = 12, 1 / len(DOMAINS)
    total = num_seeds * 60 * len(DOMAINS)
    num_right = 0
    for seed in range(num_seeds):
        summary = run.summary(random_routes(run, np.random.default_rng(seed)))
        assert summary.routing is not None
        overall = summary.routing.accuracy[0]
        assert (overall.domain, overall.n) == (None, 60 * len(DOMAINS))
        num_right += overall.num_right
    assert abs(num_right - share * total) < STANDARD_ERRORS * math.sqrt(total * share * (1 - share))


def test_a_guessing_routers_quality_is_the_mean_of_all_experts(run: RoutedRun) -> None:
    """Its variance is known too: that of drawing one expert for each example, over n examples and all seeds."""
    num_seeds, domain = 12, "law"
    scores = np.array([run.values[domain, f"expert-{name}"] for name in DOMAINS], dtype=np.float64)
    error = math.sqrt(scores.var(axis=0).mean() / (60 * num_seeds))
    found = [
        value.value
        for seed in range(num_seeds)
        if (value := run.summary(random_routes(run, np.random.default_rng(seed))).value("routed", domain, "accuracy"))
    ]
    assert abs(np.mean([value for value in found if value is not None]) - scores.mean()) < STANDARD_ERRORS * error


def test_the_experts_drawn_by_chance_are_drawn_evenly_and_as_good_as_their_mean() -> None:
    num = 6000
    values = {(d, f"expert-{e}"): [float(d == e)] * num for d in DOMAINS for e in DOMAINS}
    matrix = RoutedRun(values=values, baseline=None).matrix()
    system = random_system(matrix)
    assert system is not None
    error = math.sqrt(num * (1 / 3) * (2 / 3))
    for domain in DOMAINS:
        right = system_column(matrix.scores, system, domain, "accuracy").values
        assert abs(right.sum() - num / 3) < STANDARD_ERRORS * error
    first, second = (system.chosen[domain] for domain in DOMAINS[:2])
    assert abs((first == second).sum() - num / 3) < STANDARD_ERRORS * error  # ids alike, draws independent


def test_the_draw_of_an_example_does_not_hang_on_the_others() -> None:
    values = {(d, f"expert-{e}"): [0.0] * 50 for d in "ab" for e in "ab"}
    fewer = {key: [ABSENT if at < 20 else 0.0 for at in range(50)] for key in values}
    systems = [random_system(RoutedRun(values=found, baseline=None).matrix()) for found in (values, fewer)]
    assert systems[0] is not None
    assert systems[1] is not None
    assert systems[0].chosen["a"][20:].tolist() == systems[1].chosen["a"].tolist()


def test_chance_alone_lifts_the_oracle_of_independent_models_as_the_statistics_page_says() -> None:
    num, num_models = 4000, 6
    drawn = np.random.default_rng(3).integers(0, 2, (num_models, num)).astype(float)
    values = {("d", f"m{at}"): drawn[at].tolist() for at in range(num_models)}
    matrix = RoutedRun(values=values, experts={}, baseline=None).matrix()
    oracle = oracle_system(matrix)
    assert oracle is not None
    share = 1 - 0.5**num_models
    found = system_column(matrix.scores, oracle, "d", "accuracy").values.mean()
    assert abs(found - share) < STANDARD_ERRORS * math.sqrt(share * (1 - share) / num)
