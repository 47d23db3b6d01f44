"""From a run directory to its summary and report; and the tables of the terminal."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console, RenderableType

from moe_ray.comparison.records import AnsweredDifference, CutAnswers, MetricValue, Summary
from moe_ray.comparison.runs import compare_runs
from moe_ray.errors import RunDirectoryError
from moe_ray.report.cautions import cautions
from moe_ray.report.tables import run_comparison_tables, summary_tables
from moe_ray.report.verdict import headline
from moe_ray.report.views import series_of, system_rows
from moe_ray.report.write import report_of, scored_run, write_report
from moe_ray.scoring.score import Score, write_scores
from moe_ray.store.run_directory import RunDirectory
from tests.report.conftest import Reported
from tests.support.synthetic_run import ALL_METRICS, synthetic_run


def printed(renderable: RenderableType, width: int) -> str:
    stream = io.StringIO()
    Console(width=width, file=stream).print(renderable)
    return stream.getvalue()


def with_comparison(summary: Summary, **changes: object) -> Summary:
    comparisons = [item.model_copy(update=changes) for item in summary.comparisons]
    return summary.model_copy(update={"comparisons": comparisons})


def test_the_summary_on_disk_is_the_one_that_was_returned(reported: Reported) -> None:
    text = reported.run.summary_path.read_text(encoding="utf-8")
    assert Summary.model_validate_json(text) == reported.summary


def test_a_directory_without_a_run_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="manifest"):
        write_report(RunDirectory(tmp_path))


def test_a_run_without_scores_says_so(tmp_path: Path) -> None:
    run, _ = synthetic_run(tmp_path / "run", num_models=2, num_answers=4)
    with pytest.raises(RunDirectoryError, match="scores"):
        write_report(run)


@pytest.mark.parametrize("num_answers", [2, 10])
def test_a_tiny_run_has_a_report(tmp_path: Path, num_answers: int) -> None:
    run, scores = synthetic_run(tmp_path / "run", num_models=2, num_answers=num_answers)
    report_of(run, scores, ALL_METRICS)
    assert "</html>" in run.report_path.read_text(encoding="utf-8")


def test_a_run_in_which_nothing_could_be_scored_has_a_report(tmp_path: Path) -> None:
    run, _ = synthetic_run(tmp_path / "run", num_models=2, num_answers=4)
    write_scores(run.scores_path, [], ALL_METRICS)
    assert write_report(run).values == []


@pytest.mark.parametrize("width", [80, 120])
def test_tables_keep_to_the_width_and_cut_no_number(reported: Reported, width: int) -> None:
    text = printed(summary_tables(reported.summary), width)
    assert max(len(line) for line in text.splitlines()) <= width
    assert "…" not in text
    value = reported.summary.value("experts", "code", "pass@1")
    assert value is not None
    assert f"{value.value:.3f}" in text
    assert f"[{value.low:.3f},\N{NO-BREAK SPACE}{value.high:.3f}]" in text


def test_a_run_comparison_prints_values_and_changes(reported: Reported) -> None:
    found = compare_runs(scored_run(reported.run), scored_run(reported.run))
    text = printed(run_comparison_tables(found), 80)
    assert "+0.000" in text
    assert max(len(line) for line in text.splitlines()) <= 80


@pytest.mark.parametrize(
    ("verdict", "sentence"),
    [
        ("a_better", "The experts beat the baseline in all 3 domains, by accuracy, ROUGE-L and pass@1."),
        ("b_better", "The baseline beats the experts in all 3 domains, by accuracy, ROUGE-L and pass@1."),
        (
            "no_difference_shown",
            "No difference between the experts and the baseline was shown in any of the 3 domains, "
            "by accuracy, ROUGE-L and pass@1.",
        ),
        ("not_tested", "This run does not compare the experts with the baseline."),
    ],
)
def test_the_headline_says_what_the_verdicts_say(reported: Reported, verdict: str, sentence: str) -> None:
    assert headline(with_comparison(reported.summary, verdict=verdict)).sentence == sentence


def test_a_mixed_result_is_told_as_one(reported: Reported) -> None:
    comparisons = [
        item.model_copy(
            update={"verdict": {"legal": "b_better", "code": "no_difference_shown"}.get(item.domain, "a_better")}
        )
        for item in reported.summary.comparisons
    ]
    found = headline(reported.summary.model_copy(update={"comparisons": comparisons}))
    assert found.sentence == (
        "The experts beat the baseline in biomedical (accuracy); the baseline beats the experts in legal (ROUGE-L); "
        "no difference was shown in code (pass@1)."
    )
    assert [verdict.winner for verdict in found.domains] == ["experts", "baseline", None]


@pytest.mark.parametrize("winner", ["experts", "baseline"])
def test_sentence_difference_and_interval_are_winner_minus_loser(reported: Reported, winner: str) -> None:
    numbers: dict[str, object] = {
        "value_a": 0.9,
        "value_b": 0.6,
        "difference": 0.3,
        "low": 0.1,
        "high": 0.5,
        "verdict": "a_better",
    }
    if winner == "baseline":
        numbers = {"value_a": 0.6, "value_b": 0.9, "difference": -0.3, "low": -0.5, "high": -0.1, "verdict": "b_better"}
    numbers["answered"] = None
    found = headline(with_comparison(reported.summary, **numbers)).domains[0]
    verb = "beat" if winner == "experts" else "beats"
    loser = "baseline" if winner == "experts" else "experts"
    assert found.sentence == f"The {winner} {verb} the {loser}: accuracy 0.900 against 0.600."
    assert found.figures.replace("\N{NO-BREAK SPACE}", " ").startswith("95 % interval [0.100, 0.500], ")
    assert found.effect is not None
    assert (found.effect.system, found.effect.other, found.effect.difference) == (winner, loser, "+0.300")
    assert found.effect.start is not None
    assert 50 < found.effect.start < found.effect.at


def test_the_failures_of_a_winner_come_first(reported: Reported) -> None:
    answered = AnsweredDifference(value_a=0.7, value_b=0.95, difference=-0.25, low=-0.4, high=-0.1, n_pairs=8)
    summary = with_comparison(reported.summary, verdict="b_better", n_failed_a=2, n_failed_b=1, answered=answered)
    found = headline(summary).domains[0].failures
    assert found.startswith("Failed: the baseline on 1 example of ")
    assert " and the experts on 2 examples of " in found
    assert "Where both answered: accuracy 0.950 against 0.700, n = 8." in found


def with_verdicts(summary: Summary, domain: str, **verdicts: str) -> Summary:
    """`summary` with other verdicts on the metrics of `domain`, the first of them equal on every example."""
    first = summary.domain_metrics[domain][0]
    equal = {"difference": 0.0, "low": None, "high": None, "p_adjusted": 1.0, "verdict": "no_difference_shown"}
    comparisons = [
        item.model_copy(update=equal if item.metric == first else {"verdict": verdicts.get(item.metric, item.verdict)})
        for item in summary.comparisons
        if item.domain == domain
    ]
    return summary.model_copy(update={"comparisons": comparisons})


def test_a_headline_metric_that_shows_nothing_does_not_hide_the_others(reported: Reported) -> None:
    summary = with_verdicts(reported.summary, "code", exact_match="b_better", bits_per_byte="a_better")
    code = next(verdict for verdict in headline(summary).domains if verdict.domain == "code")
    assert code.winner is None
    assert code.others == ("Yet the baseline is better by exact match, and the experts are better by bits per byte.")
    assert code.others in printed(summary_tables(summary), 120)


def test_where_no_example_differs_the_figures_say_so_and_give_no_interval(reported: Reported) -> None:
    code = next(v for v in headline(with_verdicts(reported.summary, "code")).domains if v.domain == "code")
    figures = code.figures.replace("\N{NO-BREAK SPACE}", " ")
    assert figures == "no example differs, p = 1.000, n = 19 pairs"


def test_models_that_a_policy_already_shows_are_not_listed_again(reported: Reported) -> None:
    rows = system_rows(reported.summary, "legal")
    labels = [row.label for row in rows]
    assert labels[:2] == ["baseline (general-7b)", "experts (legal-expert)"]
    assert "code-expert" in labels
    covered = [row.model for row in rows if row.is_policy and row.model and not row.bound]
    assert {"general-7b", "legal-expert"} <= set(covered)
    assert not set(covered) & set(labels)


def test_a_name_keeps_its_colour_and_no_two_share_one_but_the_baseline_and_its_model(reported: Reported) -> None:
    series = series_of(reported.summary)
    summary = reported.summary
    shown = {row.system: row.series for domain in summary.domain_metrics for row in system_rows(summary, domain)}
    assert shown.items() <= series.items()
    assert set(reported.summary.models) <= set(series)
    assert series["general-7b"] == series["baseline"]
    others = [place for name, place in series.items() if name != "general-7b"]
    assert len(set(others)) == len(others)


def test_cautions_put_synthetic_data_first_and_notes_last(reported: Reported) -> None:
    found = cautions(reported.summary)
    assert found[0].title == "Synthetic data"
    assert [caution.level for caution in found] == sorted((caution.level for caution in found), reverse=True)
    unscored = next(caution for caution in found if caution.title == "Unscored")
    assert "9 answers left out" in unscored.text
    assert "biomed-expert: biomedical 1, legal 1, code 1; legal-expert:" in unscored.text


def test_intervals_from_few_examples_are_warned_of_where_a_bootstrap_made_them(reported: Reported) -> None:
    def on_ten(value: MetricValue) -> MetricValue:
        return value.model_copy(update={"n": 10}) if value.domain == "legal" else value

    def few(summary: Summary) -> list[str]:
        return [caution.text for caution in cautions(summary) if caution.title == "Few examples"]

    def on(value: MetricValue, num: int) -> MetricValue:
        return value.model_copy(update={"n": num})

    many = reported.summary.model_copy(update={"values": [on(value, 30) for value in reported.summary.values]})
    assert few(many) == []
    (text,) = few(many.model_copy(update={"values": [on_ten(value) for value in many.values]}))
    assert text.endswith("(legal ROUGE-L, legal bits per byte).")


def test_reasons_that_differ_in_numbers_alone_are_one_caution(reported: Reported) -> None:
    def renumbered(value: MetricValue) -> MetricValue:
        number = sum(map(ord, value.domain))
        return value.model_copy(
            update={"unscored_reasons": {f"{number} tokens are too many": n for n in value.unscored_reasons.values()}}
        )

    summary = reported.summary.model_copy(update={"values": [renumbered(item) for item in reported.summary.values]})
    (unscored,) = [caution for caution in cautions(summary) if caution.title == "Unscored"]
    first = sum(map(ord, "biomedical"))
    assert unscored.text.startswith(f"{first} tokens are too many, and others that differ in numbers alone: 9 answers")


def test_a_note_names_the_models_and_domains_that_it_is_about_once(reported: Reported) -> None:
    domains = {name: {"notes": ["Held out."] if name != "code" else []} for name in reported.summary.run.domains}
    run = reported.summary.run.model_copy(update={"domains": domains, "notes": ["Held out.", "Of the run."]})
    notes = [item.line for item in cautions(reported.summary.model_copy(update={"run": run})) if item.level == "note"]
    assert notes == ["domain biomedical, domain legal: Held out.", "Of the run."]


def test_the_verdict_is_the_last_thing_on_the_screen(reported: Reported) -> None:
    lines = printed(summary_tables(reported.summary), 200).rstrip().splitlines()
    found = headline(reported.summary)
    at = lines.index(found.sentence)
    assert lines[at:][-len(found.domains) :] == lines[-len(found.domains) :]
    assert [line.split(":")[0] for line in lines[-len(found.domains) :]] == [item.domain for item in found.domains]
    assert not any("warning:" in line or "Resources" in line for line in lines[at:])


def test_a_failing_model_is_told_with_its_rate_and_the_answered_figure(tmp_path: Path) -> None:
    """The case as a whole: scores on disk, summary.json, tables and page."""
    run, scores = synthetic_run(tmp_path / "run", num_models=2, num_answers=1000)
    base, expert = "general-7b", "biomed-expert"
    ids = sorted({score.example_id for score in scores})
    easy = set(ids[:60])
    changed: list[Score] = []
    for score in scores:
        new = score
        if score.model == expert and score.metric != "bits_per_byte":
            failed = score.example_id not in easy
            label = None if failed else score.gold
            reason = "error: CUDA out of memory" if failed else None
            new = replace(score, value=None if failed else 1.0, label=label, reason=reason, failed=failed)
        elif score.model == base and score.metric != "bits_per_byte":
            right = score.example_id in easy or int(score.example_id[-3:]) % 10 < 7
            new = replace(score, value=float(right), label=score.gold if right else "unparsed", reason=None)
        changed.append(new)
    write_scores(run.scores_path, changed, ALL_METRICS)
    summary = write_report(run)
    verdict = headline(summary)
    assert verdict.sentence.startswith("The baseline beats the experts in the one domain tested, by accuracy")
    value = summary.value("experts", "biomedical", "accuracy")
    assert value is not None
    assert (value.n, value.n_failed, value.value) == (500, 440, 0.12)
    failures = verdict.domains[0].failures.replace("\N{NO-BREAK SPACE}", " ")
    assert failures.startswith("Failed: the experts on 440 examples of 500 (88.0 %), each counted as 0.")
    text, page = printed(summary_tables(summary), 120), run.report_path.read_text(encoding="utf-8")
    for shown in (text.replace("\N{NO-BREAK SPACE}", " "), page):
        assert "440" in shown
    assert "warning: Failed: error: CUDA out of memory: 440 answers failed, counted as the worst value" in text
    assert "answered alone: 1.000, n = 60" in page


def test_many_answers_that_the_token_limit_ended_are_warned_of_and_few_are_not(reported: Reported) -> None:
    def warned(num_cut: int) -> list[str]:
        cut = CutAnswers(model="general-7b", domain="code", num_answers=100, num_cut=num_cut)
        found = cautions(reported.summary.model_copy(update={"cut_answers": [cut]}))
        return [caution.text for caution in found if caution.title == "Cut answers"]

    assert warned(5) == []
    (text,) = warned(6)
    assert text.startswith("6 of 100 answers ended at max_new_tokens")
    assert "general-7b: code 6" in text
