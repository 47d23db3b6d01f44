"""The endpoint engine: a model that somebody else serves behind an OpenAI-compatible API."""

from collections.abc import Sequence

from moe_ray.config.schema import ModelConfig
from moe_ray.engines.base import (
    BatchLimits,
    EngineMemory,
    GenerateRequest,
    Generation,
    Likelihood,
    LikelihoodRequest,
)
from moe_ray.engines.endpoint.client import EndpointClient
from moe_ray.engines.endpoint.dialect import find_dialect
from moe_ray.engines.endpoint.model import EndpointModel
from moe_ray.engines.endpoint.secrets import api_key
from moe_ray.engines.settings import EndpointSettings, parse_api_settings


class EndpointEngine:
    """Implements `moe_ray.engines.base.Engine`. It holds no model, takes no GPU and gives no token ids.

    Requests of one call are asked side by side, as many as `max_concurrent_requests`; batch limits do not matter.
    """

    def __init__(self, model: ModelConfig, limits: BatchLimits) -> None:
        del limits
        settings = parse_api_settings(EndpointSettings, model)
        self._client = EndpointClient(settings.base_url, settings, api_key(settings.api_key_env))
        try:
            dialect = find_dialect(self._client, model.path, model.prompt_style, settings)
        except BaseException:
            self._client.close()
            raise
        self._model = EndpointModel(self._client, dialect)

    def generate(self, requests: Sequence[GenerateRequest]) -> list[Generation]:
        """Draw a text for each request; see `EndpointModel.generate`."""
        return self._model.generate(requests)

    def loglikelihoods(self, requests: Sequence[LikelihoodRequest]) -> list[Likelihood]:
        """Measure each request's continuations; see `EndpointModel.loglikelihoods`."""
        return self._model.loglikelihoods(requests)

    def memory(self) -> EngineMemory:
        """Return that nothing is known: the model's memory is the endpoint's."""
        return EngineMemory(device="endpoint", weights_bytes=None, peak_torch_bytes=None, reserved_torch_bytes=None)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()
