"""Fixtures of the engine tests: one thread for torch, no waiting between the retries of the HTTP client."""

from collections.abc import Iterator

import pytest
import torch

from moe_ray.engines.endpoint import client


@pytest.fixture(scope="package", autouse=True)
def _one_thread() -> Iterator[None]:
    """Stop torch from taking every core, and from summing in an order that depends on how many there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the backoff out of the tests' time."""
    monkeypatch.setattr(client, "FIRST_DELAY_S", 0.001)
    monkeypatch.setattr(client, "LONGEST_DELAY_S", 0.002)
