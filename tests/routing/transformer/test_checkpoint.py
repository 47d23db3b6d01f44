"""A saved router is a plain transformers checkpoint; a damaged one is named."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from moe_ray.errors import ModelError
from moe_ray.routing.transformer import TransformerClassifier
from moe_ray.routing.transformer.watch import TrainingHistory
from tests.routing.queries import DOMAINS
from tests.routing.transformer.tiny import TEST, VALIDATION

TEXTS = [text.text for text in TEST]


def copied(checkpoint: Path, directory: Path) -> Path:
    return Path(shutil.copytree(checkpoint, directory / "copy"))


def test_a_loaded_router_says_the_same_to_the_last_bit(router: TransformerClassifier, checkpoint: Path) -> None:
    loaded = TransformerClassifier.load(checkpoint, device="cpu")
    before, after = router.outputs(TEXTS), loaded.outputs(TEXTS)
    assert np.array_equal(before.logits, after.logits)
    assert np.array_equal(before.features, after.features)
    assert loaded.labels == router.labels == DOMAINS
    assert loaded.history == router.history


def test_transformers_alone_reads_the_same_logits(router: TransformerClassifier, checkpoint: Path) -> None:
    model = transformers.AutoModelForSequenceClassification.from_pretrained(checkpoint).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    texts = [*TEXTS, "a very long text " * 200]
    with torch.no_grad():
        logits = model(**tokenizer(texts, padding=True, truncation=True, return_tensors="pt")).logits
    assert router.outputs(texts).logits == pytest.approx(logits.numpy(), abs=1e-5)
    assert model.config.id2label == dict(enumerate(DOMAINS))
    assert model.config.label2id == {label: place for place, label in enumerate(DOMAINS)}


def test_a_pipeline_of_transformers_gives_the_same_probabilities(
    router: TransformerClassifier, checkpoint: Path
) -> None:
    pipeline = transformers.pipeline("text-classification", model=str(checkpoint), device="cpu")
    logits = router.outputs(TEXTS).logits
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    for answers, row in zip(pipeline(TEXTS, top_k=None), expected, strict=True):
        given = {answer["label"]: answer["score"] for answer in answers}
        assert [given[label] for label in DOMAINS] == pytest.approx(row.tolist(), abs=1e-5)


def test_the_history_tells_how_the_weights_came_to_be(router: TransformerClassifier, checkpoint: Path) -> None:
    history = TrainingHistory.model_validate_json((checkpoint / "training.json").read_bytes())
    gold = [DOMAINS.index(text.label) for text in VALIDATION]
    found = router.outputs([text.text for text in VALIDATION]).logits.argmax(axis=1)
    assert history.epochs[history.best_epoch - 1].macro_f1 == 1.0
    assert found.tolist() == gold
    assert history.settings.num_parameters == sum(
        parameter.numel()
        for parameter in transformers.AutoModelForSequenceClassification.from_pretrained(checkpoint).parameters()
    )
    assert (history.settings.learning_rate, history.settings.max_tokens) == (3e-3, 64)


@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "training.json"]
)
@pytest.mark.parametrize("damage", ["missing", "cut short"])
def test_the_file_that_is_missing_or_damaged_is_named(name: str, damage: str, checkpoint: Path, tmp_path: Path) -> None:
    file = copied(checkpoint, tmp_path) / name
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(ModelError) as caught:
        TransformerClassifier.load(file.parent, device="cpu")
    assert caught.value.where == str(file)


def test_weights_of_another_shape_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    directory = copied(checkpoint, tmp_path)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "n_layers": 3}))
    with pytest.raises(ModelError, match="lacks 16 weights") as caught:
        TransformerClassifier.load(directory, device="cpu")
    assert caught.value.where == str(directory / "model.safetensors")
