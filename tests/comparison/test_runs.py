"""Two runs side by side."""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from moe_ray.comparison.records import Summary
from moe_ray.comparison.runs import ABSENT, MAX_VALUE_CHARS, ScoredRun, compare_runs, compare_within, run_changes
from moe_ray.comparison.summary import analyse, summarise
from moe_ray.errors import UserError
from moe_ray.scoring.score import Score
from moe_ray.store.run_directory import RunDirectory
from tests.comparison.routed_run import BASE, RoutedRun, random_routes, random_values
from tests.support.synthetic_run import ALL_METRICS, synthetic_run


class Made(NamedTuple):
    run: RunDirectory
    scores: list[Score]

    def scored(self, scores: list[Score] | None = None) -> ScoredRun:
        """The run as it is compared, or with other scores."""
        used, manifest = self.scores if scores is None else scores, self.run.manifest()
        summary = summarise(used, ALL_METRICS, manifest, self.run.telemetry(), self.run.answers_table())
        return ScoredRun(summary, analyse(used, ALL_METRICS, manifest, None))

    def with_settings(self, **settings: object) -> Summary:
        """The summary of a run with other settings."""
        summary = self.scored().summary
        return summary.model_copy(update={"run": summary.run.model_copy(update=settings)})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    path: Path = tmp_path_factory.mktemp("runs") / "run"
    return Made(*synthetic_run(path, num_models=2, num_answers=120))


def test_a_run_against_itself_differs_in_nothing(made: Made) -> None:
    found = compare_runs(made.scored(), made.scored())
    assert found.changes == []
    assert {pair.change.difference for pair in found.pairs if pair.change} == {0.0}
    assert {pair.change.verdict for pair in found.pairs if pair.change} == {"no_difference_shown"}


def test_settings_that_differ_are_named_with_both_values(made: Made) -> None:
    identity = {"decoding": {"max_new_tokens": 64, "temperature": 0.0, "top_p": 0.9}}
    found = run_changes(made.scored().summary, made.with_settings(identity=identity))
    assert [(change.key, change.first, change.second) for change in found] == [
        ("identity.decoding.max_new_tokens", "256", "64"),
        ("identity.decoding.top_p", "(absent)", "0.9"),
    ]


def test_the_change_is_second_minus_first_on_the_examples_of_both(made: Made) -> None:
    better = [replace(score, value=1.0, reason=None) for score in made.scores if score.example_id > "biomedical-00010"]
    found = compare_runs(made.scored(), made.scored(better))
    pair = next(p for p in found.pairs if (p.first.system, p.first.metric) == ("general-7b", "accuracy"))
    assert pair.change is not None
    assert pair.change.difference is not None
    assert pair.change.difference > 0
    assert (pair.change.verdict, pair.change.n_pairs, pair.change.n_dropped) == ("a_better", 49, 0)
    shared = found.examples["biomedical"]
    assert (shared.shared, shared.only_first, shared.only_second) == (49, 11, 0)


def test_a_metric_that_was_redefined_is_shown_and_not_tested(made: Made) -> None:
    first = made.scored()
    metrics = dict(first.summary.metrics)
    metrics["accuracy"] = metrics["accuracy"].model_copy(update={"definition": "something else"})
    found = compare_runs(first, first._replace(summary=first.summary.model_copy(update={"metrics": metrics})))
    assert found.redefined_metrics == ["accuracy"]
    assert all((pair.change is None) == (pair.first.metric == "accuracy") for pair in found.pairs)


def test_what_only_one_run_has_is_listed(made: Made) -> None:
    first = made.scored()
    values = [value for value in first.summary.values if value.system != "experts"]
    found = compare_runs(first, first._replace(summary=first.summary.model_copy(update={"values": values})))
    assert found.only_second == []
    assert "experts / biomedical / accuracy" in found.only_first


def test_runs_of_other_numbers_of_examples_are_tested_on_those_of_both() -> None:
    rng = np.random.default_rng(0)
    values = random_values(rng, ["d"], 90)
    small = {place: drawn[:60] for place, drawn in values.items()}
    small["d", BASE] = [0.0] * 60
    found = compare_runs(RoutedRun(values=small).scored(), RoutedRun(values=values).scored())
    changes = {pair.first.system: pair.change for pair in found.pairs}
    baseline = changes["baseline"]
    assert baseline is not None
    assert (baseline.verdict, baseline.n_pairs, baseline.n_dropped) == ("a_better", 60, 0)
    assert baseline.value_a == pytest.approx(np.mean(np.array(values["d", BASE][:60], dtype=float)))
    shared = found.examples["d"]
    assert (shared.shared, shared.only_first, shared.only_second) == (60, 0, 30)


def test_two_runs_that_differ_only_in_the_router_are_tested() -> None:
    values = random_values(np.random.default_rng(1), ["a", "b"], 80)
    for domain in ("a", "b"):
        values[domain, f"expert-{domain}"] = [1.0] * 80
    run = RoutedRun(values=values)
    found = compare_runs(
        run.scored(random_routes(run, np.random.default_rng(2))), run.scored(run.all_to({"a": "a", "b": "b"}))
    )
    changes = {pair.first.system: pair.change for pair in found.pairs if pair.first.domain == "a"}
    routed, experts = changes["routed"], changes["experts"]
    assert routed is not None
    assert experts is not None
    assert (routed.verdict, routed.n_pairs) == ("a_better", 80)
    assert (experts.verdict, experts.difference) == ("no_difference_shown", 0.0)


