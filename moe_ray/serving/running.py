"""The application in the foreground: started with its models loaded, and ended with all that it started."""

import contextlib
import inspect
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import ray
from ray import serve
from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE

from moe_ray.errors import UserError
from moe_ray.execution import ray_calls
from moe_ray.serving.access import ANY_HOST
from moe_ray.serving.app import application, owner_of, secrets_of_models
from moe_ray.serving.rescue import PROXY_ENVIRONMENT
from moe_ray.serving.system import ServedSystem

READY_TIMEOUT_S = 1800.0
LOOK_EVERY_S = 0.5
CLOSE_PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A system that is being served.

    `failed` says why models could not be loaded, by name. `close` refuses new calls, waits for those that run at most
    the given seconds, ends all models, and says whether every call ended by itself.
    """

    system: ServedSystem
    url: str
    failed: dict[str, str]
    close: Callable[[float], bool]


@contextlib.contextmanager
def running(system: ServedSystem, tell: Callable[[str], object], *, ray_ends: bool) -> Iterator[Served]:
    """Serve `system` until the context ends, on the Ray that is connected. Models without rivals are loaded.

    With `ray_ends` Ray is shut down afterwards, and Serve's own processes with it; else they are ended here. Raises
    `UserError` where Serve runs already: it would keep its port, and may serve others.
    """
    its = system.serving
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    _require_no_serve()
    tell(f"Loading models on {len(system.slots)} slot(s)")
    owner: Any = owner_of(system, secrets_of_models(system))
    try:
        ray_calls.call(ray.get, owner.start.remote())
        http = {"host": its.host, "port": its.port}
        ray_calls.call_within(
            READY_TIMEOUT_S, serve.start, proxy_location="HeadOnly", http_options=http, **_controller_options()
        )
        ray_calls.call_within(
            READY_TIMEOUT_S, serve.run, application(system), name=system.name, route_prefix="/", blocking=False
        )
        yield Served(
            system=system,
            url=f"http://{_shown(its.host)}:{its.port}",
            failed=_await_ready(owner),
            close=lambda timeout_s: _close(owner, timeout_s),
        )
    finally:
        ray_calls.call_at_end(lambda: ray.get(owner.close.remote(0.0)), patience_s=CLOSE_PATIENCE_S)
        # An ingress writes what it has recorded when Serve ends it; with Ray it would be killed.
        if not ray_ends or its.record_dir is not None:
            ray_calls.call_at_end(serve.shutdown, patience_s=CLOSE_PATIENCE_S)
        ray_calls.call_at_end(ray.kill, owner)


def _require_no_serve() -> None:
    with contextlib.suppress(ValueError):
        ray_calls.call(ray.get_actor, SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
        raise UserError(
            "Ray Serve runs on this cluster already",
            where="runtime.address or RAY_ADDRESS",
            remedy="deploy beside what it serves: serve deploy FILE, made from deployments/demo.yaml",
        )


def _controller_options() -> dict[str, Any]:
    """The environment of Serve's controller, which its proxies inherit. Older versions of Ray cannot set it."""
    if "controller_options" not in inspect.signature(serve.start).parameters:
        return {}
    return {"controller_options": {"runtime_env": {"env_vars": dict(PROXY_ENVIRONMENT)}}}


def _close(owner: Any, timeout_s: float) -> bool:
    drained: Any = ray_calls.call_within(timeout_s + CLOSE_PATIENCE_S, ray.get, owner.close.remote(timeout_s))
    return bool(drained)


def _shown(host: str) -> str:
    if host in ANY_HOST:
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


def _await_ready(owner: Any) -> dict[str, str]:
    ref, deadline = owner.ready.remote(), time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline:
        done, _ = ray_calls.call(ray.wait, [ref], timeout=LOOK_EVERY_S)
        if done:
            failed: Any = ray_calls.call(ray.get, ref)
            return dict(failed)
    raise UserError("the models were not ready in time", where="serving", remedy="see the messages of the models")
