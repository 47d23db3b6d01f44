"""`moe-ray slurm -- COMMAND`: the command in the script, what is refused, and what counts as progress."""

import json
import os
import shlex
from pathlib import Path

import pytest
import yaml

from moe_ray.clusters.job_commands import is_on_experiment
from moe_ray.clusters.slurm.agent import parse_options
from moe_ray.clusters.slurm.saved import saved_work
from tests.support.commands import Command

ABLATE = ["specialise", "ablate", "--out", "/x/study/ablation"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mixture").mkdir()
    (tmp_path / "texts.jsonl").write_text(json.dumps({"text": "a text", "label": "law"}) + "\n")
    return tmp_path


def command_in(script: str) -> list[str]:
    """The words that the shell passes to the agent, as the agent reads them."""
    lines = script.split("-m moe_ray.clusters.slurm.agent ", 1)[1].split(" &\n", 1)[0]
    return list(parse_options(shlex.split(lines.replace("\\\n", " "))).command)


def test_the_nodes_get_absolute_paths_and_the_users_words(moe_ray: Command, here: Path) -> None:
    line = "specialise ablate ./mixture --texts texts.jsonl --out results/study/ablation --experts 0,1 --chat"
    code, script = moe_ray("slurm", "--gpus-per-node", "1", "--dry-run", "--", *line.split())
    assert code == 0, script
    assert command_in(script) == [
        "specialise", "ablate", f"{here}/mixture", f"--texts={here}/texts.jsonl",
        f"--out={here}/results/study/ablation", "--experts=0,1", "--chat",
    ]  # fmt: skip
    assert f"run={here}/results/study\n" in script
    assert "#SBATCH --job-name=moe-ray-study" in script


def test_a_hub_id_stays_one(moe_ray: Command) -> None:
    line = "specialise trace some/mixture --texts texts.jsonl --out results/study/trace"
    script = moe_ray("slurm", "--dry-run", "--", *line.split())[1]
    assert command_in(script)[2] == "some/mixture"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("specialise trace ./none --texts texts.jsonl --out results/study/trace", "there is no"),
        ("moe pretrain none.yaml --out results/study/experts", "there is no"),
        ("moe merge a=none b=mixture --gate mixture --out results/study/merged", "there is no"),
    ],
)
def test_a_path_that_no_node_could_find_is_refused(moe_ray: Command, line: str, words: str) -> None:
    code, shown = moe_ray("slurm", "--dry-run", "--", *line.split())
    assert code == 2
    assert words in shown


def test_nodes_that_a_command_cannot_use_are_refused(moe_ray: Command, here: Path) -> None:
    line = "specialise trace some/mixture --texts texts.jsonl --out results/study/trace"
    code, shown = moe_ray("slurm", "--nodes", "2", "--dry-run", "--", *line.split())
    assert code == 2
    assert "computes on one node, and 2 are requested" in shown


def test_a_file_with_mistakes_is_refused_before_the_job_waits(moe_ray: Command, here: Path) -> None:
    texts = [{"source": "./texts.jsonl"}]
    given = {"base_model": "./mixture", "experts": {"a": texts, "b": texts}, "runtime": {"address": "node1:6379"}}
    (here / "experts.yaml").write_text(yaml.safe_dump(given))
    line = (
        "slurm",
        "--nodes",
        "2",
        "--dry-run",
        "--",
        "moe",
        "pretrain",
        "experts.yaml",
        "--out",
        "results/it/experts",
    )
    code, shown = moe_ray(*line)
    assert code == 2
    assert "names the cluster node1:6379, and the job starts its own" in shown
    (here / "experts.yaml").write_text(yaml.safe_dump({**given, "runtime": {}, "expert": 3}))
    code, shown = moe_ray(*line)
    assert code == 2
    assert "experts.yaml:" in shown
    (here / "experts.yaml").write_text(yaml.safe_dump({**given, "runtime": {}}))
    code, shown = moe_ray(*line)
    assert code == 0, shown


@pytest.mark.parametrize(
    ("line", "takes_it"),
    [
        ("evaluate x.yaml --brief", True),
        ("router train x.yaml", True),
        ("router data x.yaml", False),
        ("moe pretrain x.yaml --out a/b", False),
        ("score results/evaluate", False),
    ],
)
def test_only_commands_on_an_experiment_get_the_address_of_the_jobs_cluster_as_a_key(line: str, takes_it: bool) -> None:
    assert is_on_experiment(line.split()) == takes_it


def test_a_newer_file_is_progress_and_the_jobs_own_files_are_not(tmp_path: Path) -> None:
    run = tmp_path / "study"
    assert saved_work(run, ABLATE).amount == 0
    (run / "slurm" / "7.0").mkdir(parents=True)
    (run / "slurm" / "7.0" / "record.json").write_text("{}")
    (run / "submission.json").write_text("{}")
    assert saved_work(run, ABLATE) == (0, "no files")
    part = run / "ablation" / "parts" / "00000.parquet"
    part.parent.mkdir(parents=True)
    part.write_text("rows")
    os.utime(part, ns=(10**18, 10**18))
    assert saved_work(run, ABLATE) == (10**18, "files of 2001-09-09 01:46:40 UTC")
    os.utime(part, ns=(10**18, 10**18 + 1))
    assert saved_work(run, ABLATE).amount == 10**18 + 1
    assert saved_work(run, ["evaluate", "x.yaml"]) == (0, "0 answers")


def test_a_router_counts_when_it_is_trained_not_when_its_run_begins(tmp_path: Path) -> None:
    words = ["router", "train", "x.yaml"]
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "session.log").write_text("reading")
    assert saved_work(tmp_path, words).amount == 0
    (tmp_path / "routers" / "tfidf-1").mkdir(parents=True)
    (tmp_path / "routers" / "tfidf-1" / "router.json").write_text("{}")
    assert saved_work(tmp_path, words).amount > 0
