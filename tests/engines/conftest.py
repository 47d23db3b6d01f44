"""Fixtures of the engine tests: tiny checkpoints, written once per session, and short ways to ask."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(scope="package", autouse=True)
def _one_thread() -> Iterator[None]:
    """Stop torch from taking every core, and from summing in an order that depends on how many there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
