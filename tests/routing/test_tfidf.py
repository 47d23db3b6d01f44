"""The TF-IDF classifier against a plain scikit-learn pipeline, and its files."""

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.pipeline import make_pipeline, make_union

from moe_ray.config.schema import RouterConfig
from moe_ray.errors import DataError, ModelError
from moe_ray.gating.calibration import softmax
from moe_ray.progress import TrainingProgress
from moe_ray.routing import tfidf
from moe_ray.routing.tfidf import TfidfClassifier
from moe_ray.texts.labelled import LabelledText
from tests.routing.queries import DOMAINS, nothing_reported, queries

ODD_TEXTS = ["", " ", "x", "\N{HANGUL SYLLABLE HAN}\N{HANGUL SYLLABLE GUG}", "word " * 20_000, "a" * 65_536]


def trained(labels: Sequence[str] = DOMAINS, num_each: int = 40, config: RouterConfig | None = None) -> TfidfClassifier:
    return TfidfClassifier.train(
        config or RouterConfig(kind="tfidf"),
        labels,
        queries(labels, num_each),
        queries(labels, 20, first=1000),
        device="cpu",
        report=nothing_reported,
    )


@pytest.mark.parametrize("labels", [DOMAINS[:2], DOMAINS])
@pytest.mark.parametrize("balance", ["weighted", "none"])
def test_probabilities_are_those_of_a_scikit_learn_pipeline(
    labels: tuple[str, ...], balance: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tfidf, "INVERSE_STRENGTHS", (1.0,))
    train = [text for at, text in enumerate(queries(labels, 40)) if text.label != labels[0] or at < 30]
    texts, validation = [text.text for text in train], queries(labels, 20, first=1000)
    config = RouterConfig.model_validate({"kind": "tfidf", "balance": balance})
    classifier = TfidfClassifier.train(config, labels, train, validation, device="cpu", report=nothing_reported)
    assert len(train) < tfidf.FEW_TEXTS
    counts = [TfidfVectorizer(sublinear_tf=True, **analyzer) for analyzer in tfidf.ANALYZERS]
    model = LogisticRegression(C=1.0, max_iter=1000, class_weight="balanced" if balance == "weighted" else None)
    pipeline = make_pipeline(make_union(*counts), model).fit(texts, [labels.index(text.label) for text in train])
    asked = [text.text for text in validation]
    found = softmax(classifier.outputs(asked).logits)
    assert found == pytest.approx(pipeline.predict_proba(asked), abs=1e-9)


def test_it_learns_made_up_domains_and_the_order_of_labels_is_kept() -> None:
    asked = queries(DOMAINS, 50, first=5000)
    chosen = trained().outputs([text.text for text in asked]).logits.argmax(axis=1)
    right = [DOMAINS[place] == text.label for place, text in zip(chosen, asked, strict=True)]
    assert np.mean(right) > 0.95


def test_a_saved_classifier_comes_back_to_the_last_bit_and_texts_do_not_touch_each_other(tmp_path: Path) -> None:
    classifier = trained()
    classifier.save(tmp_path)
    asked = [text.text for text in queries(DOMAINS, 30, first=5000)] + ODD_TEXTS
    loaded = TfidfClassifier.load(tmp_path, device="cpu")
    assert (loaded.outputs(asked).logits == classifier.outputs(asked).logits).all()
    alone = np.concatenate([loaded.outputs([text]).logits for text in asked])
    assert (loaded.outputs(asked).logits == alone).all()
    assert loaded.num_labels == 3


def test_the_same_texts_give_the_same_weights() -> None:
    asked = [text.text for text in queries(DOMAINS, 10, first=5000)]
    assert (trained().outputs(asked).logits == trained().outputs(asked).logits).all()


def test_odd_texts_have_finite_logits_and_no_texts_have_none() -> None:
    classifier = trained()
    assert np.isfinite(classifier.outputs(ODD_TEXTS).logits).all()
    assert classifier.outputs([]).logits.shape == (0, 3)


def test_words_beyond_the_limit_are_not_read() -> None:
    config = RouterConfig.model_validate({"kind": "tfidf", "training": {"max_tokens": 8}})
    classifier = trained(config=config)
    start = "what is the clause of a contract dose"
    assert (classifier.outputs([start, start + " tumour"]).logits[0] == classifier.outputs([start]).logits).all()
    first, second = classifier.outputs([start, start + " tumour"]).logits
    assert (first == second).all()


def test_weights_for_rare_labels_raise_how_often_they_are_chosen() -> None:
    train = queries(DOMAINS, 100)[:-1]
    rare = [text for at, text in enumerate(train) if text.label != "code" or at < 12]
    hard = [LabelledText(id=str(at), text=f"what how list contract dose {at}", label="code") for at in range(20)]
    shares = []
    for balance in ("none", "weighted"):
        config = RouterConfig.model_validate({"kind": "tfidf", "balance": balance})
        model = TfidfClassifier.train(config, DOMAINS, rare, rare, device="cpu", report=nothing_reported)
        shares.append(softmax(model.outputs([text.text for text in hard]).logits)[:, 2].mean())
    assert shares[1] > shares[0]


def test_of_the_penalties_the_first_that_fits_the_validation_texts_best_is_kept() -> None:
    seen: list[TrainingProgress] = []
    train = queries(DOMAINS, 12)
    validation = queries(DOMAINS, 40, first=1000)
    classifier = TfidfClassifier.train(
        RouterConfig(kind="tfidf"), DOMAINS, train, validation, device="cpu", report=seen.append
    )
    assert [item.step for item in seen] == list(range(1, len(tfidf.INVERSE_STRENGTHS) + 1))
    chosen = classifier.outputs([text.text for text in validation]).logits.argmax(axis=1)
    found = f1_score([DOMAINS.index(text.label) for text in validation], chosen, average="macro")
    assert found == pytest.approx(max(item.macro_f1 or 0.0 for item in seen))


def test_texts_without_words_are_refused() -> None:
    texts = [LabelledText(id=str(at), text="?", label=DOMAINS[at % 3]) for at in range(6)]
    with pytest.raises(DataError, match="nothing can be learned from the 6 training texts"):
        TfidfClassifier.train(RouterConfig(kind="tfidf"), DOMAINS, texts, texts, device="cpu", report=nothing_reported)


@pytest.mark.parametrize("file", [tfidf.TERMS_FILE, tfidf.WEIGHTS_FILE])
@pytest.mark.parametrize("damage", ["missing", "empty", "cut"])
def test_a_missing_or_damaged_file_is_named(tmp_path: Path, file: str, damage: str) -> None:
    trained(num_each=5).save(tmp_path)
    content = (tmp_path / file).read_bytes()
    (tmp_path / file).unlink()
    if damage != "missing":
        (tmp_path / file).write_bytes(b"" if damage == "empty" else content[: len(content) // 2])
    with pytest.raises(ModelError) as caught:
        TfidfClassifier.load(tmp_path, device="cpu")
    assert caught.value.where == str(tmp_path / file)


def test_its_files_hold_no_pickle(tmp_path: Path) -> None:
    trained(num_each=5).save(tmp_path)
    with zipfile.ZipFile(tmp_path / tfidf.WEIGHTS_FILE) as archive:
        assert all(b"'|O'" not in archive.read(name)[:128] for name in archive.namelist())
