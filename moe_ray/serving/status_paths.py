"""The paths of the API that only say how things stand: models, metrics, readiness, the files of the chat page."""

import time
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from moe_ray.serving.backend import Backend
from moe_ray.serving.calls import AUTO
from moe_ray.serving.metrics import HELP, Labels, exposition
from moe_ray.serving.page import PAGE_HEADERS, page_files

# Work waits and nothing has moved for so long: something is stuck.
STUCK_S = 60.0


class StatusPaths:
    """The handlers, which ask no model and no slot for work."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._created = int(time.time())

    async def models(self, _request: Request) -> Response:
        """List `auto`, then each model with what it is and whether it is loaded."""
        system, status = self._backend.system, self._backend.status
        entry = {"object": "model", "created": self._created, "owned_by": "moe_ray"}
        listed: list[dict[str, Any]] = []
        if self._backend.has_router:
            listed.append({"id": AUTO, **entry, "status": {"value": "loaded"}, "moe_ray": {"role": "router"}})
        for served in system.models:
            role = "baseline" if served.is_baseline else "expert" if served.domains else "model"
            value = "unloaded" if status is None else status.models[served.name].value
            about = {"role": role, "domains": list(served.domains)}
            listed.append(
                {
                    "id": served.name,
                    **entry,
                    "max_model_len": served.context_tokens,
                    "status": {"value": value},
                    "moe_ray": about,
                }
            )
        return JSONResponse({"object": "list", "data": listed})

    async def metrics(self, _request: Request) -> Response:
        """The counters of all ingress replicas, and the state of the slots, for Prometheus."""
        snapshot, status = await self._backend.current_status()
        gauges: dict[tuple[str, Labels], float] = {
            ("moe_ray_waiting_requests", ()): float(status.num_waiting),
            ("moe_ray_running_requests", ()): float(status.num_running),
            ("moe_ray_swaps", ()): float(status.num_swaps),
            **{
                ("moe_ray_model_waiting_requests", (("model", name),)): float(model.num_waiting)
                for name, model in status.models.items()
            },
            **{
                ("moe_ray_model_loaded", (("model", name),)): float(model.value == "loaded")
                for name, model in status.models.items()
            },
        }
        return Response(exposition(snapshot, gauges, HELP), media_type="text/plain; version=0.0.4")

    async def healthz(self, _request: Request) -> Response:
        """The process lives."""
        return JSONResponse({"status": "ok"})

    async def readyz(self, _request: Request) -> Response:
        """Calls are served: not while the server shuts down, nor while calls wait and nothing moves."""
        status = self._backend.status
        reason = (
            "the slots have not answered"
            if status is None
            else "shutting down"
            if status.closing
            else f"nothing has moved for {status.stuck_s:.0f} s, though requests wait"
            if status.stuck_s > STUCK_S
            else None
        )
        return JSONResponse({"status": reason or "ok"}, status_code=200 if reason is None else 503)

    async def page(self, request: Request) -> Response:
        """A file of the chat page."""
        content, media_type = page_files()[request.url.path]
        return Response(content, media_type=media_type, headers=PAGE_HEADERS)
