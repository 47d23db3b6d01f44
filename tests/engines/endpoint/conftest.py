"""Fixtures of the endpoint tests: a fake API over real HTTP, and engines that are connected to it."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from moe_ray.config.schema import ModelConfig
from moe_ray.engines.endpoint.engine import EndpointEngine
from tests.engines.asking import ROOMY
from tests.engines.openai_api import Api, serving

Connect = Callable[..., EndpointEngine]


@pytest.fixture
def api() -> Iterator[Api]:
    with serving(Api()) as running:
        yield running


@pytest.fixture
def connect(api: Api) -> Iterator[Connect]:
    made: list[EndpointEngine] = []

    def connected(*, path: str = "tiny", style: str = "completion", **settings: Any) -> EndpointEngine:
        settings = {"base_url": api.base_url, "max_retries": 3, **settings}
        model = ModelConfig(path=path, engine="endpoint", prompt_style=style, engine_settings=settings)
        made.append(EndpointEngine(model, ROOMY))
        return made[-1]

    yield connected
    for engine in made:
        engine.close()
