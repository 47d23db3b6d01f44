"""The router inside an ingress: a thread that judges the queries that wait together, and remembers what it said."""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from moe_ray.device import use_threads
from moe_ray.routing.router import Route, Router
from moe_ray.serving.calls import AUTO, RoutingVerdict

MAX_BATCH = 32
MAX_REMEMBERED = 4096


def verdict_of(
    route: Route, experts: Mapping[str, str], fallback: str | None, *, router_ms: float
) -> RoutingVerdict | None:
    """Return which model answers: the domain's expert; `fallback` for an out-of-domain query, or a missing expert.

    `experts` maps domains to models. None where no model answers the domain.
    """
    expert = experts.get(route.domain)
    falls_back = fallback is not None and (route.is_out_of_domain or expert is None)
    chosen = fallback if falls_back or expert is None else expert
    if chosen is None:
        return None
    return RoutingVerdict(
        requested=AUTO,
        expert=chosen,
        probabilities=dict(route.probabilities),
        confidence=max(route.probabilities.values()),
        out_of_domain=route.is_out_of_domain,
        fell_back=falls_back,
        router_ms=router_ms,
    )


class QueryRouter:
    """Routes queries without blocking the event loop, on `num_threads` cores.

    Queries that come while the router reads others are read together afterwards; none waits for company. `remembers`
    bounds the verdicts that are kept, by a hash of their texts, which may be long.
    """

    def __init__(self, router: Router, *, num_threads: int, remembers: int = MAX_REMEMBERED) -> None:
        self.router = router
        self._remembers = remembers
        self._known: OrderedDict[bytes, Route] = OrderedDict()
        self._waiting: dict[str, asyncio.Future[Route]] = {}
        self._is_reading = False
        self._worker = ThreadPoolExecutor(1, "router", initializer=use_threads, initargs=(num_threads,))

    async def route(self, query: str) -> Route:
        """Say where `query` goes; the same as `Router.route` of it alone."""
        key = _key(query)
        if key in self._known:
            self._known.move_to_end(key)
            return self._known[key]
        if query not in self._waiting:
            self._waiting[query] = asyncio.get_running_loop().create_future()
        future = self._waiting[query]
        if not self._is_reading:
            self._is_reading = True
            self._reader = asyncio.get_running_loop().create_task(self._read())
        return await asyncio.shield(future)

    async def warm_up(self) -> None:
        """Load what the first query would wait for."""
        await asyncio.get_running_loop().run_in_executor(self._worker, self._routes, ["a text"])

    async def _read(self) -> None:
        """Judge what waits, until nothing does."""
        loop = asyncio.get_running_loop()
        try:
            while self._waiting:
                batch = list(self._waiting)[:MAX_BATCH]
                futures = [self._waiting.pop(query) for query in batch]
                try:
                    routes = await loop.run_in_executor(self._worker, self._routes, batch)
                except Exception as error:  # noqa: BLE001 - it becomes the error of those who asked
                    for future in futures:
                        future.set_exception(error)
                    continue
                for query, future, route in zip(batch, futures, routes, strict=True):
                    self._remember(query, route)
                    future.set_result(route)
        finally:
            self._is_reading = False

    def _routes(self, queries: Sequence[str]) -> list[Route]:
        return self.router.route(queries)

    def _remember(self, query: str, route: Route) -> None:
        self._known[_key(query)] = route
        while len(self._known) > self._remembers:
            self._known.popitem(last=False)


def _key(query: str) -> bytes:
    return hashlib.sha256(query.encode("utf-8", "surrogatepass")).digest()
