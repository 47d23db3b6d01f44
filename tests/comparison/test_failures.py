"""A model that fails must not win by it: failures count, and what failures or gaps leave supports no conclusion."""

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import f1_score

from moe_ray.comparison.columns import score_matrix
from moe_ray.comparison.matrix import count_failures, countable_metrics
from moe_ray.comparison.records import PairedComparison, Summary
from moe_ray.comparison.summary import analyse, summarise
from moe_ray.scoring.score import Metric, Score
from tests.comparison.columns import MACRO_F1, scores_of
from tests.comparison.routed_run import ABSENT, BASE, FAILED, RoutedRun, Values, labelled_run

RIGHT = Metric(name="accuracy", definition="right or wrong", binary=True)
BITS = Metric(name="accuracy", definition="bits", higher_is_better=False, worst=None)
EXPERT = "expert-d"


def compared(summary: Summary, system: str = "experts") -> PairedComparison:
    (found,) = [item for item in summary.comparisons if item.system_a == system]
    return found


@pytest.fixture(scope="module")
def failing() -> Summary:
    """The expert fails on 440 of 500 examples and is right on the easy 60 left; the baseline is right on 350 of 500."""
    base: Values = [1.0] * 40 + [0.0] * 20 + [1.0] * 310 + [0.0] * 130
    run = RoutedRun(
        values={("d", BASE): base, ("d", EXPERT): [1.0] * 60 + [FAILED] * 440, ("d", "third"): [0.0] * 499 + [1.0]},
        metric=RIGHT,
    )
    return run.summary(run.all_to({"d": "d"}))


def test_a_failing_expert_loses_though_it_is_right_wherever_it_answers(failing: Summary) -> None:
    found = compared(failing)
    assert (found.verdict, found.n_pairs, found.n_failed_a, found.n_failed_b) == ("b_better", 500, 440, 0)
    assert (found.value_a, found.value_b) == (60 / 500, 350 / 500)


def test_the_figure_over_answered_examples_stands_beside_the_counted_one(failing: Summary) -> None:
    value = failing.value("experts", "d", "accuracy")
    assert value is not None
    assert (value.value, value.n, value.n_unscored, value.n_failed) == (60 / 500, 500, 0, 440)
    assert value.failed_reasons == {"error: out of memory": 440}
    assert value.answered is not None
    assert (value.answered.value, value.answered.n) == (1.0, 60)
    answered = compared(failing).answered
    assert answered is not None
    assert (answered.value_a, answered.value_b, answered.n_pairs) == (1.0, 40 / 60, 60)


def test_a_failing_model_is_not_the_best_single_one_and_the_oracle_is_not_below_any(failing: Summary) -> None:
    best = next(system for system in failing.systems if system.name == "best_single")
    assert best.picks == {"d": {BASE: 500}}
    values = {item.system: item.value for item in failing.values}
    assert values["oracle"] == max(value for value in values.values() if value is not None)


def test_regret_and_sweep_count_failures(failing: Summary) -> None:
    assert failing.routing is not None
    regret = next(item for item in failing.routing.regret if item.system == "experts")
    assert (regret.n, regret.n_dropped, regret.value) == (500, 0, 60 / 500)
    assert failing.routing.sweep is not None
    assert (failing.routing.sweep.strong, failing.routing.sweep.n) == ("baseline", 500)


def test_without_failures_there_is_no_second_figure() -> None:
    run = RoutedRun(values={("d", BASE): [0.0] * 9, ("d", EXPERT): [1.0] * 9}, metric=RIGHT)
    summary = run.summary()
    assert [value.answered for value in summary.values] == [None] * 4
    assert compared(summary).answered is None


