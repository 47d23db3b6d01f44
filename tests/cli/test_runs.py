"""Commands that read run directories: report in other forms, and comparisons of runs and of systems of one run."""

import csv
import io
import json
from pathlib import Path

import pytest

from moe_ray.cli.terminal import EXIT_USAGE
from moe_ray.comparison.records import Summary
from moe_ray.comparison.runs import RunComparison, SystemComparison
from moe_ray.report.verdict import headline
from moe_ray.scoring.score import write_scores
from moe_ray.store.run_directory import RunDirectory
from tests.support.commands import Command
from tests.support.synthetic_run import ALL_METRICS, synthetic_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """Four models on three domains, scored, without a report."""
    run, scores = synthetic_run(tmp_path_factory.mktemp("results") / "run", num_models=4, num_answers=240)
    write_scores(run.scores_path, scores, ALL_METRICS)
    return run


@pytest.fixture(scope="module")
def plain_run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """Two fine-tunes on one domain, without baseline and experts."""
    run, scores = synthetic_run(tmp_path_factory.mktemp("plain") / "run", num_models=2, num_answers=400)
    write_scores(run.scores_path, scores, ALL_METRICS)
    run.write_manifest(run.manifest().model_copy(update={"baseline": None, "experts": {}}))
    return run


def test_a_report_as_json_is_its_summary(moe_ray: Command, run: RunDirectory) -> None:
    code, shown = moe_ray("report", run.path, "--format", "json")
    assert code == 0
    assert Summary.model_validate_json(shown) == Summary.model_validate_json(run.summary_path.read_text())


def test_a_report_as_csv_has_every_value_and_difference_in_full(moe_ray: Command, run: RunDirectory) -> None:
    code, shown = moe_ray("report", run.path, "--format", "csv")
    assert code == 0
    rows = list(csv.DictReader(io.StringIO(shown)))
    summary = Summary.model_validate_json(run.summary_path.read_text())
    assert len(rows) == len(summary.values) + len(summary.comparisons)
    values = [float(row["value"]) for row in rows if row["kind"] == "value"]
    assert values == [value.value for value in summary.values]
    differences = [(row["system"], row["minus"], row["verdict"]) for row in rows if row["kind"] == "difference"]
    assert differences == [(item.system_a, item.system_b, item.verdict) for item in summary.comparisons]


def test_a_report_as_markdown_begins_with_the_verdict_and_has_whole_tables(moe_ray: Command, run: RunDirectory) -> None:
    code, shown = moe_ray("report", run.path, "--format", "markdown")
    assert code == 0
    lines = shown.splitlines()
    assert lines[2] == f"**{headline(Summary.model_validate_json(run.summary_path.read_text())).sentence}**"
    tables = [line.replace("\\|", "") for line in lines if line.startswith("|")]
    assert len(tables) > 30
    assert {line.count("|") for line in tables} <= {7, 8}
    brief = moe_ray("report", run.path, "--format", "markdown", "--brief")[1]
    assert brief.splitlines()[2] == lines[2]
    assert "|" not in brief


def test_a_brief_report_is_the_verdict_without_tables(moe_ray: Command, run: RunDirectory) -> None:
    code, shown = moe_ray("report", run.path, "--brief")
    assert code == 0
    assert "Resources" not in shown
    sentence = headline(Summary.model_validate_json(run.summary_path.read_text())).sentence
    assert sentence.split()[0] in shown
    assert "p =" in shown.replace("\N{NO-BREAK SPACE}", " ")


def test_a_format_that_does_not_exist_is_refused_with_those_that_do(moe_ray: Command, run: RunDirectory) -> None:
    code, shown = moe_ray("report", run.path, "--format", "xml")
    assert code == EXIT_USAGE
    assert "tables, markdown, csv, json" in shown


def test_two_models_of_a_run_without_baseline_are_compared_by_its_report(
    moe_ray: Command, plain_run: RunDirectory
) -> None:
    code, shown = moe_ray("report", plain_run.path, "--format", "markdown", "--brief")
    assert code == 0
    assert "does not compare" not in shown
    assert shown.splitlines()[2].startswith("**biomed-expert beats general-7b in the one domain tested, by accuracy")


def test_any_two_systems_of_a_run_are_compared_by_name(moe_ray: Command, run: RunDirectory) -> None:
    code, shown = moe_ray("compare", run.path, "--systems", "legal-expert", "code-expert", "--json")
    assert code == 0
    found = SystemComparison.model_validate_json(shown)
    assert {item.domain for item in found.comparisons} == {"biomedical", "legal", "code"}
    code, shown = moe_ray("compare", run.path, "--systems", "experts", "code-expert")
    assert code == 0
    assert "would have shown a difference of" in shown.replace("\n", " ")
    verdict = shown.rstrip().splitlines()[-1]
    assert verdict.strip()


def test_runs_are_compared_as_json(moe_ray: Command, run: RunDirectory) -> None:
    code, shown = moe_ray("compare", run.path, run.path, "--json")
    assert code == 0
    found = RunComparison.model_validate_json(shown)
    assert json.loads(shown)["changes"] == []
    assert {pair.change.difference for pair in found.pairs if pair.change} == {0.0}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "compare needs two runs, or one run and --systems"),
        (("--systems", "experts", "nobody"), "no system 'nobody' in this run"),
        (("--systems", "experts", "experts"), "experts and experts are the same system"),
    ],
)
def test_a_comparison_that_cannot_be_made_is_refused_in_words(
    moe_ray: Command, run: RunDirectory, arguments: tuple[str, ...], words: str
) -> None:
    code, shown = moe_ray("compare", run.path, *arguments)
    assert code == EXIT_USAGE
    assert words in shown
    assert "Traceback" not in shown


def test_a_description_is_shown_on_screen_and_page(moe_ray: Command, tmp_path: Path) -> None:
    run, scores = synthetic_run(tmp_path / "run", num_models=2, num_answers=20)
    write_scores(run.scores_path, scores, ALL_METRICS)
    run.write_manifest(run.manifest().model_copy(update={"description": "Does <b>fine-tuning</b> help?"}))
    assert "Does <b>fine-tuning</b> help?" in moe_ray("report", run.path)[1]
    assert "Does &lt;b&gt;fine-tuning&lt;/b&gt; help?" in run.report_path.read_text()


def test_text_of_others_cannot_break_out_of_a_markdown_cell(moe_ray: Command, tmp_path: Path) -> None:
    run, scores = synthetic_run(tmp_path / "run", num_models=2, num_answers=20)
    write_scores(run.scores_path, scores, ALL_METRICS)
    run.write_manifest(run.manifest().model_copy(update={"description": "a | b\n# c <script> [x](y)"}))
    shown = moe_ray("report", run.path, "--format", "markdown")[1]
    assert "a \\| b \\# c \\<script\\> \\[x\\](y)" in shown
