"""From a call to its answer: which model, on which replica, and what becomes of a replica that dies meanwhile."""

import asyncio
import contextlib
import contextvars
import time
from collections.abc import AsyncGenerator, Coroutine, Iterator
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import ray
from ray.exceptions import RayError

from moe_ray.engines.base import GenerateRequest, Generation
from moe_ray.execution.ray_calls import reason_of
from moe_ray.fingerprint import fingerprint
from moe_ray.serving.calls import AUTO, ApiCall, ApiError, RoutingVerdict
from moe_ray.serving.failures import no_logprobs
from moe_ray.serving.leases import Claim, Lease, Refusal, Renewal, Status
from moe_ray.serving.metrics import MetricCounts
from moe_ray.serving.openai.usage import TokenCounts
from moe_ray.serving.querying import QueryRouter, verdict_of
from moe_ray.serving.replica import CallPiece
from moe_ray.serving.slots import RENEW_S
from moe_ray.serving.standing import StandingSlots
from moe_ray.serving.system import ServedModel, ServedSystem

# A call that took this many replicas with it is refused.
MAX_DEATHS = 2
STREAM_BUFFER = 4
UNAVAILABLE_S = 5.0
CLOSING_RENEW_S = 0.1


@dataclass(slots=True, kw_only=True)
class Ticket:
    """A call on its way through this ingress. `session` and `background` come from its headers.

    `id` may be the client's, and then several calls can have it; `key` is this call's alone.
    """

    id: str
    call: ApiCall
    session: str | None = None
    background: bool = False
    started: float = field(default_factory=time.perf_counter)
    verdict: RoutingVerdict | None = None
    attempt: int = 0
    key: int = field(default_factory=count().__next__)
    counts: TokenCounts | None = None
    end: str = "cancelled"
    """How the call ended: "complete", "failed" or "cancelled"."""


