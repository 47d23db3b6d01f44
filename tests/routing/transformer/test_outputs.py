"""What a trained router says of texts: of any text, in any company, in the order given."""

import itertools
import random
from collections.abc import Callable

import numpy as np
import pytest

from moe_ray.routing.transformer import TransformerClassifier, classifier
from tests.routing.transformer.tiny import ARCHITECTURES, TEST

ODD_TEXTS = [
    "",
    "   \n\t ",
    "a" * 100_000,
    " " * 100_000,
    "contract court " * 6_667,
    "договор и суд",
    "患者的剂量是多少",
    "كم جرعة المريض",
    "\x00\x01\x1b[0m\x7f",
    "\ud800 half a pair",
    "👩‍⚕️💊",
    "dose",
]


def test_any_text_is_judged_as_it_would_be_alone(router: TransformerClassifier) -> None:
    together = router.outputs(ODD_TEXTS)
    alone = np.concatenate([router.outputs([text]).logits for text in ODD_TEXTS])
    assert np.isfinite(together.logits).all()
    assert np.isfinite(together.features).all()
    assert together.logits == pytest.approx(alone, abs=1e-5)


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_the_company_of_longer_texts_changes_no_verdict(
    model_type: str, trained: Callable[[str], TransformerClassifier]
) -> None:
    model = trained(model_type)
    texts = [text.text[: 5 * place] for place, text in enumerate(TEST)]
    together, alone = model.outputs(texts).logits, np.concatenate([model.outputs([text]).logits for text in texts])
    assert together == pytest.approx(alone, abs=1e-5)


def test_results_come_in_the_order_of_the_texts_across_windows(
    router: TransformerClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [text.text[: 60 - place] for place, text in enumerate(TEST)]
    whole = router.outputs(texts)
    monkeypatch.setattr(classifier, "WINDOW_TEXTS", 7)
    monkeypatch.setattr(classifier, "BATCH_ROWS", 3)
    parts = router.outputs(texts)
    assert parts.logits == pytest.approx(whole.logits, abs=1e-5)
    assert parts.features == pytest.approx(whole.features, abs=1e-5)


def test_no_texts_give_no_rows_of_the_right_width(router: TransformerClassifier) -> None:
    outputs = router.outputs([])
    assert outputs.logits.shape == (0, 3)
    assert outputs.features.shape == (0, 32)


def test_what_stands_after_the_last_token_read_does_not_count(router: TransformerClassifier) -> None:
    beginning = "dose of insulin for the patient " * 20
    longer = router.outputs([beginning + "contract court lease " * 500]).logits
    assert longer == pytest.approx(router.outputs([beginning]).logits, abs=1e-5)


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_features_are_what_the_last_layer_makes_the_logits_of(
    model_type: str, trained: Callable[[str], TransformerClassifier]
) -> None:
    model = trained(model_type)
    outputs = model.outputs([text.text for text in TEST])
    ones = np.ones((len(TEST), 1))
    _, residuals, rank, _ = np.linalg.lstsq(np.hstack([outputs.features, ones]), outputs.logits, rcond=None)
    assert rank <= 33 < len(TEST)
    assert float(np.sum(residuals)) < 1e-6


@pytest.mark.parametrize("max_tokens", [1, 64, 300, 10_000])
def test_a_batch_holds_no_more_than_its_rows_and_tokens_allow_and_none_is_left_out(max_tokens: int) -> None:
    lengths = [random.Random(at).randint(1, 90) for at in range(200)]
    order = sorted(range(200), key=lengths.__getitem__)
    found = list(classifier.batches(order, lengths, max_tokens))
    assert [place for batch in found for place in batch] == order
    for batch, following in itertools.pairwise([*found, []]):
        longest = max(lengths[place] for place in batch)
        assert len(batch) == 1 or (len(batch) <= classifier.BATCH_ROWS and len(batch) * longest <= max_tokens)
        grown = len(batch) + 1
        assert not following or grown > classifier.BATCH_ROWS or grown * lengths[following[0]] > max_tokens
