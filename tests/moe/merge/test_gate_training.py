"""Training a gate: what is learned, what is saved, and what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.linear_model import RidgeClassifier
from sklearn.metrics import accuracy_score, f1_score

from moe_ray.errors import ConfigError, DataError, ModelError
from moe_ray.gating.fitting import LabelledFeatures, fit_ridge, load_gating
from moe_ray.moe.merge.gate import GATE_FILE, INFO_FILE, GateRecord, GateTrainingInfo, TrainedGate
from moe_ray.moe.merge.gate_training import tensor_sha256, train_gate
from moe_ray.moe.merge.request import load_gate_config
from moe_ray.progress import TrainingProgress
from tests.moe.merge.gates import EXPERTS, gate_settings, write_gate_config, write_texts
from tests.support.tiny_models import make_tiny_checkpoint


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_checkpoint(tmp_path_factory.mktemp("base"), "llama")


@pytest.fixture(scope="module")
def folder(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts")
    write_gate_config(path, base)
    return path


@pytest.fixture(scope="module")
def trained(folder: Path) -> TrainedGate:
    return trained_in(folder)


def trained_in(folder: Path, **changes: Any) -> TrainedGate:
    config = load_gate_config(folder / "gate.json").model_copy(update=changes)
    return train_gate(config, folder, device="cpu")


def means_by_hand(base: Path, texts: list[str], with_bos: bool = True) -> torch.Tensor:
    """One text at a time with the tokenizer's own call, and a plain mean."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    matrix = load_file(base / "model.safetensors")["model.embed_tokens.weight"]
    rows = [tokenizer(text, add_special_tokens=with_bos)["input_ids"] for text in texts]
    return torch.stack([matrix[row].mean(dim=0) for row in rows])


def texts_of(path: Path) -> list[str]:
    return [json.loads(line)["text"] for line in path.read_text().splitlines()]


def test_it_tells_apart_texts_that_it_has_never_seen(trained: TrainedGate) -> None:
    assert trained.record.experts == list(EXPERTS)
    assert trained.info.validation.macro_f1 > 0.9
    assert trained.info.held_out is not None
    assert trained.info.held_out.n == 200
    assert trained.info.held_out.macro_f1 > 0.9


def test_the_figures_are_scikit_learns_on_prompts_with_their_special_tokens(
    trained: TrainedGate, base: Path, folder: Path
) -> None:
    gold = [place for place, expert in enumerate(EXPERTS) for _ in texts_of(folder / f"unseen-{expert}.jsonl")]
    texts = [text for expert in EXPERTS for text in texts_of(folder / f"unseen-{expert}.jsonl")]
    chosen = trained.network(means_by_hand(base, texts)).argmax(dim=1).numpy()
    assert trained.info.held_out is not None
    assert trained.info.held_out.accuracy == pytest.approx(accuracy_score(gold, chosen))
    assert trained.info.held_out.macro_f1 == pytest.approx(f1_score(gold, chosen, average="macro"))
    by_source = [trained.info.held_out_accuracy[f"unseen-{expert}"] for expert in EXPERTS]
    assert np.mean(by_source) == pytest.approx(accuracy_score(gold, chosen))


def test_every_text_is_in_one_split_and_none_of_the_held_out_is_learned_from(trained: TrainedGate) -> None:
    counts = trained.info.num_texts
    for expert in EXPERTS:
        assert sum(counts[split][expert] for split in ("train", "validation", "test")) == 100
        assert counts["held_out"][expert] == 100


def test_the_best_epoch_and_the_last_one_are_saved(trained: TrainedGate, tmp_path: Path) -> None:
    trained.save(tmp_path / "gate")
    best, last = load_gating(tmp_path / "gate"), load_gating(tmp_path / "gate" / "final")
    info = GateTrainingInfo.model_validate_json((tmp_path / "gate" / INFO_FILE).read_text())
    assert info == trained.info
    assert info.best_epoch is not None
    scores = [epoch.macro_f1 for epoch in info.history]
    assert scores[info.best_epoch - 1] == max(scores) == info.validation.macro_f1
    assert torch.equal(best.output.weight, trained.network.output.weight)
    is_last = info.best_epoch == len(info.history)
    assert torch.equal(best.output.weight, last.output.weight) == is_last


def test_the_record_names_the_embeddings_that_were_read(trained: TrainedGate, base: Path, tmp_path: Path) -> None:
    trained.save(tmp_path / "gate")
    record = GateRecord.model_validate_json((tmp_path / "gate" / GATE_FILE).read_text())
    matrix = load_file(base / "model.safetensors")["model.embed_tokens.weight"]
    assert record.embeddings_sha256 == tensor_sha256(matrix) != tensor_sha256(matrix + 1)
    assert tensor_sha256(matrix) != tensor_sha256(matrix.T)


