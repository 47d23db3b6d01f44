"""`moe-ray moe pretrain`, `finetune`, `verify`, `generate`, one after the other, with trainings as real Ray tasks."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import yaml
from safetensors.torch import load_file

from moe_ray.cli.terminal import EXIT_INTERRUPTED, EXIT_USAGE
from moe_ray.moe.btx.pretrain import pretrain
from moe_ray.moe.btx.training import in_turn
from moe_ray.progress import TrainingProgress
from tests.moe.btx.worlds import TRAINING, WORDS, pretrain_config
from tests.moe.conftest import Command

pytestmark = pytest.mark.usefixtures("local_ray")


def write_file(folder: Path, **changed: Any) -> Path:
    """Write pretrain.yaml, and texts beside it, into `folder`."""
    config = pretrain_config(folder)
    experts = {name: [{"source": f"./{name}.jsonl"}] for name in WORDS}
    given = {
        "architecture": config.architecture,
        "experts": experts,
        "training": dict(TRAINING),
        "finetune": {**TRAINING, "steps": 6},
        "runtime": {"cpu_threads": 1},
    }
    file = folder / "pretrain.yaml"
    file.write_text(yaml.safe_dump({**given, **changed}, sort_keys=False), encoding="utf-8")
    return file


def tensors(folder: Path) -> Mapping[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.mark.slow
def test_experts_are_trained_mixed_finetuned_verified_and_asked(moe_ray: Command, tmp_path: Path) -> None:
    file, out = write_file(tmp_path, anchor={**TRAINING, "steps": 4}), tmp_path / "out"
    code, shown = moe_ray("pretrain", file, "--out", out)
    assert code == 0, shown
    assert "Training the experts: coding (11 texts), math (10 texts), law (11 texts)" in shown
    for model in ("base", "anchor", "experts/coding", "experts/math", "experts/law", "mixture"):
        assert any(line.split("│")[1].strip() == model for line in shown.splitlines() if "│" in line)
    code, shown = moe_ray("finetune", file, "--mixture", out / "mixture", "--out", tmp_path / "tuned")
    assert code == 0, shown
    assert "layer 0" in shown
    assert "layer 1" in shown
    code, shown = moe_ray("verify", tmp_path / "tuned")
    assert code == 0, shown
    asked = ("--prompt", "sum is", "--max-new-tokens", 4, "--json")
    said = {}
    for expert in (*WORDS, "1"):
        code, shown = moe_ray("generate", tmp_path / "tuned", *asked, "--expert", expert)
        assert code == 0, shown
        said[expert] = json.loads(shown)
    assert [said[expert]["expert"] for expert in (*WORDS, "1")] == [*WORDS, "math"]
    assert said["1"]["text"] == said["math"]["text"]


@pytest.mark.slow
def test_trainings_as_ray_tasks_give_what_they_give_in_turn(moe_ray: Command, tmp_path: Path) -> None:
    file, out = write_file(tmp_path), tmp_path / "out"
    code, shown = moe_ray("pretrain", file, "--out", out)
    assert code == 0, shown
    pretrain(pretrain_config(tmp_path), tmp_path, tmp_path / "alone", run=in_turn)
    for name in ("mixture", *(f"experts/{expert}" for expert in WORDS)):
        there, here = tensors(out / name), tensors(tmp_path / "alone" / name)
        assert all(torch.equal(there[tensor], here[tensor]) for tensor in there)


@pytest.mark.slow
def test_a_training_whose_worker_is_killed_ends_in_the_same_weights(
    moe_ray: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = {**TRAINING, "steps": 150, "checkpoint_every": 1}
    killed: list[str] = []

    def kill_one(display: object, step: TrainingProgress) -> None:
        if step.step >= 3 and not killed:
            process = next(one for one in psutil.Process().children(recursive=True) if "ray::train" in _title(one))
            killed.append(_title(process))
            process.kill()

    monkeypatch.setattr("moe_ray.cli.moe_train._show", kill_one)
    file, out = write_file(tmp_path, training=slow), tmp_path / "out"
    code, shown = moe_ray("pretrain", file, "--out", out)
    assert code == 0, shown
    assert killed
    pretrain(pretrain_config(tmp_path, training=slow), tmp_path, tmp_path / "alone", run=in_turn)
    there, here = tensors(out / "mixture"), tensors(tmp_path / "alone" / "mixture")
    assert all(torch.equal(there[tensor], here[tensor]) for tensor in there)


@pytest.mark.slow
def test_an_interrupted_pretraining_says_what_is_kept_and_goes_on_from_there(
    moe_ray: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[TrainingProgress] = []

    def stop(display: object, step: TrainingProgress) -> None:
        steps.append(step)
        if step.step >= 5:
            raise KeyboardInterrupt

    monkeypatch.setattr("moe_ray.cli.moe_train._show", stop)
    file, out = write_file(tmp_path, training={**TRAINING, "steps": 150, "checkpoint_every": 1}), tmp_path / "out"
    code, shown = moe_ray("pretrain", file, "--out", out)
    assert code == EXIT_INTERRUPTED, shown
    assert f"What was trained is kept in {out}; the same command resumes." in shown
    first = steps[-1].name
    steps.clear()
    monkeypatch.setattr("moe_ray.cli.moe_train._show", lambda display, step: steps.append(step))
    code, shown = moe_ray("pretrain", file, "--out", out)
    assert code == 0, shown
    assert min(step.step for step in steps if step.name == first) >= 5


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


BAD: Mapping[str, tuple[Mapping[str, Any], tuple[str, ...]]] = {
    "no start": ({"architecture": None}, ("name either base_model or architecture",)),
    "one expert": ({"experts": {"law": [{"source": "./law.jsonl"}]}}, ("experts",)),
    "top-k above the number of experts": ({"top_k": 4}, ("top_k is 4, but there are 3 experts",)),
    "a family that cannot let one expert answer": (
        {"architecture": {"model_type": "llama"}},
        ("mixtures of llama", "gpt_neo"),
    ),
    "a key that is not there": ({"trainings": {}}, ("trainings",)),
    "too many parts": (
        {"training": {"batch_size": 2, "gradient_accumulation_steps": 3}},
        ("2 blocks cannot be cut into 3 parts",),
    ),
    "a base that is not there": ({"architecture": None, "base_model": "./gone"}, ("gone",)),
    "texts that are not there": (
        {"experts": {"law": [{"source": "./gone.jsonl"}], "math": [{"source": "./math.jsonl"}]}},
        ("gone.jsonl",),
    ),
    "a task that is not there": (
        {"experts": {"law": [{"task": "maths", "source": "./law.jsonl"}], "math": [{"source": "./math.jsonl"}]}},
        ("experts.law.0.task", "did you mean math"),
    ),
    "a GPU that no node has": ({"gpus": 1}, ("gpus", "can never start")),
    "an architecture that cannot be": (
        {"architecture": {"model_type": "gpt_neo", "hidden_size": 30, "num_heads": 4, "num_layers": 2}},
        ("not a configuration of gpt_neo",),
    ),
}


@pytest.mark.parametrize("case", BAD, ids=str)
def test_bad_input_is_told_and_nothing_is_trained(moe_ray: Command, tmp_path: Path, case: str) -> None:
    changed, said = BAD[case]
    code, shown = moe_ray("pretrain", write_file(tmp_path, **changed), "--out", tmp_path / "out")
    assert code == EXIT_USAGE, shown
    assert all(part in shown for part in said), shown
    assert "Traceback" not in shown
    assert not (tmp_path / "out" / "experts").exists()


def test_another_pretrainings_folder_is_refused_and_kept(moe_ray: Command, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, shown = moe_ray("pretrain", write_file(tmp_path), "--out", out)
    assert code == 0, shown
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    code, shown = moe_ray("pretrain", write_file(tmp_path, top_k=1), "--out", out)
    assert code == EXIT_USAGE
    assert "something other than this pretraining" in shown
    assert before == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    for wrong, mixture in (("has no certificate", out / "anchor"), ("already exists", out / "mixture")):
        code, shown = moe_ray("finetune", write_file(tmp_path), "--mixture", mixture, "--out", out / "base")
        assert code == EXIT_USAGE
        assert wrong in shown or "no certificate" in shown
