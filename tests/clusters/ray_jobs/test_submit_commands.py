"""`moe-ray submit -- COMMAND`: what is sent of its files, and how the job is started."""

import io
import json
import shlex
import zipfile
from pathlib import Path

import pytest
import yaml

from moe_ray.clusters.ray_jobs import driver
from moe_ray.clusters.submission import read_submission
from moe_ray.moe.btx.request import load_pretrain_config
from moe_ray.moe.btx.texts import read_expert_texts
from moe_ray.moe.merge.request import load_gate_config
from moe_ray.specialisation.texts import read_source_texts
from tests.cli.experiments import experiment, rows
from tests.support.commands import Command
from tests.support.fake_jobs import FakeJobs

TEXTS = [{"text": f"{word} {number}", "label": word} for word in ("law", "code") for number in range(12)]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with texts and a checkpoint's folder."""
    folder = tmp_path / "here"
    (folder / "mixture").mkdir(parents=True)
    (folder / "mixture" / "config.json").write_text("{}")
    (folder / "texts.jsonl").write_text("".join(json.dumps(one) + "\n" for one in TEXTS))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(folder)
    return folder


def submit(moe_ray: Command, jobs: FakeJobs, line: str, *options: object) -> tuple[int, str]:
    place = ("--address", jobs.url, "--results-dir", "/shared/results")
    return moe_ray("submit", *place, *options, "--", *shlex.split(line))


def unpacked(jobs: FakeJobs, folder: Path) -> Path:
    """The package as the job finds it."""
    content = next(iter(jobs.packages.values()))
    zipfile.ZipFile(io.BytesIO(content)).extractall(folder)
    return folder


def entry(jobs: FakeJobs) -> list[str]:
    """The command of the only job, as its shell splits it."""
    (job,) = jobs.jobs.values()
    words = shlex.split(job.body["entrypoint"])
    return words[words.index("--") + 1 :]


def test_the_model_and_the_texts_are_sent_and_named_by_their_places(
    moe_ray: Command, jobs: FakeJobs, here: Path
) -> None:
    line = "specialise ablate ./mixture --texts texts.jsonl --out results/study/ablation --draws 30 --chat"
    code, shown = submit(moe_ray, jobs, line)
    assert code == 0, shown
    assert {"mixture/config.json", "texts.jsonl", "moe_ray/entry.py"} <= set(jobs.files())
    assert entry(jobs) == [
        "specialise", "ablate", "./mixture", "--texts=./texts.jsonl", "--out", "@run/ablation", "--draws=30", "--chat",
    ]  # fmt: skip
    submission = read_submission(Path("results/study"))
    assert submission.details["results"] == "/shared/results/study"
    assert submission.id.startswith("moe-ray-study-")


def test_the_driver_names_the_run_directory_of_the_cluster() -> None:
    run = Path("/cluster/results/study")
    words = ["specialise", "ablate", "./m", "--texts=./t", "--out", "@run/ablation"]
    assert driver._command(words, run) == [*words[:-1], "/cluster/results/study/ablation"]
    assert driver._command(["score", "@run", "--trust"], run) == ["score", "/cluster/results/study", "--trust"]
    assert driver._command(["score", "@runner"], run) == ["score", "@runner"]
    for command in (["evaluate", "experiment.yaml"], ["router", "train", "experiment.yaml"]):
        assert driver._command(command, run) == [*command, "--results-dir", "/cluster/results"]


def test_a_hub_id_and_a_path_of_the_cluster_stay_as_they_are(moe_ray: Command, jobs: FakeJobs, here: Path) -> None:
    line = "specialise trace some/mixture --texts /cluster/only/texts.jsonl --out results/study/trace"
    code, shown = submit(moe_ray, jobs, line)
    assert code == 0, shown
    assert entry(jobs)[2:4] == ["some/mixture", "--texts=/cluster/only/texts.jsonl"]
    (here / "shared").mkdir()
    (here / "shared" / "texts.jsonl").write_text("")
    line = f"specialise trace some/mixture --texts {here}/shared/texts.jsonl --out results/other/trace"
    code, shown = submit(moe_ray, jobs, line, "--on-cluster", here / "shared", "--dry-run")
    assert f"expected on the nodes: {here}/shared/texts.jsonl" in shown


