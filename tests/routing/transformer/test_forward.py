"""The leaner way to run a model on a CPU, held against the model as transformers runs it."""

import platform
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import nn

from moe_ray.routing.transformer import forward as lean
from moe_ray.routing.transformer.forward import (
    FIRST_TOKEN_LAYERS,
    EagerForward,
    FirstTokenLayer,
    PackedLinear,
    lean_copy,
    make_forward,
)
from moe_ray.routing.transformer.tokens import pad

SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
SIZES: dict[str, dict[str, Any]] = {
    "albert": {**SHAPE, "embedding_size": 16},
    "bert": SHAPE,
    "camembert": SHAPE,
    "deberta-v2": SHAPE,
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64},
    "electra": {**SHAPE, "embedding_size": 16},
    "modernbert": SHAPE,
    "mpnet": SHAPE,
    "roberta": SHAPE,
    "xlm-roberta": SHAPE,
}
LENGTHS = {"alone": [9], "of one length": [7, 7, 7], "padded": [1, 30, 2, 17, 30], "one token": [1]}

pytestmark = pytest.mark.skipif(
    platform.machine().lower() not in ("x86_64", "amd64"), reason="weights are packed on x86 CPUs alone"
)


def make_model(model_type: str, attention: str | None = None) -> Any:
    """A model with random weights so large that logits of random texts differ by whole units."""
    torch.manual_seed(3)
    given = {**SIZES[model_type], "initializer_range": 0.3, "vocab_size": 200, "num_labels": 4, "pad_token_id": 0}
    config = transformers.AutoConfig.for_model(model_type, **given)
    config._attn_implementation = attention
    return transformers.AutoModelForSequenceClassification.from_config(config).eval()


def make_batch(lengths: list[int]) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(0)
    return pad([rng.integers(5, 200, length).tolist() for length in lengths], 0)


def first_token_layers(model: Any) -> list[nn.Module]:
    return [one for one in model.modules() if isinstance(one, FirstTokenLayer)]


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("model_type", SIZES)
def test_logits_and_features_are_the_plain_models_but_for_rounding(model_type: str, lengths: list[int]) -> None:
    model, batch = make_model(model_type), make_batch(lengths)
    plain, fast = EagerForward(model)(batch), make_forward(model)(batch)
    assert fast.logits == pytest.approx(plain.logits, abs=2e-5)
    assert fast.features == pytest.approx(plain.features, abs=2e-5)
    assert len(lengths) == 1 or np.ptp(plain.logits, axis=0).max() > 0.1


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("model_type", FIRST_TOKEN_LAYERS)
def test_padding_is_masked_in_the_last_layer_whatever_the_attention(model_type: str, attention: str) -> None:
    model = make_model(model_type, attention)
    batch = make_batch([4, 25])
    alone = {name: part[:1, :4] for name, part in batch.items()}
    run = make_forward(model)
    assert run(batch).logits[:1] == pytest.approx(run(alone).logits, abs=2e-5)
    assert run(batch).logits == pytest.approx(EagerForward(model)(batch).logits, abs=2e-5)


@pytest.mark.parametrize("model_type", FIRST_TOKEN_LAYERS)
def test_the_last_layer_alone_is_done_for_the_first_token_alone(model_type: str) -> None:
    copied = lean_copy(make_model(model_type), torch.float32)
    widths: list[int] = []
    (last,) = first_token_layers(copied)
    last.register_forward_hook(lambda _, inputs, given: widths.extend((inputs[0].shape[1], given.shape[1])))
    copied(**make_batch([12, 12]))
    assert widths == [12, 1]


@pytest.mark.parametrize("model_type", sorted(SIZES.keys() - FIRST_TOKEN_LAYERS.keys()))
def test_heads_that_may_read_other_tokens_keep_the_whole_last_layer(model_type: str) -> None:
    copied = lean_copy(make_model(model_type), torch.float32)
    assert not first_token_layers(copied)
    assert any(isinstance(one, PackedLinear) for one in copied.modules())


def test_the_model_itself_stays_as_it_is_and_shares_its_weights_with_the_copy() -> None:
    model = make_model("distilbert")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    layers = [type(one) for one in model.modules()]
    copied = lean_copy(model, torch.float32)
    assert [type(one) for one in model.modules()] == layers
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert {one.data_ptr() for one in copied.parameters()} == {one.data_ptr() for one in model.parameters()}


@pytest.mark.parametrize("has_bias", [True, False])
def test_a_packed_layer_multiplies_as_a_plain_one_of_any_number_of_rows(has_bias: bool) -> None:
    plain = nn.Linear(48, 80, bias=has_bias)
    packed = PackedLinear(plain, torch.float32)
    with torch.inference_mode():
        for shape in ((1, 48), (3, 1, 48), (2, 40, 48)):
            given = torch.randn(*shape)
            assert packed(given).numpy() == pytest.approx(plain(given).numpy(), abs=1e-5)


def test_a_packed_layer_takes_every_other_row_of_a_larger_array() -> None:
    plain = nn.Linear(48, 80)
    rows = torch.randn(6, 9, 48)[::2, :1]
    assert not rows.is_contiguous()
    with torch.inference_mode():
        packed = PackedLinear(plain, torch.float32)(rows)
    assert packed.numpy() == pytest.approx(plain(rows).detach().numpy(), abs=1e-5)


@pytest.mark.skipif(not lean._multiplies_packed(torch.bfloat16), reason="this CPU does not multiply bfloat16")
def test_bfloat16_moves_logits_by_a_few_hundredths_of_their_spread_at_most() -> None:
    model, batch = make_model("distilbert"), make_batch([30] * 40)
    plain, fast = EagerForward(model)(batch), make_forward(model, torch.bfloat16)(batch)
    assert fast.logits == pytest.approx(plain.logits, abs=0.03 * np.ptp(plain.logits))
    assert not np.array_equal(fast.logits, make_forward(model)(batch).logits)


@pytest.mark.parametrize("error", [AttributeError("no such operator"), RuntimeError("needs the cpu support avx512")])
def test_a_model_runs_as_it_is_where_the_operators_are_missing_or_refuse(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr(lean, "PackedLinear", refuse)
    lean._multiplies_packed.cache_clear()
    model, batch = make_model("distilbert"), make_batch([5, 9])
    try:
        given = make_forward(model, torch.bfloat16)(batch)
    finally:
        lean._multiplies_packed.cache_clear()
    assert np.array_equal(given.logits, EagerForward(model)(batch).logits)


@pytest.mark.parametrize("model_type", ["distilbert", "bert"])
def test_models_that_are_not_float32_run_as_they_are(model_type: str) -> None:
    model = make_model(model_type).bfloat16()
    batch = make_batch([5, 9])
    assert np.array_equal(make_forward(model)(batch).logits, EagerForward(model)(batch).logits)


def test_every_first_token_layer_is_of_an_encoder_that_is_tested_here() -> None:
    assert set(lean.FIRST_TOKEN_LAYERS) <= SIZES.keys()
