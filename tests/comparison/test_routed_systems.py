"""Who answers each example: the router's choices, the cascade, and what they are measured by."""

from dataclasses import replace

import numpy as np
import pytest

from moe_ray.comparison.matrix import sign
from moe_ray.comparison.policies import (
    best_single_system,
    cascade_system,
    oracle_system,
    random_system,
    routed_examples,
    routed_system,
)
from moe_ray.comparison.records import Summary
from moe_ray.comparison.summary import summarise
from moe_ray.comparison.systems import BEST_SINGLE, ORACLE, System, standard_systems, system_column
from moe_ray.scoring.score import Metric
from moe_ray.store.routes import Routes
from tests.comparison.routed_run import (
    ABSENT,
    BASE,
    LOSS,
    SCORE,
    RoutedRun,
    Values,
    example_id,
    mean,
    random_routes,
    random_values,
)

DOMAINS = ["bio", "code", "law"]


def picks_of(system: System, domain: str, num: int) -> list[str | None]:
    found: list[str | None] = system.picks(domain, [example_id(at) for at in range(num)]).tolist()
    return found


def value_of(summary: Summary, system: str, domain: str) -> float:
    found = summary.value(system, domain, "accuracy")
    assert found is not None
    assert found.value is not None
    return found.value


def names_of(summary: Summary) -> list[str]:
    return [system.name for system in summary.systems]


@pytest.fixture(scope="module")
def full() -> RoutedRun:
    return RoutedRun(values=random_values(np.random.default_rng(0), DOMAINS, 40))


def test_the_routed_answer_is_that_of_the_chosen_domains_expert(full: RoutedRun) -> None:
    routes = random_routes(full, np.random.default_rng(1), threshold=0.0)
    matrix = full.matrix()
    system = routed_system(matrix, routed_examples(matrix, routes))
    chosen = [f"expert-{routes.domains[at]}" for at in routes.chosen]
    assert [model for domain in DOMAINS for model in picks_of(system, domain, 40)] == chosen


def test_the_cascade_turns_to_the_baseline_below_the_threshold_and_nowhere_else(full: RoutedRun) -> None:
    chosen = {domain: ["law"] * 4 for domain in DOMAINS}
    routes = full.routes(chosen, {domain: [0.3, 0.5, 0.4999, 0.9] for domain in DOMAINS}, threshold=0.5)
    matrix = full.matrix()
    system = cascade_system(matrix, routed_examples(matrix, routes), BASE, routes.threshold)
    assert picks_of(system, "bio", 4) == [BASE, "expert-law", BASE, "expert-law"]


def test_a_domain_without_an_expert_is_answered_by_the_baseline_and_without_one_by_nobody() -> None:
    values = {(domain, model): [1.0, 0.0] for domain in ("a", "b") for model in (BASE, "expert-a")}
    for baseline, expected in ((BASE, ["expert-a", BASE]), (None, ["expert-a", None])):
        run = RoutedRun(values=values, baseline=baseline, experts={"a": "expert-a"})
        matrix = run.matrix()
        asked = routed_examples(matrix, run.routes({"a": ["a", "b"], "b": ["a", "b"]}))
        assert picks_of(routed_system(matrix, asked), "a", 2) == expected
    summary = run.summary(run.routes({"a": ["a", "b"], "b": ["a", "b"]}))
    assert "cascade" not in names_of(summary)
    assert summary.routing is not None
    assert summary.routing.sweep is None
    value = summary.value("routed", "a", "accuracy")
    assert value is not None
    assert value.unscored_reasons == {"the system picks no model here": 1}


def test_an_example_that_the_router_was_not_asked_about_is_answered_by_nobody(full: RoutedRun) -> None:
    matrix = full.matrix()
    asked = routed_examples(matrix, full.routes({"bio": ["bio"], "law": []}))
    system = routed_system(matrix, asked)
    assert system.domains() == {"bio"}
    assert picks_of(system, "bio", 2) == ["expert-bio", None]
    assert np.isnan(asked["bio"].seconds[1:]).all()


def all_systems(run: RoutedRun, routes: Routes) -> list[System]:
    matrix = run.matrix()
    asked = routed_examples(matrix, routes)
    found = [
        *standard_systems(
            matrix.scores, domains=DOMAINS, models=matrix.models, baseline=BASE, experts=dict(matrix.experts)
        ),
        routed_system(matrix, asked),
        cascade_system(matrix, asked, BASE, routes.threshold),
        random_system(matrix),
        best_single_system(matrix),
    ]
    return [system for system in found if system is not None]


@pytest.mark.parametrize("metric", [SCORE, LOSS], ids=["higher", "lower"])
@pytest.mark.parametrize("seed", range(8))
def test_the_oracle_has_the_best_score_there_is_and_no_system_a_better_one(seed: int, metric: Metric) -> None:
    rng = np.random.default_rng(seed)
    run = RoutedRun(values=random_values(rng, DOMAINS, 50, num_unscored=25), metric=metric)
    matrix, systems = run.matrix(), all_systems(run, random_routes(run, rng))
    oracle = oracle_system(matrix)
    assert oracle is not None
    assert len(systems) == 9, "no best single model: too much is missing to rank them"
    best_of = max if metric.higher_is_better else min
    for domain in DOMAINS:
        best = system_column(matrix.scores, oracle, domain, metric.name).values
        for at in range(50):
            there = [v for (d, _), values in run.values.items() if d == domain and (v := values[at]) is not None]
            assert best[at] == best_of(there) if there else np.isnan(best[at])
        for system in systems:
            values = system_column(matrix.scores, system, domain, metric.name).values
            assert not (sign(metric) * values > sign(metric) * best).any()
            assert not np.isnan(best[~np.isnan(values)]).any()


