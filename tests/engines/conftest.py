"""Fixtures of the engine tests: tiny checkpoints, written once per session, and short ways to ask."""

from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

import pytest
import torch

from tests.support.tiny_models import Architecture, make_tiny_checkpoint


@pytest.fixture(scope="package", autouse=True)
def _one_thread() -> Iterator[None]:
    """Stop torch from taking every core, and from summing in an order that depends on how many there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Architecture], Path]:
    """Return the session's checkpoint of an architecture. Tests that change files must copy it."""

    @lru_cache
    def made(architecture: Architecture) -> Path:
        return make_tiny_checkpoint(tmp_path_factory.mktemp(architecture), architecture)

    return made