@pytest.mark.parametrize("seed", range(5))
def test_failing_more_often_never_raises_any_value_of_a_system(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values: dict[tuple[str, str], Values] = {
        ("d", model): rng.integers(0, 2, 40).astype(float).tolist() for model in (BASE, EXPERT, "third")
    }
    run = RoutedRun(values=values, metric=RIGHT)
    before = {item.system: item.value for item in run.summary(run.all_to({"d": "d"})).values}
    some = set(rng.integers(0, 40, 15).tolist())
    fewer = [FAILED if at in some else value for at, value in enumerate(values["d", EXPERT])]
    run = replace(run, values=values | {("d", EXPERT): fewer})
    for item in run.summary(run.all_to({"d": "d"})).values:
        assert (item.value or 0.0) <= (before[item.system] or 0.0)


def test_failures_of_a_metric_without_a_worst_value_conclude_nothing() -> None:
    """On the ten easy examples that it answers, the expert needs far fewer bits than the baseline does on all."""
    base: Values = [1.0] * 10 + [5.0] * 90
    values: dict[tuple[str, str], Values] = {
        ("d", BASE): base,
        ("d", EXPERT): [0.5] * 10 + [FAILED] * 90,
        ("d", "third"): [6.0] * 100,
    }
    run = RoutedRun(values=values, metric=BITS)
    summary = run.summary(run.all_to({"d": "d"}))
    found = compared(summary)
    assert (found.verdict, found.p_value, found.test) == ("not_concluded", None, None)
    assert found.not_concluded == (
        "accuracy has no worst value that a failure could count as, and experts failed on 90 of 100 examples, "
        "baseline on 0"
    )
    value = summary.value("experts", "d", "accuracy")
    assert value is not None
    assert (value.value, value.low, value.n_failed) == (None, None, 90)
    assert value.answered is not None
    assert value.answered.value == 0.5
    best = next(system for system in summary.systems if system.name == "best_single")
    assert best.picks == {"d": {BASE: 100}}
    assert f"{EXPERT} is left out: it failed on 90 of 100 examples of d" in best.definition
    assert summary.routing is not None
    assert [item.system for item in summary.routing.regret] == []
    assert summary.routing.sweep is not None
    assert (summary.routing.sweep.strong, summary.routing.sweep.apgr) == (None, None)


def test_failures_that_all_models_share_leave_a_fair_remainder() -> None:
    values: dict[tuple[str, str], Values] = {
        ("d", BASE): [*(2.0 + at / 100 for at in range(20)), FAILED],
        ("d", EXPERT): [*(1.0 + at / 90 for at in range(20)), FAILED],
    }
    summary = RoutedRun(values=values, metric=BITS).summary()
    assert compared(summary).verdict == "a_better"
    value = summary.value("experts", "d", "accuracy")
    assert value is not None
    assert (value.value is not None, value.n, value.n_failed) == (True, 20, 1)


@pytest.mark.parametrize(
    ("higher_is_better", "worst", "observed", "expected"),
    [
        (True, 0.0, [0.0, 0.7], 0.0),
        (True, 0.0, [-0.2, 0.7], None),
        (False, 0.0, [0.3], None),
        (False, 0.0, [0.0], None),
        (False, 1.0, [0.3, 1.0], 1.0),
        (False, 1.0, [1.2], None),
        (True, None, [0.3], None),
    ],
)
def test_a_worst_value_that_is_not_the_worst_counts_no_failure(
    higher_is_better: bool, worst: float | None, observed: list[float | None], expected: float | None
) -> None:
    """Or a lower-is-better metric that says nothing would give each failure the best value there is."""
    metric = Metric(name="m", definition="m", higher_is_better=higher_is_better, worst=worst)
    assert countable_metrics([score_matrix(scores_of(observed))], {"m": metric})["m"].worst == expected


def test_a_failed_answer_is_a_wrong_label_in_macro_f1_as_scikit_learn_counts_it() -> None:
    rng = np.random.default_rng(4)
    golds = rng.choice(["yes", "no", "failed"], 60).tolist()
    labels = rng.choice(["yes", "no", "failed"], 60).tolist()
    has_failed = rng.random(60) < 0.3
    scores = [
        replace(score, value=None, label=None, gold=None, failed=True, reason="error: x") if has_failed[at] else score
        for at, score in enumerate(scores_of([0.0] * 60, labels=labels, golds=golds))
    ]
    others = scores_of([1.0] * 60, labels=golds, golds=golds, model="other")
    metrics = {"m": MACRO_F1}
    manifest = RoutedRun(values={("d", "model"): [], ("d", "other"): []}, experts={}, baseline=None).manifest()
    value = summarise([*scores, *others], metrics, manifest, [], no_answers()).value("model", "d", "m")
    counted = [label if not failed else "(none)" for label, failed in zip(labels, has_failed.tolist(), strict=True)]
    expected = f1_score(golds, counted, labels=["failed", "no", "yes"], average="macro", zero_division=0)
    assert value is not None
    assert value.n == 60
    assert value.value == pytest.approx(expected, abs=1e-12)


def no_answers() -> pa.Table:
    return RoutedRun(values={("d", "model"): [1.0]}, experts={}, baseline=None).answers().slice(0, 0)


@pytest.mark.parametrize("seed", range(8))
def test_the_oracle_of_macro_f1_is_not_below_any_of_its_members(seed: int) -> None:
    rng = np.random.default_rng(seed)
    golds = {"d": rng.choice(["a", "b", "c"], 25, p=[0.6, 0.3, 0.1]).tolist()}
    models = (BASE, EXPERT, "third")
    run = labelled_run(golds, {("d", m): rng.choice(["a", "b", "c", "?"], 25).tolist() for m in models})
    summary = run.summary(run.all_to({"d": "d"}))
    values = {item.system: item.value or 0.0 for item in summary.values}
    assert values["oracle"] >= max(values[model] for model in models) - 1e-12


@pytest.mark.parametrize(("num_missing", "verdict"), [(5, "a_better"), (6, "not_concluded")])
def test_no_verdict_rests_on_what_an_unfinished_run_has_left(num_missing: int, verdict: str) -> None:
    values: dict[tuple[str, str], Values] = {
        ("d", BASE): [0.0] * 100,
        ("d", EXPERT): [1.0] * (100 - num_missing) + [None] * num_missing,
    }
    found = compared(RoutedRun(values=values, metric=RIGHT).summary())
    assert (found.verdict, found.n_pairs, found.n_dropped) == (verdict, 100 - num_missing, num_missing)


def test_examples_that_are_at_fault_for_every_system_are_not_missing() -> None:
    run = RoutedRun(values={("d", BASE): [0.0] * 10, ("d", EXPERT): [1.0] * 10}, metric=RIGHT)
    at_fault = [
        Score(model=model, domain="d", example_id=f"f{at}", metric="accuracy", value=None, reason="it has no tests")
        for model, at in itertools.product((BASE, EXPERT), range(5))
    ]
    summary = summarise([*run.scores(), *at_fault], {"accuracy": RIGHT}, run.manifest(), [], run.answers())
    assert compared(summary).verdict == "a_better"
    half = [score for score in at_fault if score.model == BASE]
    scored = [replace(score, model=EXPERT, value=1.0, reason=None) for score in half]
    summary = summarise([*run.scores(), *half, *scored], {"accuracy": RIGHT}, run.manifest(), [], run.answers())
    assert compared(summary).verdict == "not_concluded"


def test_a_model_that_was_given_up_is_not_the_best_single_one() -> None:
    values: dict[tuple[str, str], Values] = {
        ("d", BASE): [1.0, 0.0] * 50,
        ("d", EXPERT): [1.0] * 20 + [None] * 80,
        ("d", "third"): [0.0] * 100,
    }
    run = RoutedRun(values=values, metric=RIGHT)
    best = next(item for item in run.summary(run.all_to({"d": "d"})).systems if item.name == "best_single")
    assert best.picks == {"d": {BASE: 100}}
    assert f"{EXPERT} is left out: 80 of 100 examples of d have no score" in best.definition


def with_golds(values: Sequence[float], golds: Sequence[str], model: str) -> list[Score]:
    return [
        replace(score, metric="accuracy", gold=gold)
        for score, gold in zip(scores_of(values, model=model), golds, strict=True)
    ]


def test_scores_against_different_references_are_not_compared() -> None:
    rng = np.random.default_rng(2)
    run = RoutedRun(values={("d", BASE): [1.0] * 40, ("d", EXPERT): [1.0] * 40}, metric=BITS)
    same = [str(at) for at in range(40)]
    for num_other, verdict, num_pairs in ((40, "not_concluded", 0), (2, "a_better", 38)):
        other = [f" {gold}" if at < num_other else gold for at, gold in enumerate(same)]
        scores = [
            *with_golds((2 + rng.random(40)).tolist(), same, BASE),
            *with_golds(rng.random(40).tolist(), other, EXPERT),
        ]
        found = compared(summarise(scores, {"accuracy": BITS}, run.manifest(), [], run.answers()))
        assert (found.verdict, found.n_pairs) == (verdict, num_pairs)
        systems = analyse(scores, {"accuracy": BITS}, run.manifest(), run.all_to({"d": "d"})).systems
        assert not {"oracle", "best_single"} & {system.name for system in systems}


def test_a_failure_takes_weight_and_gold_from_the_others_scores() -> None:
    scores = [
        *scores_of([1.0, 1.0], weights=[3.0, 5.0], golds=["a", "b"]),
        replace(scores_of([None], model="other")[0], failed=True),
    ]
    matrix = count_failures(score_matrix(scores), {"m": Metric(name="m", definition="m")})
    column = next(column for key, column in matrix.columns.items() if key.model == "other")
    assert (column.weights[0], column.golds[0], column.values[0], column.labels[0]) == (3.0, "a", 0.0, None)


def test_a_model_that_was_not_asked_has_not_failed() -> None:
    values: dict[tuple[str, str], Values] = {("d", BASE): [1.0, 1.0], ("d", EXPERT): [FAILED, ABSENT]}
    matrix = RoutedRun(values=values).matrix()
    columns = {key.model: column for key, column in matrix.scores.columns.items()}
    assert columns[EXPERT].failed.tolist() == [True, False]
    assert np.isnan(columns[EXPERT].values).tolist() == [False, True]