def test_the_same_seed_gives_the_same_gate_and_another_another(trained: TrainedGate, folder: Path) -> None:
    again, other = trained_in(folder), trained_in(folder, seed=1)
    assert torch.equal(again.network.output.weight, trained.network.output.weight)
    assert not torch.equal(other.network.output.weight, trained.network.output.weight)


def test_each_epoch_is_told(folder: Path) -> None:
    reports: list[TrainingProgress] = []
    config = load_gate_config(folder / "gate.json")
    gate = train_gate(config, folder, device="cpu", on_progress=reports.append)
    assert [one.macro_f1 for one in reports] == [epoch.macro_f1 for epoch in gate.info.history]


def test_the_chat_style_reads_the_template_too(folder: Path, base: Path) -> None:
    asked = texts_of(folder / "unseen-code.jsonl")
    chat = trained_in(folder, prompt_style="chat")
    prompts = means_by_hand(base, [f"<s>[user] {text}\n[assistant]\n" for text in asked], with_bos=False)
    chosen = chat.network(prompts).argmax(dim=1)
    assert chat.info.held_out_accuracy["unseen-code"] == pytest.approx((chosen == 1).float().mean().item())
    assert chat.record.prompt_style == "chat"


def test_ridge_is_trained_by_no_step_and_tells_the_texts_apart(folder: Path, tmp_path: Path) -> None:
    gate = trained_in(folder, method="ridge")
    assert gate.info.history == []
    assert gate.info.best_epoch is None
    assert gate.last is None
    assert gate.network.hidden_sizes == ()
    assert gate.info.held_out is not None
    assert gate.info.held_out.macro_f1 > 0.9
    gate.save(tmp_path / "gate")
    assert not (tmp_path / "gate" / "final").exists()


def test_ridge_chooses_as_scikit_learns_ridge_does() -> None:
    random = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (300,), generator=random)
    features = torch.randn(300, 12, generator=random) + 1.5 * torch.eye(12)[labels]
    rows = LabelledFeatures(features=features, labels=labels)
    network, temperature = fit_ridge(rows, rows, 3, strength=0.1)
    standard = (features - features.mean(dim=0)) / features.std(dim=0, correction=0)
    directions = torch.nn.functional.normalize(standard.double(), dim=1).numpy() * np.sqrt(12)
    # scikit-learn regresses to 1 and -1, sums over rows, and weighs a row by its class's share.
    plain = RidgeClassifier(alpha=0.1 * 300, class_weight="balanced").fit(directions, labels.numpy())
    with torch.inference_mode():
        logits = network(features).double().numpy() * temperature
    np.testing.assert_allclose(2 * logits - 1, plain.decision_function(directions), atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"method": "ridge"}, "hidden_sizes"),
        ({"learning_rat": 1.0}, "did you mean learning_rate"),
        ({"dropout": 1.0}, "less than 1"),
        ({"data": {"one": [{"source": "./legal.jsonl"}]}}, "data"),
        ({"data": {"a": [{"source": "./legal.jsonl"}], "b": [{"source": "./code.jsonl", "use": "test"}]}}, "data"),
    ],
)
def test_a_wrong_config_is_refused_by_its_key(changes: dict[str, Any], named: str, base: Path, tmp_path: Path) -> None:
    path = write_gate_config(tmp_path, base, **changes)
    with pytest.raises(ConfigError) as caught:
        load_gate_config(path)
    assert named in str(caught.value)
    assert str(path) in str(caught.value)


def test_yaml_and_json_say_the_same(base: Path, tmp_path: Path) -> None:
    path = write_gate_config(tmp_path, base)
    (tmp_path / "gate.yaml").write_text(path.read_text())  # JSON is YAML
    assert load_gate_config(tmp_path / "gate.yaml") == load_gate_config(path)
    (tmp_path / "bad.json").write_text("{\n  base_model: x\n}")
    with pytest.raises(ConfigError, match=r"bad\.json:2"):
        load_gate_config(tmp_path / "bad.json")
    with pytest.raises(DataError, match="no such file"):
        load_gate_config(tmp_path / "none.json")


def test_too_few_texts_are_refused_with_their_number(base: Path, tmp_path: Path) -> None:
    path = write_gate_config(tmp_path, base)
    write_texts(tmp_path, num_each=3)
    with pytest.raises(DataError, match="3 texts are left for legal"):
        train_gate(load_gate_config(path), tmp_path, device="cpu")


def test_a_base_model_that_is_not_there_is_refused(tmp_path: Path) -> None:
    write_texts(tmp_path)
    path = tmp_path / "gate.json"
    path.write_text(json.dumps(gate_settings(Path("./nowhere")) | {"base_model": "./nowhere"}))
    with pytest.raises(ModelError, match="no such directory"):
        train_gate(load_gate_config(path), tmp_path, device="cpu")


def test_a_gate_is_never_written_over_something_else(trained: TrainedGate, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ModelError, match="refusing to overwrite: not a gate directory"):
        trained.save(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