@pytest.mark.parametrize(
    "line",
    [
        "specialise trace ./none --texts texts.jsonl --out results/study/trace",
        "specialise trace ./mixture --texts none.jsonl --out results/study/trace",
        "moe merge a=none b=mixture --gate mixture --out results/study/merged",
    ],
)
def test_a_relative_path_that_is_not_here_is_refused(moe_ray: Command, jobs: FakeJobs, here: Path, line: str) -> None:
    code, shown = submit(moe_ray, jobs, line)
    assert code == 2
    assert "there is no" in shown
    assert jobs.requests == []


def test_named_checkpoints_keep_their_names(moe_ray: Command, jobs: FakeJobs, here: Path) -> None:
    for name in ("a=1", "b", "gate"):
        (here / name).mkdir()
        (here / name / "config.json").write_text("{}")
    line = f"moe merge law=a=1 code={here}/b --gate gate --out results/study/merged --mode select_one"
    assert submit(moe_ray, jobs, line)[0] == 0
    assert entry(jobs)[2:5] == ["law=./a=1", "code=./b", "--gate=./gate"]
    assert {"a=1/config.json", "b/config.json", "gate/config.json"} <= set(jobs.files())


def test_the_texts_of_a_pretraining_are_the_same_on_the_cluster(
    moe_ray: Command, jobs: FakeJobs, here: Path, tmp_path: Path
) -> None:
    """The file is in a folder that is not the current one; one expert's texts are a domain of an experiment."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "rows.jsonl").write_text(rows())
    (folder / "experiment.yaml").write_text(yaml.safe_dump(experiment()))
    given = {
        "base_model": "../here/mixture",
        "experts": {
            "law": [{"source": "../here/texts.jsonl"}],
            "parity": [{"experiment": "./experiment.yaml", "domain": "parity"}],
        },
        "runtime": {"address": "10.0.0.1:6379", "cpu_threads": 1},
    }
    (folder / "experts.yaml").write_text(yaml.safe_dump(given))
    code, shown = submit(moe_ray, jobs, f"moe pretrain {folder}/experts.yaml --out results/study/experts")
    assert code == 0, shown
    there = unpacked(jobs, tmp_path / "there") / entry(jobs)[2]
    ours, sent = load_pretrain_config(folder / "experts.yaml"), load_pretrain_config(there)
    assert sent.runtime.address == "auto"
    assert sent.runtime.cpu_threads == 1
    assert Path(sent.base_model or "", "config.json").is_file()
    assert Path(sent.base_model or "").is_relative_to(tmp_path / "there")
    assert sent.model_copy(update={"base_model": None, "experts": {}, "runtime": None}) == ours.model_copy(
        update={"base_model": None, "experts": {}, "runtime": None}
    )
    (folder / "rows.jsonl").unlink()
    (here / "texts.jsonl").rename(here / "moved.jsonl")
    texts = read_expert_texts(sent.experts, there.parent, held_out_fraction=0.25)
    (folder / "rows.jsonl").write_text(rows())
    (here / "moved.jsonl").rename(here / "texts.jsonl")
    assert texts == read_expert_texts(ours.experts, folder, held_out_fraction=0.25)


def test_a_gates_file_is_the_same_on_the_cluster(moe_ray: Command, jobs: FakeJobs, here: Path, tmp_path: Path) -> None:
    given = {
        "base_model": "./mixture",
        "data": {"law": [{"source": "./texts.jsonl", "column": "text"}], "code": [{"source": "hub/code"}]},
        "method": "ridge",
    }
    (here / "gate.yaml").write_text(yaml.safe_dump(given))
    code, shown = submit(moe_ray, jobs, "moe train-gate gate.yaml --out results/study/gate")
    assert code == 0, shown
    there = unpacked(jobs, tmp_path / "there") / entry(jobs)[2]
    ours, sent = load_gate_config(here / "gate.yaml"), load_gate_config(there)
    assert (there.parent / sent.data["law"][0].source).read_text() == (here / "texts.jsonl").read_text()
    assert sent.data["code"] == ours.data["code"]
    assert Path(sent.base_model).is_relative_to(tmp_path / "there")
    kept = {"base_model": "", "data": {}}
    assert sent.model_copy(update=kept) == ours.model_copy(update=kept)


def test_an_experiments_questions_are_the_texts_and_its_models_stay_here(
    moe_ray: Command, jobs: FakeJobs, file: Path, tmp_path: Path
) -> None:
    model = tmp_path / "large"
    model.mkdir()
    (model / "weights.bin").write_bytes(bytes(100))
    config = experiment()
    config["models"]["base"] = {"path": str(model)}
    file.write_text(yaml.safe_dump(config))
    (file.parent / "my_graders.py").write_text("class Strict: ...\n")
    code, shown = submit(moe_ray, jobs, f"specialise trace hub/mixture --texts {file} --out results/study/trace")
    assert code == 0, shown
    assert not [name for name in jobs.files() if "weights" in name]
    (word,) = (word for word in entry(jobs) if word.startswith("--texts="))
    there = unpacked(jobs, tmp_path / "there") / word.removeprefix("--texts=")
    expected = read_source_texts(file)
    (file.parent / "rows.jsonl").unlink()
    assert read_source_texts(there) == expected


def test_a_run_is_scored_where_it_is(moe_ray: Command, jobs: FakeJobs, file: Path) -> None:
    code, shown = submit(moe_ray, jobs, f"score results/spoilt --experiment {file} --allow-weak-sandbox")
    assert code == 0, shown
    name, run, *options = entry(jobs)
    assert (name, run, options[-1]) == ("score", "@run", "--allow-weak-sandbox")
    assert read_submission(Path("results/spoilt")).details["results"] == "/shared/results/spoilt"


def test_a_router_is_trained_with_the_experiment_as_it_was_resolved(
    moe_ray: Command, jobs: FakeJobs, file: Path
) -> None:
    line = f"router train {file} --max-examples 3 --set decoding.max_new_tokens=7"
    code, shown = submit(moe_ray, jobs, line)
    assert code == 0, shown
    assert entry(jobs) == ["router", "train", "experiment.yaml"]
    sent = yaml.safe_load(jobs.text("experiment.yaml"))
    assert sent["domains"]["parity"]["max_examples"] == 3
    assert sent["decoding"]["max_new_tokens"] == 7


def test_gpus_of_the_commands_own_process_are_asked_for(moe_ray: Command, jobs: FakeJobs, here: Path) -> None:
    line = "specialise trace ./mixture --texts texts.jsonl --out results/study/trace"
    assert submit(moe_ray, jobs, line, "--gpus", "1")[0] == 0
    (job,) = jobs.jobs.values()
    assert job.body["entrypoint_num_gpus"] == 1
    code, shown = submit(moe_ray, jobs, "moe pretrain experts.yaml --out results/x/experts", "--gpus", "1")
    assert code == 2
    assert "reserves GPUs for its models by itself" in shown


def test_a_command_is_resumed_by_a_second_submit_and_refused_while_it_runs(
    moe_ray: Command, jobs: FakeJobs, here: Path
) -> None:
    line = "specialise ablate ./mixture --texts texts.jsonl --out results/study/ablation"
    jobs.states = [{"status": "STOPPED"}]
    assert submit(moe_ray, jobs, line)[0] == 130
    jobs.states = [{"status": "RUNNING"}]
    assert submit(moe_ray, jobs, line, "--detach")[0] == 0
    assert [id.rsplit("-", 1)[1] for id in jobs.jobs] == ["1", "2"]
    code, shown = submit(moe_ray, jobs, "specialise trace ./mixture --texts texts.jsonl --out results/study/trace")
    assert code == 2
    assert "is running" in shown