def test_ties_go_to_the_domains_expert_then_to_the_baseline_then_to_the_first_model() -> None:
    scored: dict[str, list[float | None]] = {
        "aaa": [1.0, 1.0, 1.0, None, None],
        "expert-d": [1.0, 0.0, 0.0, 0.0, None],
        BASE: [1.0, 1.0, 0.0, 0.0, None],
        "zzz": [1.0, 1.0, 1.0, None, None],
    }
    matrix = RoutedRun(values={("d", model): values for model, values in scored.items()}).matrix()
    oracle = oracle_system(matrix)
    assert oracle is not None
    assert picks_of(oracle, "d", 5) == ["expert-d", BASE, "aaa", "expert-d", None]


def test_on_other_metrics_the_oracle_shows_the_answers_that_are_best_by_the_headline_metric() -> None:
    run = RoutedRun(values={("d", BASE): [1.0, 0.0], ("d", "expert-d"): [0.0, 1.0]})
    other = [replace(score, metric="words", value=10.0 * (1 - (score.value or 0.0))) for score in run.scores()]
    metrics = {"words": replace(SCORE, name="words"), SCORE.name: SCORE}
    summary = summarise(
        [*run.scores(), *other],
        metrics,
        run.manifest(),
        run.telemetry(),
        run.answers(),
        routes=run.all_to({"d": "d"}),
    )
    assert summary.domain_metrics["d"] == ["accuracy", "words"]
    words = summary.value(ORACLE, "d", "words")
    assert words is not None
    assert (value_of(summary, ORACLE, "d"), words.value) == (1.0, 0.0)


def test_a_model_that_answered_only_the_routers_mistakes_is_no_system_of_that_domain() -> None:
    values: dict[tuple[str, str], Values] = {
        ("a", BASE): [0.0, 1.0, 0.0],
        ("a", "expert-a"): [1.0, 1.0, None],
        ("a", "expert-b"): [ABSENT, 0.0, ABSENT],
        ("b", BASE): [0.0, 1.0],
        ("b", "expert-b"): [1.0, 1.0],
    }
    run = RoutedRun(values=values)
    summary = run.summary(run.routes({"a": ["a", "b", "a"], "b": ["b", "b"]}))
    picks = {system.name: system.picks for system in summary.systems}
    assert list(picks) == ["baseline", "experts", "routed", "cascade", "oracle", "expert-a", "expert-b", BASE]
    assert picks["expert-b"] == {"b": {"expert-b": 2}}
    assert picks["expert-a"] == {"a": {"expert-a": 3}}
    assert picks["routed"] == {"a": {"expert-a": 2, "expert-b": 1}, "b": {"expert-b": 2}}
    assert summary.routing is not None
    assert not summary.routing.oracle_is_whole


def test_without_a_router_the_matrix_of_baseline_and_experts_has_no_further_systems() -> None:
    values = {("a", BASE): [0.0], ("a", "expert-a"): [1.0], ("b", BASE): [0.0], ("b", "expert-b"): [1.0]}
    assert names_of(RoutedRun(values=values).summary()) == ["baseline", "experts", "expert-a", "expert-b", BASE]


def test_without_a_router_a_full_matrix_has_the_oracle_chance_and_the_best_single_model(full: RoutedRun) -> None:
    summary = full.summary()
    assert names_of(summary)[:5] == ["baseline", "experts", "oracle", "random", "best_single"]
    assert summary.routing is None


def test_what_a_router_is_measured_by_is_not_tested_and_moves_no_p_value(full: RoutedRun) -> None:
    routes = full.all_to({domain: domain for domain in DOMAINS})
    summary = full.summary(routes)
    assert {item.system_a for item in summary.comparisons} == {"experts", "routed", "cascade"}


def test_the_best_single_model_has_the_best_mean_over_the_domains(full: RoutedRun) -> None:
    means = {m: sum(mean(full.values[domain, m]) for domain in DOMAINS) for m in full.models}
    (system,) = [system for system in full.summary().systems if system.name == BEST_SINGLE]
    assert set(system.picks) == set(DOMAINS)
    assert all(picks == {max(means, key=means.__getitem__): 40} for picks in system.picks.values())


def test_of_losses_the_best_single_model_has_the_lowest(full: RoutedRun) -> None:
    means = {m: sum(mean(full.values[domain, m]) for domain in DOMAINS) for m in full.models}
    (system,) = [s for s in RoutedRun(values=full.values, metric=LOSS).summary().systems if s.name == BEST_SINGLE]
    assert all(picks == {min(means, key=means.__getitem__): 40} for picks in system.picks.values())


def test_a_model_without_a_value_on_some_domain_is_not_the_best_single_one() -> None:
    values: dict[tuple[str, str], Values] = {
        ("a", BASE): [0.0],
        ("b", BASE): [0.0],
        ("a", "m"): [1.0],
        ("b", "m"): [None],
    }
    assert best_single_system(RoutedRun(values=values, experts={}).matrix()) is None


def test_models_named_like_the_new_policies_keep_apart_from_them() -> None:
    values = {(domain, model): [1.0] for domain in ("a", "b") for model in (BASE, "oracle", "routed")}
    names = names_of(RoutedRun(values=values, experts={"a": "oracle", "b": "routed"}).summary())
    assert names[-3:] == [BASE, "model:oracle", "model:routed"]
    assert len(set(names)) == len(names)
