"""`moe-ray specialise train-toy`, and classifiers that it trains under trace and ablate."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
import yaml

from moe_ray import architectures
from moe_ray.specialisation.ablation.records import read_ablation
from moe_ray.specialisation.records import read_trace
from moe_ray.specialisation.toy.training import ToyTrainer
from tests.support.commands import Command, run

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).parents[2]
WORDS = {
    "law": ["court", "judge", "contract", "appeal", "statute", "tort"],
    "bio": ["cell", "drug", "protein", "trial", "enzyme", "tissue"],
    "sea": ["ship", "harbour", "sail", "anchor", "tide", "reef"],
}
COMMON = ["the", "of", "a", "in", "was", "and", "for", "that"]
NUM_PER_CLASS = 60
SMALL_TOY: dict[str, Any] = {
    "texts": {"file": "texts.jsonl"},
    "vocabulary_size": 400,
    "max_tokens": 24,
    "model": {"embedding": 16, "hidden": 16},
    "training": {"epochs": 2},
    "seeds": [3, 8],
}


def write_texts(path: Path, **more: Any) -> Path:
    rng = random.Random(2)
    lines = []
    for label, words in WORDS.items():
        for _ in range(NUM_PER_CLASS):
            mixed = rng.choices(words, k=4) + rng.choices(COMMON, k=8)
            rng.shuffle(mixed)
            lines.append(json.dumps({"text": " ".join(mixed), "label": label, **more}))
    path.write_text("\n".join(lines) + "\n")
    return path


def write_toy(folder: Path, **changes: Any) -> Path:
    file = folder / "toy.yaml"
    file.write_text(yaml.safe_dump({**SMALL_TOY, **changes}))
    return file


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with texts.jsonl, toy.yaml and what was trained, out/."""
    folder = tmp_path_factory.mktemp("toy")
    write_texts(folder / "texts.jsonl")
    code, shown = run("specialise", "train-toy", write_toy(folder), "--out", folder / "out")
    assert code == 0, shown
    assert "Mean over 2 seeds: accuracy " in shown
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_each_seed_is_a_checkpoint_with_its_accuracy(toy: Path) -> None:
    out = toy / "out"
    report = json.loads((out / "report.json").read_text())
    assert [one["seed"] for one in report["seeds"]] == [3, 8]
    test = [json.loads(line) for line in (out / "test.jsonl").read_text().splitlines()]
    train = [json.loads(line) for line in (out / "train.jsonl").read_text().splitlines()]
    assert not {one["id"] for one in test} & {one["id"] for one in train}
    assert report["texts"]["law"]["test"] == sum(one["label"] == "law" for one in test)
    architectures.register()
    for one in report["seeds"]:
        folder = out / f"seed-{one['seed']}"
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
        assert type(model).__name__ == "TokenMixtureForSequenceClassification"
        right = []
        for text in test:
            with torch.inference_mode():
                logits = model(**tokenizer(text["text"], return_tensors="pt")).logits[0]
            right.append(model.config.id2label[int(logits.argmax())] == text["label"])
        assert one["accuracy"] == pytest.approx(np.mean(right))
        assert one["low"] < one["accuracy"] < one["high"] or one["accuracy"] == 1
        assert one["accuracy"] > report["majority"] + 0.2
    accuracies = [one["accuracy"] for one in report["seeds"]]
    assert report["accuracy"] == pytest.approx(np.mean(accuracies))
    assert report["high"] - report["accuracy"] == pytest.approx(12.706 * np.std(accuracies, ddof=1) / 2**0.5, rel=1e-3)


def test_the_checkpoint_brings_its_code(toy: Path) -> None:
    folder = toy / "out" / "seed-3"
    assert {path.name for path in folder.glob("*.py")} == {"token_mixture.py", "experts.py"}
    named = json.loads((folder / "config.json").read_text())["auto_map"]
    assert named["AutoModelForSequenceClassification"] == "token_mixture.TokenMixtureForSequenceClassification"


class KilledError(Exception):
    """Stands for the end of the process."""


