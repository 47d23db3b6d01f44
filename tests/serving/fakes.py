"""A system without Ray: its slots' owner, its replicas and its router answer at once, or when a test lets them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ray.exceptions import ActorDiedError

from moe_ray.config.schema import DecodingConfig, ModelConfig, RuntimeConfig
from moe_ray.config.serving import ServingConfig
from moe_ray.engines.base import Delta, GenerateRequest, Generation, Timing
from moe_ray.planning.fleet import Slot
from moe_ray.routing.router import Route
from moe_ray.serving.backend import Backend
from moe_ray.serving.leases import Claim, Lease, ModelStatus, Refusal, Renewal, StandingReplica, Status
from moe_ray.serving.metrics import MetricCounts
from moe_ray.serving.querying import QueryRouter
from moe_ray.serving.replica import CallPiece
from moe_ray.serving.system import ServedModel, ServedSystem, SharedSlot

MODELS = ("base", "law", "med")
PROBABILITIES = {"law": {"law": 0.9, "med": 0.1}, "med": {"law": 0.2, "med": 0.8}}
TIMING = Timing(batch_rows=1, time_to_first_token_s=0.0, total_s=0.0)


def system(*, fallback: str | None = "base", experts: Sequence[str] = ("law", "med"), **serving: Any) -> ServedSystem:
    """Three models on slots of their own; an expert has the name of its domain."""
    slot = Slot(node="here", cpu_slot=0)
    return ServedSystem(
        name="fake",
        models=tuple(
            ServedModel(
                name=name,
                model=ModelConfig(path=f"scripted/{name}", engine="scripted"),
                gives_logprobs=True,
                domains=(name,) if name in experts else (),
                is_baseline=name == fallback,
                context_tokens=128,
            )
            for name in MODELS
        ),
        experts={name: name for name in experts},
        fallback=fallback,
        slots=tuple(
            SharedSlot(name=f"slot-{place}", slot=slot, uses_gpu=False, models=(name,))
            for place, name in enumerate(MODELS)
        ),
        router_dir=None,
        decoding=DecodingConfig(max_new_tokens=8),
        runtime=RuntimeConfig(),
        serving=ServingConfig(**serving),
    )


class Remote:
    """A method of an actor: `remote` begins it."""

    def __init__(self, function: Callable[..., Awaitable[Any]]) -> None:
        self._function = function

    def remote(self, *arguments: Any) -> "asyncio.Future[Any]":
        return asyncio.ensure_future(self._function(*arguments))


class RemoteStream:
    """A streaming method of an actor."""

    def __init__(self, function: Callable[..., AsyncIterator[Any]]) -> None:
        self._function = function

    def options(self, **_options: Any) -> "RemoteStream":
        return self

    async def remote(self, *arguments: Any) -> AsyncIterator["asyncio.Future[Any]"]:
        async for item in self._function(*arguments):
            future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            future.set_result(item)
            yield future


def generation(text: str = "Hello there.", **fields: Any) -> Generation:
    found = {"token_ids": (1, 2), "finish_reason": "stop", "num_prompt_tokens": 3, "timing": TIMING}
    return Generation(text=text, **{**found, **fields})


@dataclass
class FakeReplica:
    """Answers as `reply` says, once `may_answer` is set; `dies` times it is found dead instead."""

    reply: Callable[[GenerateRequest], Generation] = lambda request: generation()
    dies: int = 0
    may_answer: asyncio.Event = field(default_factory=asyncio.Event)
    requests: list[GenerateRequest] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    has_begun: asyncio.Event = field(default_factory=asyncio.Event)
    breaks: BaseException | None = None
    """Raised by a stream after its first piece."""

    def __post_init__(self) -> None:
        self.may_answer.set()
        self.answer = Remote(self._answer)
        self.stream = RemoteStream(self._stream)
        self.cancel = Remote(self._cancel)
        self.token_ids = Remote(self._token_ids)
        self.tokenizer_facts = Remote(self._tokenizer_facts)

    async def _answer(self, call: str, requests: Sequence[GenerateRequest]) -> list[Generation]:
        await self._begin(requests)
        return [self.reply(request) for request in requests]

    async def _stream(self, call: str, requests: Sequence[GenerateRequest]) -> AsyncIterator[list[CallPiece]]:
        await self._begin(requests)
        for choice, request in enumerate(requests):
            whole = self.reply(request)
            if whole.error is None:
                yield [CallPiece(choice, Delta(text=whole.text, token_ids=whole.token_ids, num_tokens=2))]
            if self.breaks is not None:
                raise self.breaks
            last = Delta(
                finish_reason=whole.finish_reason,
                num_prompt_tokens=whole.num_prompt_tokens,
                num_completion_tokens=whole.num_completion_tokens,
                error=whole.error,
                refused=whole.refused,
            )
            yield [CallPiece(choice, last)]

    async def _begin(self, requests: Sequence[GenerateRequest]) -> None:
        self.requests += requests
        self.has_begun.set()
        await self.may_answer.wait()
        if self.dies:
            self.dies -= 1
            raise ActorDiedError()

    async def _cancel(self, calls: Sequence[str]) -> None:
        self.cancelled += calls

    async def _token_ids(self, prompt: Any, add_special_tokens: bool) -> list[int]:
        return [1, 2, 3]

    async def _tokenizer_facts(self) -> dict[str, Any]:
        return {"eos_token": "</s>"}


@dataclass
class FakeOwner:
    """Gives `replica` to every call, once `may_grant` is set; or refuses with `refusal`, or raises `broken`."""

    replica: FakeReplica
    refusal: Refusal | None = None
    broken: BaseException | None = None
    may_grant: asyncio.Event = field(default_factory=asyncio.Event)
    loaded: tuple[str, ...] = MODELS
    closing: bool = False
    stuck_s: float = 0.0
    claims: list[Claim] = field(default_factory=list)
    gives: str | None = None
    """The model that a call gets which may move; None for the one that it asks for."""
    released: list[str] = field(default_factory=list)
    sessions: dict[str, str] = field(default_factory=dict)
    counts: MetricCounts = field(default_factory=MetricCounts)
    standing: dict[str, StandingReplica] = field(default_factory=dict)
    renewals: list[Renewal] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.may_grant.set()
        self.acquire = Remote(self._acquire)
        self.release = Remote(self._release)
        self.renew = Remote(self._renew)
        self.metrics = Remote(self._metrics)
        self.session = Remote(self._session)

    @property
    def held(self) -> list[str]:
        """Calls that were not released."""
        return [one.call for one in self.claims if one.call not in self.released]

    def status(self) -> Status:
        models = {name: ModelStatus("loaded" if name in self.loaded else "unloaded", 0, 0) for name in MODELS}
        return Status(
            models=models,
            closing=self.closing,
            stuck_s=self.stuck_s,
            num_swaps=0,
            num_waiting=0,
            num_running=0,
            standing=self.standing,
        )

    async def _acquire(self, claim: Claim) -> Lease | Refusal:
        self._check()
        self.claims.append(claim)
        await self.may_grant.wait()
        if self.refusal is not None:
            self.released.append(claim.call)
            return self.refusal
        name = f"replica-{len(self.claims)}"
        model = self.gives if claim.may_move and self.gives else claim.model
        return Lease(model=model, replica=self.replica, replica_name=name, queue_ms=2.0, swap_ms=3.0)

    async def _release(self, call: str) -> None:
        self.released.append(call)

    async def _renew(self, ingress: str, renewal: Renewal) -> Status:
        self._check()
        self.counts = renewal.metrics
        self.renewals.append(renewal)
        return self.status()

    async def _metrics(self) -> tuple[MetricCounts, Status]:
        self._check()
        return self.counts, self.status()

    async def _session(self, session: str, expert: str) -> str:
        self._check()
        return self.sessions.setdefault(session, expert)

    def _check(self) -> None:
        if self.broken is not None:
            raise self.broken


class FakeRouter:
    """Sends a text to the domain that is its first word; all else is out of domain, and likeliest of law."""

    def route(self, texts: Sequence[str]) -> list[Route]:
        return [self._route(text) for text in texts]

    def _route(self, text: str) -> Route:
        domain = text.split(" ")[0]
        known = domain in PROBABILITIES
        return Route(
            probabilities=PROBABILITIES[domain if known else "law"],
            domain=domain if known else "law",
            score=1.0 if known else 0.0,
            is_out_of_domain=not known,
            seconds=0.0,
        )


def backend_of(owner: FakeOwner, served: ServedSystem | None = None, *, has_router: bool = True) -> Backend:
    router: Any = FakeRouter()
    asked = QueryRouter(router, num_threads=1) if has_router else None
    return Backend(served or system(), owner, asked, "ingress-1")


async def settled() -> None:
    """Let every task that can go on do so."""
    for _ in range(20):
        await asyncio.sleep(0)
