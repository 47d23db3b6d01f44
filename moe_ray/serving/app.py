"""The Ray Serve application: one deployment, which is HTTP ingress and router, before the slots' owner."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

from ray import serve

from moe_ray.execution.cluster import actor_class
from moe_ray.fingerprint import fingerprint
from moe_ray.serving.access import AccessGate, read_keys
from moe_ray.serving.api import make_api
from moe_ray.serving.backend import Backend
from moe_ray.serving.outcome import log_requests
from moe_ray.serving.querying import QueryRouter
from moe_ray.serving.recording import Recorder
from moe_ray.serving.slots import SlotOwner
from moe_ray.serving.system import ServedSystem

NAMESPACE = "moe_ray"
# Beyond what the app admits: what it is to refuse itself must reach it.
HEADROOM = 64
OWNER_CALLS = 100_000
SHUTDOWN_TIMEOUT_S = 5.0
# Ray gives this resource to the head node alone.
ON_HEAD: Mapping[str, float] = {"node:__internal_head__": 0.001}


def owner_of(system: ServedSystem, environments: Mapping[str, Mapping[str, str]]) -> Any:
    """Return the actor that owns the system's slots; it is made where there is none, and outlives its maker.

    It runs on the head node, as Serve's controller does: the loss of any other node leaves it alone.
    Another system of the same name (a changed config that is deployed again) has an owner of its own.
    """
    options = actor_class(SlotOwner).options(
        name=f"slots-of-{system.name}-{fingerprint(repr(system))[:12]}",
        namespace=NAMESPACE,
        get_if_exists=True,
        lifetime="detached",
        num_cpus=0,
        resources=dict(ON_HEAD),
        max_concurrency=OWNER_CALLS,
    )
    return options.remote(system, environments)


@serve.ingress()
class Ingress:
    """One HTTP process: gate, admission, router, and the way to the slots."""

    def __init__(self, system: ServedSystem) -> None:
        self._system = system

    def __serve_build_asgi_app__(self) -> Any:
        system = self._system
        name = serve.get_replica_context().replica_tag
        owner = owner_of(system, secrets_of_models(system))
        router = _query_router(system)
        backend = Backend(system, owner, router, name)
        keys = () if system.serving.api_keys_file is None else read_keys(system.serving.api_keys_file)
        record_dir = system.serving.record_dir
        recorder = None if record_dir is None else Recorder(record_dir, name)
        log_requests()
        gate = AccessGate(keys, (system.serving.host, *system.serving.allowed_hosts))

        @contextlib.asynccontextmanager
        async def lifespan(_app: Any) -> AsyncIterator[None]:
            await owner.start.remote()
            if router is not None:
                await router.warm_up()
            renewing = asyncio.get_running_loop().create_task(backend.renew_forever())
            try:
                yield
            finally:
                renewing.cancel()
                if recorder is not None:
                    await asyncio.to_thread(recorder.close)

        return make_api(backend, gate, lifespan, recorder)


def secrets_of_models(system: ServedSystem) -> dict[str, dict[str, str]]:
    """The environment variables that each model's engine names, where this process has them."""
    from moe_ray.engines.settings import secrets_of

    return {served.name: dict(secrets_of(served.model)) for served in system.models}


def _query_router(system: ServedSystem) -> QueryRouter | None:
    if system.router_dir is None:
        return None
    from moe_ray.routing.router import Router

    return QueryRouter(Router.load(system.router_dir), num_threads=system.runtime.cpu_threads)


def application(system: ServedSystem) -> serve.Application:
    """Return the application to give to `serve.run`."""
    serving = system.serving
    admitted = system.max_calls + HEADROOM
    options: dict[str, Any] = {
        "name": "ingress",
        "max_ongoing_requests": admitted,
        "max_queued_requests": admitted,
        "ray_actor_options": {"num_cpus": 0},
        "graceful_shutdown_timeout_s": SHUTDOWN_TIMEOUT_S,
        "graceful_shutdown_wait_loop_s": 0.1,
        "logging_config": {"enable_access_log": False, "log_level": "WARNING"},
    }
    if serving.autoscaling is None:
        options["num_replicas"] = serving.ingress_replicas
    else:
        options["autoscaling_config"] = serving.autoscaling
    deployment: Any = serve.deployment(Ingress)
    app: serve.Application = deployment.options(**options).bind(system)
    return app
