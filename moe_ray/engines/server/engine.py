"""The server engine: starts a model server, uses its OpenAI-compatible API, and stops it."""

import os
import socket
import time
from pathlib import Path

import httpx2

from moe_ray.config.paths import cache_directory
from moe_ray.config.schema import ModelConfig
from moe_ray.engines.api_settings import ServerSettings, parse_api_settings
from moe_ray.engines.base import (
    BatchLimits,
    EngineMemory,
)
from moe_ray.engines.endpoint.client import EndpointClient
from moe_ray.engines.endpoint.dialect import Dialect, find_dialect
from moe_ray.engines.endpoint.engine import ApiEngine
from moe_ray.engines.server.process import ServerProcess, filled_in
from moe_ray.errors import EngineLostError, ModelError

HOST = "127.0.0.1"
HEALTH_POLL_S = 0.25
HEALTH_TIMEOUT_S = 5.0
# A connection breaks a moment before the exit of its server is reported.
EXIT_PATIENCE_S = 0.1


class ServerEngine(ApiEngine):
    """Implements `moe_ray.engines.base.StreamingEngine`. The server sees the GPUs that the replica sees.

    A server that ends before it is ready is a `ModelError`; one that ends later loses the replica, and the scheduler
    starts another. Both errors quote the end of its log.
    """

    def __init__(self, model: ModelConfig, limits: BatchLimits) -> None:
        del limits
        self._config = model
        self._settings = parse_api_settings(ServerSettings, model)
        key = self._settings.api_key()
        port = _free_port()
        self._client = EndpointClient(
            f"http://{HOST}:{port}/v1", self._settings, key, require_alive=self._require_alive, is_local=True
        )
        self._process = self._start(port)
        try:
            self._await_health(port)
            super().__init__(self._client, self._find_dialect())
        except BaseException:
            self.close()
            raise

    def memory(self) -> EngineMemory:
        """Return the server's processes. The share of the weights in their memory is unknown."""
        return EngineMemory(
            device="cuda" if _num_gpus() else "cpu",
            weights_bytes=None,
            peak_torch_bytes=None,
            reserved_torch_bytes=None,
            process_ids=self._process.process_ids(),
        )

    def close(self) -> None:
        """End the open streams, and stop the server with all its children."""
        self._client.close()
        self._process.stop()

    def _start(self, port: int) -> ServerProcess:
        model, settings = self._config, self._settings
        values = {
            "path": model.path,
            "port": str(port),
            "host": HOST,
            "model": settings.model or model.path,
            "dtype": model.dtype,
            "revision": model.revision or "main",
            "tokenizer": model.tokenizer or model.path,
            "num_gpus": str(_num_gpus()),
        }
        folder = settings.log_dir or cache_directory() / "server-logs"
        log_path = folder.expanduser() / f"{Path(model.path).name}-{time.strftime('%Y%m%d-%H%M%S')}-{port}.log"
        return ServerProcess(filled_in(settings.command, values), log_path, settings.env, settings.stop_timeout_s)

    def _await_health(self, port: int) -> None:
        url = f"http://{HOST}:{port}{self._settings.health}"
        deadline = time.monotonic() + self._settings.start_timeout_s
        with httpx2.Client(trust_env=False, timeout=HEALTH_TIMEOUT_S) as http:
            while not _is_healthy(http, url):
                if (status := self._process.exit_status()) is not None:
                    raise self._unfit(f"the server ended (exit status {status}) before it was ready")
                if time.monotonic() > deadline:
                    within = f"within {self._settings.start_timeout_s:g} s (start_timeout_s)"
                    raise self._unfit(f"the server did not answer {self._settings.health} {within}")
                time.sleep(HEALTH_POLL_S)

    def _find_dialect(self) -> Dialect:
        """Ask for the configured name; else for the path and, where that is refused, for the only model there."""
        settings, model = self._settings, self._config
        try:
            return find_dialect(
                self._client,
                settings.model or model.path,
                model.prompt_style,
                settings,
                or_the_only_one=settings.model is None,
            )
        except EngineLostError as error:
            raise self._unfit(str(error)) from error

    def _require_alive(self) -> None:
        if (status := self._process.exit_status(EXIT_PATIENCE_S)) is not None:
            raise EngineLostError(f"the server ended (exit status {status}); {self._process.log_tail()}")

    def _unfit(self, what: str) -> ModelError:
        return ModelError(
            f"{what}; {self._process.log_tail()}",
            where=f"model {self._config.path}",
            remedy="read the log, and try engine_settings.command by hand",
        )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _is_healthy(http: httpx2.Client, url: str) -> bool:
    try:
        return http.get(url).is_success
    except httpx2.TransportError:
        return False


def _num_gpus() -> int:
    """GPUs that this process was given; a replica's are always named."""
    return len([gpu for gpu in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu.strip()])