class Backend:
    """The models of a system, as one ingress reaches them.

    Args:
        owner: the actor `SlotOwner`.
        router: None for a system without one; then `auto` is refused.
        ingress: names this process to the owner.
    """

    def __init__(self, system: ServedSystem, owner: Any, router: QueryRouter | None, ingress: str) -> None:
        self.system = system
        self.metrics = MetricCounts()
        self.status: Status | None = None
        self._owner = owner
        self._router = router
        self._ingress = ingress
        self._tasks: set[asyncio.Task[Any]] = set()
        self._standing = StandingSlots(system.limits)

    @property
    def has_router(self) -> bool:
        """Whether `auto` is served."""
        return self._router is not None

    async def renew_forever(self) -> None:
        """Keep the lease of this ingress, and learn how the slots stand."""
        while True:
            is_closing = self.status is not None and self.status.closing
            renewal = Renewal(
                metrics=self.metrics,
                standing=self._standing.load,
                num_standing=self._standing.num_running,
                knows_closing=is_closing,
            )
            try:
                self.status = await self._owner.renew.remote(self._ingress, renewal)
                self._standing.update(self.status.standing)
            except RayError:
                self.status = None
            await asyncio.sleep(CLOSING_RENEW_S if is_closing else RENEW_S)

    async def current_status(self) -> tuple[MetricCounts, Status]:
        """What all ingress replicas have counted, and the slots now."""
        with _reaching_the_owner():
            result: tuple[MetricCounts, Status] = await self._owner.metrics.remote()
        return result

    async def judge(self, ticket: Ticket) -> RoutingVerdict:
        """Say which model answers; raises `ApiError` for a model that is not served."""
        call = ticket.call
        if call.model != AUTO:
            if call.model not in self.system.by_name:
                raise ApiError(
                    404,
                    f"no such model; the models are {', '.join((AUTO, *self.system.by_name))}",
                    kind="not_found_error",
                    code="model_not_found",
                    param="model",
                )
            return RoutingVerdict(requested=call.model, expert=call.model)
        verdict = await self.routed(call.query)
        if self.system.serving.sticky_sessions and ticket.session:
            with _reaching_the_owner():
                held = await self._owner.session.remote(ticket.session, verdict.expert)
            if held != verdict.expert:
                return replace(verdict, expert=held, pinned="session")
        return verdict

    async def routed(self, query: str | None) -> RoutingVerdict:
        """The router's verdict on a text; what is out of domain goes to the baseline."""
        if self._router is None:
            raise ApiError(400, "this server has no router: name a model", code="model_required", param="model")
        if query is None:
            raise ApiError(400, "auto reads text: name a model for token ids", code="model_required", param="model")
        started = time.perf_counter()
        route = await self._router.route(query)
        elapsed_ms = 1000 * (time.perf_counter() - started)
        self.metrics.observe("moe_ray_router_seconds", elapsed_ms / 1000)
        verdict = verdict_of(route, self.system.experts, self.system.fallback, router_ms=elapsed_ms)
        if verdict is None:
            raise ApiError(
                404, "no model answers the domain of this text", kind="not_found_error", code="model_not_found"
            )
        return verdict

    def requests(self, ticket: Ticket) -> list[GenerateRequest]:
        """The engine's requests: for each prompt, `n` of them; what the call leaves open is the experiment's.

        Raises `ApiError` for log-probabilities or an echo where the model's engine would ignore that.
        """
        call, decoding = ticket.call, self.system.decoding
        if (call.num_logprobs is not None or call.echo) and not self._served(ticket).gives_logprobs:
            raise no_logprobs(call)
        temperature = decoding.temperature if call.temperature is None else call.temperature
        return [
            GenerateRequest(
                id=ticket.id,
                prompt=prompt,
                max_new_tokens=call.max_new_tokens or decoding.max_new_tokens,
                temperature=temperature,
                top_p=decoding.top_p if call.top_p is None else call.top_p,
                seed=_seed(call, ticket.id, index * call.n + sample),
                num_logprobs=call.num_logprobs,
                echo=call.echo,
            )
            for index, prompt in enumerate(call.prompts)
            for sample in range(call.n)
        ]

    async def answer(self, ticket: Ticket) -> tuple[RoutingVerdict, list[Generation]]:
        """Return the whole answer. A replica that dies meanwhile is replaced, once."""
        requests, dead = self.requests(ticket), ""
        while ticket.attempt < MAX_DEATHS:
            ticket.attempt += 1
            lease, is_over = await self.acquire(ticket, dead=dead), False
            try:
                started = time.perf_counter()
                answers: list[Generation] = await lease.replica.answer.remote(self._name(ticket), requests)
                is_over = True
                self.metrics.observe("moe_ray_engine_seconds", time.perf_counter() - started, model=self._model(ticket))
            except RayError as error:
                if not _is_death(error):
                    raise _failure(error) from error
                self.metrics.add("moe_ray_replica_deaths_total", model=self._model(ticket))
                dead = lease.replica_name
            else:
                assert ticket.verdict is not None
                return ticket.verdict, answers
            finally:
                self.release(ticket, lease, is_over=is_over)
        raise ApiError(500, "the model's process ended twice on this request", kind="server_error", code="engine_died")

    async def stream(self, ticket: Ticket) -> AsyncGenerator[list[CallPiece]]:
        """Yield the answer's pieces as they are drawn. A replica that dies ends it with `ApiError`."""
        requests = self.requests(ticket)
        lease, is_over = await self.acquire(ticket), False
        started = time.perf_counter()
        try:
            generator = lease.replica.stream.options(
                num_returns="streaming", _generator_backpressure_num_objects=STREAM_BUFFER
            ).remote(self._name(ticket), requests)
            async for ref in generator:
                yield await ref
            is_over = True
            self.metrics.observe("moe_ray_engine_seconds", time.perf_counter() - started, model=self._model(ticket))
        except RayError as error:
            raise _failure(error) from error
        finally:
            self.release(ticket, lease, is_over=is_over)

    async def acquire(self, ticket: Ticket, *, dead: str = "") -> Lease:
        """Wait for a replica of the verdict's model; raises `ApiError` where the call is not admitted.

        `dead` names a replica that the call has seen die, which the owner may not know yet. Others may have died with
        it, on one node: so the owner, which watches all, chooses the next.
        """
        verdict = ticket.verdict
        assert verdict is not None
        had_place = bool(dead) or self._standing.serves(verdict.expert)
        if dead:
            self._standing.forget(dead)
        outcome = None if dead else await self._standing_outcome(ticket, verdict.expert)
        if outcome is None:
            outcome = await self._owners_outcome(self._claim(ticket, verdict, was_admitted=had_place, dead=dead))
        if isinstance(outcome, Refusal):
            self.metrics.add("moe_ray_refusals_total", kind=outcome.kind)
            raise _refused(outcome)
        self.metrics.observe("moe_ray_queue_seconds", outcome.queue_ms / 1000)
        self.metrics.observe("moe_ray_swap_seconds", outcome.swap_ms / 1000)
        ticket.verdict = replace(verdict, queue_ms=outcome.queue_ms, swap_ms=outcome.swap_ms)
        if outcome.model != verdict.expert:
            ticket.verdict = replace(ticket.verdict, expert=outcome.model, pinned="background")
        return outcome

    def _claim(self, ticket: Ticket, verdict: RoutingVerdict, *, was_admitted: bool, dead: str) -> Claim:
        """What the owner must know of a call. A background request of `auto` may go to any model."""
        return Claim(
            verdict.expert,
            self._ingress,
            self._name(ticket),
            background=ticket.background,
            may_move=ticket.background and verdict.requested == AUTO and verdict.pinned is None,
            was_admitted=was_admitted,
            dead=dead,
        )

    async def _standing_outcome(self, ticket: Ticket, model: str) -> Lease | Refusal | None:
        """Wait for a replica that never leaves its slot; None where the model has none."""
        try:
            return await self._standing.acquire(model, self._name(ticket))
        except asyncio.CancelledError:
            self._standing.release(self._name(ticket))
            raise

    async def _owners_outcome(self, claim: Claim) -> Lease | Refusal:
        pending = self._owner.acquire.remote(claim)
        try:
            with _reaching_the_owner():
                outcome: Lease | Refusal = await pending
        except BaseException:  # Ray reports a cancelled call as an error of its own, too
            self._spawn(self._release(claim.call))
            raise
        return outcome

    def release(self, ticket: Ticket, lease: Lease, *, is_over: bool) -> None:
        """The call is counted no more; unless it `is_over`, its replica stops it."""
        if not is_over:
            self._spawn(self._stop(lease.replica, self._name(ticket)))
        if not self._standing.release(self._name(ticket)):
            self._spawn(self._release(self._name(ticket)))

    async def ask(self, ticket: Ticket, method: str, *arguments: Any) -> Any:
        """Call another method of a replica of the verdict's model."""
        lease = await self.acquire(ticket)
        try:
            return await getattr(lease.replica, method).remote(*arguments)
        except RayError as error:
            raise _failure(error) from error
        finally:
            self.release(ticket, lease, is_over=True)

    async def _release(self, call: str) -> None:
        with contextlib.suppress(RayError):
            await self._owner.release.remote(call)

    async def _stop(self, replica: Any, call: str) -> None:
        with contextlib.suppress(RayError):
            await replica.cancel.remote([call])

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run `work` beside the request. Ray would cancel its calls with those of a request whose client left."""
        task = asyncio.get_running_loop().create_task(work, context=contextvars.Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _name(self, ticket: Ticket) -> str:
        """What owner and replica know this attempt of a call by."""
        return f"{self._ingress}/{ticket.key}-{ticket.attempt}"

    def _served(self, ticket: Ticket) -> ServedModel:
        assert ticket.verdict is not None
        return self.system.by_name[ticket.verdict.expert]

    def _model(self, ticket: Ticket) -> str:
        return "" if ticket.verdict is None else ticket.verdict.expert


@contextlib.contextmanager
def _reaching_the_owner() -> Iterator[None]:
    try:
        yield
    except RayError as error:
        raise ApiError(
            503, "the slots cannot be reached", kind="service_unavailable", retry_after_s=UNAVAILABLE_S
        ) from error


def _seed(call: ApiCall, id: str, index: int) -> int:
    """A seed for each choice: from the client's, else from the request's id."""
    base = int(fingerprint(id)[:8], 16) if call.seed is None else call.seed
    return (base + index) % 2**32


def _is_death(error: RayError) -> bool:
    return isinstance(error, ray.exceptions.RayActorError)


def _failure(error: RayError) -> ApiError:
    if _is_death(error):
        return ApiError(500, "the model's process has ended", kind="server_error", code="engine_died")
    return ApiError(500, f"the model failed: {reason_of(error)}", kind="server_error", code="engine_failed")


def _refused(refusal: Refusal) -> ApiError:
    codes = {"full": "queue_full", "failed": "model_failed", "closing": "shutting_down"}
    return ApiError(
        503,
        refusal.reason,
        kind="service_unavailable",
        code=codes[refusal.kind],
        retry_after_s=refusal.retry_after_s,
    )