def test_one_change_that_shows_in_many_places_is_one_line(made: Made) -> None:
    before = {"models": {"m": {"dtype": "float32"}}, "identity": {"models": {"m": {"dtype": "float32"}}}}
    after = {"models": {"m": {"dtype": "bfloat16"}}, "identity": {"models": {"m": {"dtype": "bfloat16"}}}}
    (found,) = run_changes(made.with_settings(**before), made.with_settings(**after))
    assert (found.key, found.first, found.second) == ("models.m.dtype", '"float32"', '"bfloat16"')
    assert found.also == ["identity.models.m.dtype"]


def test_many_files_that_differ_are_one_line_with_their_number(made: Made) -> None:
    files = {f"part-{at:03d}.safetensors": "0" * 64 for at in range(40)}
    others = dict.fromkeys(list(files)[:30], "1" * 64) | dict.fromkeys(list(files)[30:], "0" * 64)
    (found,) = run_changes(
        made.with_settings(models={"m": {"files_sha256": files}}),
        made.with_settings(models={"m": {"files_sha256": others}}),
    )
    assert (found.key, found.first) == ("models.m.files_sha256", "30 of 40 entries differ")
    assert found.second == "part-000.safetensors, part-001.safetensors, part-002.safetensors and 27 more"


def test_a_long_prompt_is_cut_to_where_it_differs_and_an_absent_model_to_its_size(made: Made) -> None:
    long = "x" * 5000
    prompts = [{"d": {"chat": {"messages": f"{long}{word}{long}"}}} for word in ("first", "second")]
    models = [{"m": {"path": "p", "dtype": "d"}}, {}]
    found = run_changes(*(made.with_settings(prompts=p, models=m) for p, m in zip(prompts, models, strict=True)))
    shown = {change.key: (change.first, change.second) for change in found}
    assert shown["models.m"] == ("2 entries", ABSENT)
    first, second = shown["prompts.d.chat.messages"]
    assert "xfirstx" in first
    assert "xsecondx" in second
    assert max(len(first), len(second)) <= MAX_VALUE_CHARS + 2


def test_two_models_of_one_run_are_compared_on_the_same_examples() -> None:
    values = random_values(np.random.default_rng(3), ["a", "b"], 60)
    values["a", "expert-b"] = [0.0] * 60
    found = compare_within(RoutedRun(values=values, experts={}, baseline=None).scored(), "expert-a", "expert-b")
    assert [(item.domain, item.system_a, item.system_b) for item in found.comparisons] == [
        ("a", "expert-a", "expert-b"),
        ("b", "expert-a", "expert-b"),
    ]
    first = found.comparisons[0]
    assert first.verdict == "a_better"
    assert first.difference == pytest.approx(np.mean(np.array(values["a", "expert-a"], dtype=float)))
    assert found.headlines == {"a": "accuracy", "b": "accuracy"}


@pytest.mark.parametrize(
    ("names", "words"),
    [(("expert-a", "exprt-b"), "no system 'exprt-b' in this run"), (("general", "general"), "are the same system")],
)
def test_a_pair_that_cannot_be_compared_is_refused_with_what_can(names: tuple[str, str], words: str) -> None:
    run = RoutedRun(values=random_values(np.random.default_rng(3), ["a", "b"], 6)).scored()
    with pytest.raises(UserError, match=words):
        compare_within(run, *names)


def test_a_system_that_is_chosen_by_its_scores_is_shown_and_not_tested() -> None:
    run = RoutedRun(values=random_values(np.random.default_rng(3), ["a", "b"], 30))
    (first, _) = compare_within(run.scored(run.all_to({"a": "a", "b": "b"})), "oracle", "baseline").comparisons
    assert (first.verdict, first.p_value, first.p_adjusted) == ("not_concluded", None, None)
    assert first.not_concluded == "oracle is chosen by the very scores that a test would be about"
    assert first.difference is not None


def test_the_detectable_difference_is_shown_with_the_power_that_it_promises() -> None:
    """Differences drawn around it come out below p = 0.05 in about 80 % of the trials."""
    rng = np.random.default_rng(0)
    n, spread = 200, 0.5
    wanted, num_shown = [], 0
    shift = 2.8016 * spread / np.sqrt(n)
    for _ in range(60):
        gains = rng.normal(shift, spread, n)
        base = rng.random(n)
        values = {("d", BASE): base.tolist(), ("d", "expert-d"): (base + gains).tolist()}
        (item,) = RoutedRun(values=values).summary().comparisons
        wanted.append(item.detectable)
        num_shown += item.verdict == "a_better"
    assert np.mean(np.array(wanted, dtype=float)) == pytest.approx(shift, rel=0.05)
    assert 40 <= num_shown <= 56
