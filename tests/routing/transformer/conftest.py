"""Fixtures of the transformer router's tests: routers of each architecture, and a checkpoint."""

from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

import pytest
import torch

from moe_ray.routing.transformer import TransformerClassifier
from tests.routing.transformer.tiny import described, train


@pytest.fixture(scope="package", autouse=True)
def _one_thread() -> Iterator[None]:
    """Stop torch from taking every core, and from summing in an order that depends on how many there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="package")
def trained() -> Callable[[str], TransformerClassifier]:
    """Return the trained router of an architecture."""
    return lru_cache(lambda model_type: train(described(model_type)))


@pytest.fixture(scope="package")
def router(trained: Callable[[str], TransformerClassifier]) -> TransformerClassifier:
    """A trained DistilBERT."""
    return trained("distilbert")


@pytest.fixture(scope="package")
def checkpoint(router: TransformerClassifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That DistilBERT on disk. Tests that change files must copy it."""
    directory = tmp_path_factory.mktemp("router")
    router.save(directory)
    return directory
