"""The embedding classifier as a router uses it, on tiny causal models of real architectures."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers

from moe_ray.config.schema import RouterConfig, RouterTrainingConfig
from moe_ray.errors import ConfigError, DataError, ModelError
from moe_ray.progress import TrainingProgress
from moe_ray.routing.classifier import ClassifierOutputs, classifier_class
from moe_ray.routing.embedding import EmbeddingClassifier
from moe_ray.texts.labelled import LabelledText
from tests.support.tiny_models import Architecture, make_tiny_checkpoint

LABELS = ("legal", "code", "biomedical")  # in no alphabetical order
WORDS = {"legal": "court law contract", "code": "def return assert list", "biomedical": "drug cell yes no"}
STRANGE = ["", " ", "\ud800 half a pair", "nul \x00 and \x1b", "قانون 法律 закон", "<s> </s> <pad>", "law " * 25_000]


def texts(num: int, *, seed: int, labels: Sequence[str] = LABELS) -> list[LabelledText]:
    """Words of one label and a few of none."""
    random = np.random.default_rng(seed)
    found = []
    for at in range(num):
        label = labels[at % len(labels)]
        words = [*random.choice(WORDS[label].split(), 4), *random.choice(["the", "a", "is", "of"], 3)]
        random.shuffle(words)
        found.append(LabelledText(id=str(at), text=" ".join(words), label=label))
    return found


def router(base_model: Path | None, **training: Any) -> RouterConfig:
    settings = RouterTrainingConfig(**{"hidden_sizes": (16,), "learning_rate": 1e-2, **training})
    return RouterConfig(kind="embedding", base_model=base_model and str(base_model), training=settings)


def trained(config: RouterConfig, reports: list[TrainingProgress] | None = None) -> EmbeddingClassifier:
    train, validation = texts(90, seed=1), texts(30, seed=2)
    reports = [] if reports is None else reports
    return EmbeddingClassifier.train(config, LABELS, train, validation, device="cpu", report=reports.append)


def chosen(outputs: ClassifierOutputs) -> list[str]:
    return [LABELS[at] for at in outputs.logits.argmax(axis=1)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_checkpoint(tmp_path_factory.mktemp("llama"), "llama")


@pytest.fixture(scope="module")
def classifier(checkpoint: Path) -> EmbeddingClassifier:
    return trained(router(checkpoint))


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "qwen2", "phi3"])
def test_it_learns_which_words_belong_to_which_label(tmp_path: Path, architecture: Architecture) -> None:
    learned = trained(router(make_tiny_checkpoint(tmp_path, architecture)))
    unseen = texts(60, seed=3)
    assert chosen(learned.outputs([one.text for one in unseen])) == [one.label for one in unseen]


def test_the_registry_knows_it() -> None:
    assert classifier_class("embedding") is EmbeddingClassifier
    assert EmbeddingClassifier.kind == "embedding"


def test_a_text_gets_the_same_outputs_alone_and_among_longer_and_shorter_ones(classifier: EmbeddingClassifier) -> None:
    asked = [*(one.text for one in texts(20, seed=4)), *STRANGE]
    together = classifier.outputs(asked)
    alone = [classifier.outputs([one]) for one in asked]
    for name in ("logits", "features"):
        expected = np.concatenate([getattr(one, name) for one in alone])
        np.testing.assert_allclose(getattr(together, name), expected, atol=1e-5, rtol=1e-5)


def test_outputs_of_no_texts_are_empty(classifier: EmbeddingClassifier) -> None:
    nothing = classifier.outputs([])
    assert (nothing.logits.shape, nothing.features.shape) == ((0, 3), (0, 16))
    assert nothing.logits.dtype == nothing.features.dtype == np.float64


def test_any_string_gets_finite_outputs(classifier: EmbeddingClassifier) -> None:
    found = classifier.outputs(STRANGE)
    assert np.isfinite(found.logits).all()
    assert np.isfinite(found.features).all()


def test_the_features_are_the_plain_mean_when_there_is_nothing_else(checkpoint: Path) -> None:
    """Without hidden sizes the features are standardised mean embeddings, so that a straight line leads to them."""
    learned = trained(router(checkpoint, hidden_sizes=()))
    model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint)
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    matrix = model.get_input_embeddings().weight.detach().double().numpy()
    asked = [one.text for one in texts(30, seed=5)]
    means = np.stack([matrix[tokenizer.encode(one, add_special_tokens=False)].mean(axis=0) for one in asked])
    features = learned.outputs(asked).features
    for column in range(matrix.shape[1]):
        slope, intercept = np.polyfit(means[:, column], features[:, column], 1)
        assert slope > 0
        np.testing.assert_allclose(slope * means[:, column] + intercept, features[:, column], atol=1e-4)


def test_tokens_beyond_the_limit_are_not_read(checkpoint: Path) -> None:
    learned = trained(router(checkpoint, max_tokens=8))
    outputs = learned.outputs(
        [" law" * 8, " law" * 8 + " drug" * 100, " law" * 8 + " drug" * 20_000, " law" * 7 + " drug"]
    )
    assert np.array_equal(outputs.logits[0], outputs.logits[1])
    assert np.array_equal(outputs.logits[0], outputs.logits[2])
    assert not np.allclose(outputs.logits[0], outputs.logits[3])


def test_the_beginning_counts_also_of_a_tokenizer_that_cuts_on_the_left(tmp_path: Path, checkpoint: Path) -> None:
    shutil.copytree(checkpoint, tmp_path / "base")
    settings = json.loads((tmp_path / "base" / "tokenizer_config.json").read_text())
    (tmp_path / "base" / "tokenizer_config.json").write_text(json.dumps({**settings, "truncation_side": "left"}))
    learned = trained(router(tmp_path / "base", max_tokens=8))
    learned.save(tmp_path)
    for one in (learned, EmbeddingClassifier.load(tmp_path, device="cpu")):
        outputs = one.outputs([" law" * 8, " law" * 8 + " drug" * 50])
        assert np.array_equal(outputs.logits[0], outputs.logits[1])


def test_a_token_without_an_embedding_is_left_out(tmp_path: Path, checkpoint: Path) -> None:
    shutil.copytree(checkpoint, tmp_path, dirs_exist_ok=True)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    tokenizer.add_tokens(["<unheard>"])
    tokenizer.save_pretrained(tmp_path)
    outputs = trained(router(tmp_path)).outputs(["law court", "law<unheard> court", "<unheard>"])
    assert np.array_equal(outputs.logits[0], outputs.logits[1])
    assert np.isfinite(outputs.logits[2]).all()


def test_the_same_arguments_give_the_same_classifier(checkpoint: Path, classifier: EmbeddingClassifier) -> None:
    asked = [one.text for one in texts(20, seed=4)]
    again, other = trained(router(checkpoint)), trained(router(checkpoint, seed=9))
    assert np.array_equal(again.outputs(asked).logits, classifier.outputs(asked).logits)
    assert not np.array_equal(other.outputs(asked).logits, classifier.outputs(asked).logits)


def test_a_saved_classifier_needs_nothing_of_the_causal_model(tmp_path: Path, checkpoint: Path) -> None:
    shutil.copytree(checkpoint, tmp_path / "base")
    learned, asked = trained(router(tmp_path / "base", max_tokens=9)), [*STRANGE, "the law of the cell"]
    (tmp_path / "saved").mkdir()
    learned.save(tmp_path / "saved")
    shutil.rmtree(tmp_path / "base")
    loaded = EmbeddingClassifier.load(tmp_path / "saved", device="cpu")
    assert loaded.num_labels == 3
    assert np.array_equal(loaded.outputs(asked).logits, learned.outputs(asked).logits)
    assert np.array_equal(loaded.outputs(asked).features, learned.outputs(asked).features)
    (tmp_path / "again").mkdir()
    loaded.save(tmp_path / "again")
    again = EmbeddingClassifier.load(tmp_path / "again", device="cpu")
    assert np.array_equal(again.outputs(asked).logits, learned.outputs(asked).logits)


@pytest.mark.parametrize("file", ["embeddings.safetensors", "gating.json", "reading.json", "tokenizer/tokenizer.json"])
@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_a_damaged_directory_is_refused_by_the_file(
    tmp_path: Path, classifier: EmbeddingClassifier, file: str, damage: str
) -> None:
    classifier.save(tmp_path)
    path = tmp_path / file
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ModelError) as caught:
        EmbeddingClassifier.load(tmp_path, device="cpu")
    assert caught.value.where in (str(path), str(path.parent))


def test_training_json_tells_how_it_was_trained(tmp_path: Path, checkpoint: Path) -> None:
    reports: list[TrainingProgress] = []
    trained(router(checkpoint, epochs=3, patience=3), reports).save(tmp_path)
    written = json.loads((tmp_path / "training.json").read_text())
    assert written["base_model"] == str(checkpoint)
    assert [epoch["macro_f1"] for epoch in written["epochs"]] == [one.macro_f1 for one in reports]
    assert written["label_weights"] is None


def test_texts_weigh_evenly_by_label_only_when_asked(tmp_path: Path, checkpoint: Path) -> None:
    train = texts(60, seed=1)[:31] + texts(60, seed=6, labels=["code"])
    for balance in ("weighted", "none"):
        config = router(checkpoint, epochs=1).model_copy(update={"balance": balance})
        learned = EmbeddingClassifier.train(
            config, LABELS, train, texts(30, seed=2), device="cpu", report=lambda progress: None
        )
        learned.save(tmp_path)
        weights = json.loads((tmp_path / "training.json").read_text())["label_weights"]
        counts = {label: sum(one.label == label for one in train) for label in LABELS}
        expected = {label: pytest.approx(len(train) / (3 * count)) for label, count in counts.items()}
        assert weights == (expected if balance == "weighted" else None)


def test_what_cannot_be_trained_is_refused(tmp_path: Path, checkpoint: Path) -> None:
    with pytest.raises(ConfigError) as no_base:
        trained(router(None))
    assert no_base.value.where == "router.base_model"
    with pytest.raises(ModelError) as no_model:
        trained(router(tmp_path))
    assert no_model.value.where == "router.base_model"
    few, quiet = texts(30, seed=1, labels=LABELS[:2]), (lambda progress: None)
    with pytest.raises(DataError, match="biomedical"):
        EmbeddingClassifier.train(router(checkpoint), LABELS, few, few, device="cpu", report=quiet)
    with pytest.raises(DataError, match="validation"):
        EmbeddingClassifier.train(router(checkpoint), LABELS, texts(30, seed=1), [], device="cpu", report=quiet)
