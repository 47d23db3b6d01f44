"""`moe-ray plan`: it refuses what evaluate would refuse, all of it at once, and plans for places that are not here."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from moe_ray.cli.terminal import EXIT_USAGE
from moe_ray.config.load import load_experiment
from moe_ray.runs.manifest import begin as begin_run
from moe_ray.runs.work import prepare
from moe_ray.store.records import ReplicaTelemetry
from tests.cli.experiments import experiment, rows
from tests.support.commands import Command

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


@pytest.fixture
def moe_ray(moe_ray: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """Run a command in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "rows.jsonl").write_text(rows(), encoding="utf-8")
    return moe_ray


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without network, whose caches are empty."""
    for place in ("moe_ray.hub", "moe_ray.domains.sources", "moe_ray.checkpoints.identity"):
        monkeypatch.setattr(f"{place}.hub_answers", lambda: False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))

    def sleep(seconds: float) -> None:
        raise AssertionError(f"it waits {seconds} s for a hub that does not answer")

    monkeypatch.setattr("time.sleep", sleep)


def write(config: dict[str, Any]) -> str:
    Path("experiment.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return "experiment.yaml"


def begin(file: str) -> None:
    """Leave the run directory that an earlier evaluate of `file` would have left at once."""
    loaded = load_experiment(Path(file))
    prepared = prepare(loaded)
    prepared.run.prepare()
    begin_run(prepared)


def test_a_changed_run_is_refused_before_it_is_resumed(moe_ray: Command) -> None:
    file = write(experiment())
    begin(file)
    assert moe_ray("plan", file)[0] == 0
    code, shown = moe_ray("plan", file, "--set", "decoding.temperature=0.5")
    assert code == EXIT_USAGE
    assert "decoding.temperature: 0.0 -> 0.5" in shown


def test_everything_that_is_wrong_is_told_at_once(moe_ray: Command, tmp_path: Path) -> None:
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "config.json").write_text('{"model_type": "llama"}')
    config = experiment()
    config["models"] |= {"bare": {"path": "./bare"}, "gone": {"path": "./gone"}}
    config["matrix"] = "full"
    config["domains"]["other-rows"] = config["domains"]["parity"] | {"data": {"source": "./absent.jsonl"}}
    config["domains"]["graded"] = config["domains"]["parity"] | {"graders": ["rouge"]}
    code, shown = moe_ray("plan", write(config))
    assert code == EXIT_USAGE
    assert "4 problems" in shown
    for fragment in ("absent.jsonl", "rouge_l", "no usable tokenizer", "no such folder", "experiment.yaml:"):
        assert fragment in shown, shown


def test_what_only_shows_when_the_run_is_put_together_is_told_at_once_too(moe_ray: Command) -> None:
    config = experiment()
    file = write(config)
    begin(file)
    config["models"]["base"]["gpus"] = 3
    config["domains"]["parity"]["graders"] = ["decision_loglik"]
    code, shown = moe_ray("plan", write(config), "--set", "decoding.seed=7")
    assert code == EXIT_USAGE
    for fragment in ("3 problems", "decision_loglik", "decoding.seed: 0 -> 7", "models.base.gpus"):
        assert fragment in shown, shown


def test_a_plan_writes_nothing(moe_ray: Command, tmp_path: Path) -> None:
    file = write(experiment())
    before = sorted(tmp_path.rglob("*"))
    assert moe_ray("plan", file)[0] == 0
    assert sorted(tmp_path.rglob("*")) == before


def test_a_sandbox_that_lacks_a_protection_is_told_before_any_model_works(
    moe_ray: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    from moe_ray.errors import SandboxError

    def weak(config: object, graders: object) -> None:
        raise SandboxError("the sandbox lacks seccomp", where="runtime.sandbox", remedy="set allow_weak")

    monkeypatch.setattr("moe_ray.runs.plan.sandbox_record", weak)
    file = write(experiment())
    code, shown = moe_ray("plan", file)
    assert code == EXIT_USAGE
    assert "lacks seccomp" in shown
    assert moe_ray("plan", file, "--simulate", "1x80GiB")[0] == 0, "another place has a sandbox of its own"


def test_a_disk_without_room_for_the_answers_is_told(moe_ray: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    code, shown = moe_ray("plan", write(experiment()))
    assert code == EXIT_USAGE
    assert "1,000 free" in shown


@pytest.mark.usefixtures("offline")
def test_the_flagship_is_planned_without_a_network(moe_ray: Command) -> None:
    file = EXPERIMENTS / "three-experts.yaml"
    code, shown = moe_ray("plan", file, "--simulate", "8x80GiB")
    assert code == 0, shown
    assert "assumed: legal has 500 examples" in shown
    assert "unknown: the size of mediphi" in shown
    assert "Time: unknown" in shown
    code, shown = moe_ray("plan", file, "--simulate", "8x80GiB", "--speed", 1500, "--size", "mediphi=3.8B")
    assert code == 0, shown
    assert "unknown: the size" not in shown
    # 3,000 answers of the 4 models, 256 tokens each: mistral's 1,500 on 8 copies last longest.
    assert "Time: at most 33 s" in shown
    assert all(f"GPU {index} of simulated-0" in shown for index in range(8)), "the plan leaves a GPU idle"


@pytest.mark.usefixtures("offline")
def test_a_run_on_this_machine_assumes_nothing(moe_ray: Command) -> None:
    code, shown = moe_ray("plan", EXPERIMENTS / "three-experts.yaml")
    assert code == EXIT_USAGE
    assert shown.count("cannot be loaded from the hub") == 3
    assert "moe-ray data prepare" in shown


def test_a_run_that_was_begun_knows_its_speed(moe_ray: Command) -> None:
    file = write(experiment())
    begin(file)
    run = prepare(load_experiment(Path(file))).run
    run.write_telemetry(
        ReplicaTelemetry(
            replica="base-1", model="base", session="s", node="n", pid=1, device="cpu", started_at=0.0,
            load_s=7.0, busy_s=10.0, num_completion_tokens=20,
        )
    )  # fmt: skip
    code, shown = moe_ray("plan", file, "--set", "decoding.max_new_tokens=256", "--simulate", "1x80GiB")
    assert code == 0, shown
    # 8 answers of 256 tokens at 2 a second, in one shard, after 7 s of loading.
    assert f"Time: at most {round((8 * 256 / 2 + 7) / 60)} min" in shown
    assert "base 2 (measured)" in shown


@pytest.mark.parametrize("option", ["--speed", "--size"])
def test_a_number_that_cannot_be_read_is_refused(option: str, moe_ray: Command) -> None:
    code, shown = moe_ray("plan", write(experiment()), option, "base=many")
    assert code == EXIT_USAGE
    assert option in shown
    assert "remedy" in shown


def test_the_examples_of_this_repository_can_be_planned(moe_ray: Command) -> None:
    code, shown = moe_ray("plan", EXPERIMENTS / "custom-domain.yaml", "--simulate", "2x80GiB", "--speed", "100")
    assert code == 0, shown
    assert json.dumps(shown).isascii()
