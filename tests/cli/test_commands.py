"""The commands as a person gives them, one after the other, on one real Ray."""

import json
from pathlib import Path

import pytest

from moe_ray.cli.demo import run_demo
from moe_ray.cli.terminal import EXIT_USAGE
from moe_ray.config.load import load_experiment
from moe_ray.domains.loading import load_domain
from moe_ray.store.run_directory import RunDirectory
from tests.support.commands import Command

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


def test_init_writes_an_experiment_that_loads_and_is_never_written_over(moe_ray: Command, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    assert moe_ray("init", file)[0] == 0
    assert load_experiment(file).config.models
    before = file.read_text()
    assert moe_ray("init", file)[0] == EXIT_USAGE
    assert file.read_text() == before


def test_a_plan_counts_what_an_only_option_leaves(moe_ray: Command) -> None:
    file = EXPERIMENTS / "custom-domain.yaml"
    assert "48 answers in" in moe_ray("plan", file)[1]
    assert "24 answers in" in moe_ray("plan", file, "--only", "baseline")[1]
    assert "24 answers in" in moe_ray("plan", file, "--only", "tickets")[1]
    assert "12 answers in" in moe_ray("plan", file, "--only", "baseline", "--max-examples", "6")[1]
    assert "on simulated 2x80GiB: 2 wave(s)" in moe_ray("plan", file, "--simulate", "2x80GiB")[1]


def test_a_plan_tells_what_of_the_data_gives_no_example(moe_ray: Command, tmp_path: Path) -> None:
    file = tmp_path / "plan.yaml"
    file.write_text(
        "name: p\nmodels: {m: {path: ./none, engine: scripted}}\nbaseline: m\ndomains:\n  field:\n    task: free_text\n"
        "    data: {source: ./d.csv, ids_file: ./ids.txt}\n    expert: m\n"
    )
    (tmp_path / "d.csv").write_text("id;question;reference\n1;Q?;R\n2;Q?;\n")
    (tmp_path / "ids.txt").write_text("1\n3\n4\n")
    code, shown = moe_ray("plan", file)
    assert code == 0, shown
    assert "note: field: 2 of the 3 ids in ids.txt give no example" in shown
    assert "note: field: 1 record left out: the reference is empty" in shown


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_a_run_is_begun_in_parts_finished_scored_again_reported_and_compared(moe_ray: Command, tmp_path: Path) -> None:
    file, results = EXPERIMENTS / "custom-domain.yaml", tmp_path / "results"
    run = RunDirectory(results / "custom-domain")
    assert moe_ray("evaluate", file, "--results-dir", results, "--only", "baseline")[0] == 0
    assert run.answers_table().num_rows == 24
    code, shown = moe_ray("evaluate", file, "--results-dir", results)
    assert code == 0, shown
    assert "generalist: 24 of 24 answers are already there" in shown
    assert run.answers_table().num_rows == 48
    summary = json.loads(run.summary_path.read_text())
    first = run.scores_path.read_bytes()
    code, shown = moe_ray("evaluate", file, "--results-dir", results)
    assert code == 0
    assert "Grading" not in shown, "nothing changed, so nothing is graded again"
    assert moe_ray("score", run.path)[0] == 0
    assert run.scores_path.read_bytes() == first
    assert json.loads(run.summary_path.read_text())["values"] == summary["values"]
    code, shown = moe_ray("compare", run.path, run.path)
    assert code == 0, shown
    assert "accuracy" in shown


def test_prepared_data_give_the_same_examples(moe_ray: Command, tmp_path: Path) -> None:
    file = EXPERIMENTS / "custom-domain.yaml"
    code, shown = moe_ray("data", "prepare", file, "--out", tmp_path)
    assert code == 0, shown
    assert "BioASQ" in shown
    loaded = load_experiment(file)
    domain = loaded.config.domains["tickets"]
    again = domain.model_copy(update={"data": domain.data.model_copy(update={"source": f"{tmp_path}/tickets.jsonl"})})
    expected = load_domain("tickets", domain, loaded.base_dir).examples
    assert load_domain("tickets", again, tmp_path).examples == expected
    assert moe_ray("data", "prepare", file, "--out", tmp_path / "few", "--max-examples", 3)[0] == 0
    assert len((tmp_path / "few" / "tickets.jsonl").read_text().splitlines()) == 3


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_the_demo_trains_and_evaluates_a_tiny_world(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The whole of `make demo` on the smallest world: tasks train, replicas answer, the sandbox runs, all is told."""
    monkeypatch.setenv("MOE_RAY_CACHE", str(tmp_path / "cache"))
    run_demo(tmp_path / "results", size="tiny")
    run = RunDirectory(tmp_path / "results" / "microworld-tiny")
    summary = json.loads(run.summary_path.read_text())
    assert {value["domain"] for value in summary["values"]} == {"biomedical", "legal", "code"}
    assert all(value["n_unscored"] == 0 for value in summary["values"])
    assert run.manifest().sessions[-1].status == "complete"
    shown = capsys.readouterr().out
    assert "SYNTHETIC" in shown
    assert "SYNTHETIC" in run.report_path.read_text()