def test_a_killed_training_continues_to_the_same_files(
    toy: Path, moe_ray: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[int] = []
    train = ToyTrainer.train

    def counting(trainer: ToyTrainer, on_epoch: Any) -> int:
        trained.append(trainer._seed)
        if len(trained) == 2:
            raise KilledError
        return train(trainer, on_epoch)

    monkeypatch.setattr(ToyTrainer, "train", counting)
    asked = ("specialise", "train-toy", toy / "toy.yaml", "--out", tmp_path / "out")
    with pytest.raises(KilledError):
        moe_ray(*asked)
    assert (tmp_path / "out" / "seed-3").is_dir()
    assert not (tmp_path / "out" / "report.json").exists()
    code, shown = moe_ray(*asked)
    assert code == 0, shown
    assert trained == [3, 8, 8]
    assert files_of(tmp_path / "out") == files_of(toy / "out")
    code, shown = moe_ray(*asked, "--set", "seeds=[3]")
    assert code == 0, shown
    assert "one seed says nothing about others" in shown
    assert trained == [3, 8, 8]
    code, shown = moe_ray(*asked, "--set", "training.epochs=3")
    assert code == 2
    assert "holds a toy with other training" in shown


def test_a_classifier_is_traced_and_ablated_by_its_head(toy: Path, moe_ray: Command, tmp_path: Path) -> None:
    model, texts = toy / "out" / "seed-3", toy / "out" / "test.jsonl"
    code, shown = moe_ray(
        "specialise", "trace", model, "--texts", texts, "--out", tmp_path / "trace", "--batch-size", 4
    )
    assert code == 0, shown
    assert "1 layer with 2 of 4 experts" in shown
    traced = read_trace(tmp_path / "trace")
    code, shown = moe_ray(
        "specialise", "ablate", model, "--texts", texts, "--out", tmp_path / "a", "--batch-size", "21"
    )
    assert code == 0, shown
    report = json.loads((tmp_path / "a" / "report.json").read_text())
    assert (report["unit"], report["model_type"]) == ("nats", "token_mixture")
    assert set(report["accuracy"]) == set(WORDS)
    found = read_ablation(tmp_path / "a")
    assert found.plan.num_choices == 3
    assert found.text_ids == traced.text_ids
    assert (found.selected == traced.layers[0].selected).all()
    records = json.loads((toy / "out" / "report.json").read_text())["seeds"]
    assert found.right is not None
    assert found.right.mean() == pytest.approx(records[0]["accuracy"])
    plain, tokenizer = _plain(model)
    for text_id, label, intact in list(zip(found.text_ids, found.labels, found.intact, strict=True))[:5]:
        text = next(one for one in map(json.loads, texts.read_text().splitlines()) if one["id"] == text_id)
        with torch.inference_mode():
            values = plain(**tokenizer(text["text"], return_tensors="pt")).logits[0].double().log_softmax(dim=-1)
        assert intact == pytest.approx(float(values[plain.config.label2id[label]]), abs=1e-6)


def _plain(folder: Path) -> tuple[Any, Any]:
    architectures.register()
    return (
        transformers.AutoModelForSequenceClassification.from_pretrained(folder),
        transformers.AutoTokenizer.from_pretrained(folder),
    )


def test_chosen_joint_and_mean_removals_of_a_classifier(toy: Path, moe_ray: Command, tmp_path: Path) -> None:
    asked = (
        "specialise", "ablate", toy / "out" / "seed-8", "--texts", toy / "out" / "test.jsonl", "--batch-size", "21",
        "--max-texts", "14",
    )  # fmt: skip
    code, shown = moe_ray(*asked, "--out", tmp_path / "a", "--joint", "2", "--choose", "1")
    assert code == 0, shown
    assert "for choosing" in shown
    assert "Beyond single removals" in shown
    report = json.loads((tmp_path / "a" / "report.json").read_text())
    assert report["split"]["num_chosen"] == 1
    assert len(report["units"]) == 1
    together = json.loads((tmp_path / "a" / "joint" / "report.json").read_text())
    assert together["num_texts"] == report["split"]["num_testing"]
    assert len(together["units"][0]["with_experts"]) == 1
    before = files_of(tmp_path / "a")
    code, again = moe_ray(*asked, "--out", tmp_path / "a", "--joint", "2", "--choose", "1")
    assert (code, again) == (0, shown)
    assert files_of(tmp_path / "a") == before
    code, shown = moe_ray(*asked, "--out", tmp_path / "m", "--operation", "mean")
    assert code == 0, shown
    report = json.loads((tmp_path / "m" / "report.json").read_text())
    assert report["num_texts"] == report["split"]["num_testing"] < sum(report["split"][key] for key in NUMBERS)
    code, shown = moe_ray(*asked, "--out", tmp_path / "b", "--joint", "1")
    assert (code, "1 expert together with none" in shown) == (2, True)


NUMBERS = ("num_choosing", "num_testing")


def test_a_mixtral_is_trained_and_ablated_too(toy: Path, moe_ray: Command, tmp_path: Path) -> None:
    file = write_toy(
        tmp_path, texts={"file": str(toy / "texts.jsonl")}, seeds=[1], training={"epochs": 1},
        model={"kind": "mixtral", "embedding": 16, "hidden": 16, "heads": 2, "experts": 6, "layers": 2},
    )  # fmt: skip
    code, shown = moe_ray("specialise", "train-toy", file, "--out", tmp_path / "out")
    assert code == 0, shown
    model, tokenizer = _plain(tmp_path / "out" / "seed-1")
    assert type(model) is transformers.MixtralForSequenceClassification
    assert model.config.num_local_experts == 6
    code, shown = moe_ray(
        "specialise", "ablate", tmp_path / "out" / "seed-1", "--texts", tmp_path / "out" / "test.jsonl", "--out",
        tmp_path / "a", "--experts", "0", "--layers", "1", "--batch-size", "21", "--max-texts", "10",
    )  # fmt: skip
    assert code == 0, shown
    found = read_ablation(tmp_path / "a")
    texts = {one["id"]: one for one in map(json.loads, (tmp_path / "out" / "test.jsonl").read_text().splitlines())}
    for text_id, label, intact in list(zip(found.text_ids, found.labels, found.intact, strict=True))[:3]:
        with torch.inference_mode():
            values = model(**tokenizer(texts[text_id]["text"], return_tensors="pt")).logits[0].log_softmax(dim=-1)
        assert intact == pytest.approx(float(values[model.config.label2id[label]]), abs=1e-5)
    code, shown = moe_ray(
        "specialise", "prune", tmp_path / "out" / "seed-1", "--experts", "0", "--out", tmp_path / "pruned"
    )
    assert code == 0, shown
    assert _plain(tmp_path / "pruned")[0].config.num_local_experts == 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"texts": {"file": "none.jsonl"}}, "there is no such file"),
        ({"texts": {"file": "texts.jsonl", "label": "group"}}, "have no 'group'"),
        ({"texts": {"file": "texts.jsonl", "classes": {"a": ["law"], "b": ["tax"]}}}, "no text has the label 'tax'"),
        ({"texts": {"file": "texts.jsonl", "classes": {"a": ["law"], "b": ["law"]}}}, "label 'law' is in a and in b"),
        ({"texts": {"file": "texts.jsonl", "classes": {"a": ["law"]}}}, "holds 1 class"),
        ({"model": {"top_k": 5}}, "top_k is 5, but there are 4 experts"),
        ({"model": {"kind": "mixtral", "embedding": 20}}, "must be a multiple of twice the heads"),
        ({"model": {"embedding": 30}}, "must be multiples of 4"),
        ({"seeds": [1, 1]}, "a seed is given twice"),
        ({"seeds": []}, "seeds"),
        ({"epochs": 3}, "epochs"),
    ],
)
def test_what_cannot_be_trained_is_refused(
    toy: Path, moe_ray: Command, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    (tmp_path / "texts.jsonl").write_bytes((toy / "texts.jsonl").read_bytes())
    code, shown = moe_ray("specialise", "train-toy", write_toy(tmp_path, **changes), "--out", tmp_path / "out")
    assert code == 2, shown
    assert message in " ".join(shown.split())
    assert "Traceback" not in shown
    assert not (tmp_path / "out").exists()


def test_a_class_of_few_texts_and_a_foreign_folder_are_refused(toy: Path, moe_ray: Command, tmp_path: Path) -> None:
    lines = (toy / "texts.jsonl").read_text().splitlines()
    (tmp_path / "texts.jsonl").write_text("\n".join([*lines[:80], json.dumps({"text": "reef", "label": "sea"})]) + "\n")
    code, shown = moe_ray("specialise", "train-toy", write_toy(tmp_path), "--out", tmp_path / "out")
    assert code == 2
    assert "texts are left for" in shown
    code, shown = moe_ray("specialise", "train-toy", toy / "toy.yaml", "--out", tmp_path)
    assert code == 2
    assert "exists and is not a toy" in shown


def test_texts_of_a_class_that_the_classifier_does_not_have_are_refused(
    toy: Path, moe_ray: Command, tmp_path: Path
) -> None:
    (tmp_path / "texts.jsonl").write_text('{"text": "a tax", "label": "tax"}\n')
    asked = ("specialise", "ablate", toy / "out" / "seed-3", "--texts", tmp_path / "texts.jsonl")
    code, shown = moe_ray(*asked, "--out", tmp_path / "a")
    assert code == 2
    assert "the classifier has no class 'tax'" in shown
    assert "bio, law and sea" in shown


@pytest.mark.parametrize("name", ["toy-ag-news", "newsgroups-mixtral"])
def test_the_experiments_say_where_their_texts_are_missing(moe_ray: Command, tmp_path: Path, name: str) -> None:
    file = ROOT / "experiments" / "specialisation" / f"{name}.yaml"
    missing = f"texts.file={tmp_path / 'none.jsonl'}"
    code, shown = moe_ray("specialise", "train-toy", file, "--out", tmp_path / "out", "--set", missing)
    assert code == 2
    assert "there is no such file" in shown
    assert "--set texts.file=PATH" in shown
