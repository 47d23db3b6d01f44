"""The actor that owns all slots: it admits calls, loads and unloads models, and ends replicas that are no longer used.

One owner decides, so that no model leaves a slot while a call that was counted runs, however many ingress replicas
there are. A call counts from its admission until its ingress releases it; an ingress that stops renewing its lease
(every `RENEW_S`) loses all its calls after `LEASE_S`.
"""

import asyncio
import logging
import time
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import ray
from ray.exceptions import RayError

from moe_ray.execution.ray_calls import reason_of
from moe_ray.execution.replica import ReplicaPlace
from moe_ray.serving.leases import Claim, Lease, ModelStatus, Refusal, Renewal, StandingReplica, Status, lease_of
from moe_ray.serving.metrics import MetricCounts, merged
from moe_ray.serving.replicas import Replicas
from moe_ray.serving.scheduler import Grant, Load, SlotEffect, SlotLimits, SlotScheduler, Unload
from moe_ray.serving.slot_calls import SlotCalls
from moe_ray.serving.system import ServedSystem, SharedSlot

LOGGER = logging.getLogger(__name__)
RENEW_S = 1.0
LEASE_S = 10.0
TICK_S = 0.25
# An application without any ingress (deleted, or its cluster's controller died) ends its replicas after that long.
ORPHANED_S = 30.0
MAX_SESSIONS = 10_000
MAX_GIVEN_UP = 10_000


class _Held:
    """A slot with its calls and the replica that is in it."""

    def __init__(self, shared: SharedSlot, limits: SlotLimits) -> None:
        self.shared = shared
        self.calls = SlotCalls(shared.models, limits, self._lease)
        self.replica: Any = None
        self.replica_name = ""
        self.place: ReplicaPlace | None = None
        self.num_started = 0
        self.ending = asyncio.Lock()

    @property
    def state(self) -> SlotScheduler:
        return self.calls.state

    def _lease(self, grant: Grant) -> Lease:
        return lease_of(grant, self.replica, self.replica_name)


class _Place(NamedTuple):
    """Where a call runs or waits, and the ingress that it came from."""

    held: _Held
    ingress: str


@dataclass(slots=True)
class _Ingress:
    renewed: float
    renewal: Renewal
    is_gone: bool = False


class SlotOwner:
    """Implements the rules of `moe_ray.serving.scheduler` on Ray. All methods are calls of an asyncio actor.

    `environments` brings secrets to the models' processes, by model; they are never written.
    """

    def __init__(self, system: ServedSystem, environments: Mapping[str, Mapping[str, str]]) -> None:
        self._system = system
        self._replicas = Replicas(system, environments)
        self._slots = [_Held(shared, system.limits) for shared in system.slots]
        self._calls: dict[str, _Place] = {}
        self._ingresses: dict[str, _Ingress] = {}
        self._moved = (0, time.monotonic())
        self._closing = False
        self._started = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._failures: dict[str, str] = {}
        self._sessions: dict[str, str] = {}
        self._given_up: dict[str, bool] = {}

    async def start(self) -> None:
        """Begin to keep time; load the models that have a slot of their own. Does nothing the second time."""
        if self._started:
            return
        self._started = True
        self._spawn(self._keep_time())
        for held in self._slots:
            if len(held.shared.models) == 1:
                self._spawn(self._warm(held))

    async def ready(self) -> dict[str, str]:
        """Wait until each slot with one model has loaded it; return why models could not be loaded, by name."""
        dedicated = [held for held in self._slots if len(held.shared.models) == 1]
        while any(h.state.loaded_model is None and h.shared.models[0] not in self._failures for h in dedicated):
            await asyncio.sleep(0.05)
        return dict(self._failures)

    async def acquire(self, claim: Claim) -> Lease | Refusal:
        """Wait for a model, and keep it loaded until `release`."""
        if self._closing:
            return Refusal("closing", "the server is shutting down", 10.0)
        if self._given_up.pop(claim.call, False):
            return Refusal("closing", "the call was given up", 1.0)
        if claim.dead:
            self._lost(claim.dead, "its process has ended")
        claim = claim._replace(model=self._ready_model(claim))
        return await self._outcome(self._best_slot(claim.model), claim)

    async def release(self, call: str) -> None:
        """The call has ended, or its client has left, admitted or not."""
        place = self._calls.pop(call, None)
        if place is None:
            # Ray does not keep the order of calls: this one's `acquire` may come later.
            self._given_up[call] = True
            while len(self._given_up) > MAX_GIVEN_UP:
                self._given_up.pop(next(iter(self._given_up)))
            return
        self._swap(place.held, place.held.calls.leave(call))

    async def session(self, session: str, expert: str) -> str:
        """Return the model that a session stays with: `expert` when it is new."""
        held = self._sessions.pop(session, expert)
        self._sessions[session] = held
        while len(self._sessions) > MAX_SESSIONS:
            self._sessions.pop(next(iter(self._sessions)))
        return held

    async def renew(self, ingress: str, renewal: Renewal) -> Status:
        """Keep the calls of an ingress alive; return how things stand."""
        self._ingresses[ingress] = _Ingress(time.monotonic(), renewal)
        return self._status()

    async def metrics(self) -> tuple[MetricCounts, Status]:
        """Return the sum of what all ingress replicas counted, those that are gone too."""
        return merged([one.renewal.metrics for one in self._ingresses.values()]), self._status()

    async def loaded_models(self) -> list[str]:
        """The models that are loaded now."""
        return [held.state.loaded_model for held in self._slots if held.state.loaded_model is not None]

    async def close(self, timeout_s: float) -> bool:
        """Refuse new calls, wait for those that run, end all replicas; return whether all calls ended in time."""
        self._closing = True
        deadline = time.monotonic() + timeout_s
        # Of a slot with one model the ingress replicas know who runs: for its scheduler it may be idle.
        self._close_slots([held for held in self._slots if len(held.shared.models) > 1])
        while not self._is_idle() and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        drained = self._is_idle()
        self._close_slots(self._slots)
        await asyncio.gather(*map(self._end, self._slots))
        return drained

    def _close_slots(self, slots: Sequence[_Held]) -> None:
        for held in slots:
            self._do(held, held.state.close(time.monotonic()))

    def _is_idle(self) -> bool:
        """Whether no call runs, and no ingress may still admit one."""
        living = [one.renewal for one in self._ingresses.values() if time.monotonic() - one.renewed <= LEASE_S]
        return not any(held.state.num_running for held in self._slots) and all(
            one.knows_closing and not one.num_standing for one in living
        )

    def _standing(self) -> dict[str, StandingReplica]:
        """The replicas that never leave their slot, by name."""
        return {
            held.replica_name: StandingReplica(held.replica_name, held.shared.models[0], held.replica)
            for held in self._slots
            if len(held.shared.models) == 1 and held.state.state == "ready" and not self._closing
        }

    def _ready_model(self, claim: Claim) -> str:
        """The claim's model, or one that takes calls now if that may answer: the baseline, or any other."""
        ready = [held.state.loaded_model for held in self._slots if held.state.state == "ready"]
        if not claim.may_move or not ready or claim.model in ready:
            return claim.model
        chosen = self._system.fallback if self._system.fallback in ready else ready[0]
        assert chosen is not None
        return chosen

    def _best_slot(self, model: str) -> _Held:
        """Where the model is loaded, the slot with the fewest calls; else the one with the fewest that wait."""
        able = [held for held in self._slots if model in held.shared.models]

        def rank(held: _Held) -> tuple[bool, int]:
            load = sum(held.state.num_waiting.values()) + held.state.num_running
            return held.state.loaded_model != model, load

        return min(able, key=rank)

    def _do(self, held: _Held, effects: Sequence[SlotEffect]) -> None:
        self._swap(held, held.calls.carry_out(effects))

    def _swap(self, held: _Held, effects: Sequence[Load | Unload]) -> None:
        for effect in effects:
            work = self._load if isinstance(effect, Load) else self._unload
            self._spawn(work(held, effect.model))

    async def _outcome(self, held: _Held, claim: Claim) -> Lease | Refusal:
        """Bring a call before the slot's scheduler, and wait for the answer."""
        self._calls[claim.call] = _Place(held, claim.ingress)
        future, effects = held.calls.request(
            claim.call, claim.model, background=claim.background, was_admitted=claim.was_admitted
        )
        self._swap(held, effects)
        outcome = await future
        assert outcome is not None
        if isinstance(outcome, Refusal):
            self._calls.pop(claim.call, None)
        return outcome

    async def _warm(self, held: _Held) -> None:
        """Load the slot's only model before a call asks for it, by one that leaves as soon as it is admitted."""
        call = f"warm-{held.shared.name}"
        await self._outcome(held, Claim(held.shared.models[0], "", call))
        await self.release(call)

    async def _load(self, held: _Held, model: str) -> None:
        held.num_started += 1
        name = f"{model}@{held.shared.name}-{held.num_started}"
        timeout_s = self._system.runtime.start_timeout_s
        try:
            replica = self._replicas.open(held.shared, model, name)
            held.replica, held.replica_name = replica, name
            async with asyncio.timeout(timeout_s):
                held.place = await replica.place.remote()
                await replica.load.remote()
        except Exception as error:  # noqa: BLE001 - whatever it is, those who wait for the model must learn of it
            why = f"not loaded within {timeout_s:g} s" if isinstance(error, TimeoutError) else reason_of(error)
            reason = f"{model} cannot be loaded: {why}"
            self._failures[model] = reason
            self._do(held, held.state.load_failed(model, reason, time.monotonic()))
            return
        self._failures.pop(model, None)
        self._spawn(self._watch(replica, name))
        self._do(held, held.state.loaded(model, time.monotonic()))

    async def _watch(self, replica: Any, name: str) -> None:
        """Learn at once that the replica's process has died."""
        try:
            await replica.stay.remote()
        except RayError as error:
            self._lost(name, reason_of(error))

    def _lost(self, replica_name: str, reason: str) -> None:
        """The replica of this name, if a slot still has it, is dead."""
        for held in self._slots:
            if held.replica_name == replica_name and held.state.model is not None:
                self._do(held, held.state.model_lost(held.state.model, reason, time.monotonic()))

    async def _unload(self, held: _Held, model: str) -> None:
        await self._end(held)
        self._do(held, held.state.unloaded(model, time.monotonic()))

    async def _end(self, held: _Held) -> None:
        """End the replica's process, and wait until it is gone and its GPUs' memory is back."""
        async with held.ending:  # a second caller waits too
            replica, held.replica, held.replica_name = held.replica, None, ""
            place, held.place = held.place, None
            if replica is not None:
                await self._replicas.end(held.shared, replica, place)

    async def _keep_time(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            now = time.monotonic()
            for held in self._slots:
                self._do(held, held.state.tick(now))
            for name, ingress in list(self._ingresses.items()):
                if now - ingress.renewed > LEASE_S and not ingress.is_gone:
                    ingress.is_gone, ingress.renewal = True, Renewal(metrics=ingress.renewal.metrics)
                    await self._expire(name)
            self._note_progress(now)
            if await self._is_orphaned(now):
                leave: Any = ray.actor.exit_actor
                leave()

    async def _expire(self, ingress: str) -> None:
        """Free the calls of an ingress that is gone, and stop them."""
        lost = [call for call, place in self._calls.items() if place.ingress == ingress]
        for call in lost:
            await self.release(call)
        for held in self._slots:
            if held.replica is not None:
                held.replica.cancel_all_of.remote(ingress)

    async def _is_orphaned(self, now: float) -> bool:
        """Whether no ingress has renewed for long; then all replicas are ended."""
        last = max((one.renewed for one in self._ingresses.values()), default=None)
        if last is None or now - last < ORPHANED_S:
            return False
        await asyncio.gather(*map(self._end, self._slots))
        return True

    def _note_progress(self, now: float) -> None:
        progress = sum(held.state.progress for held in self._slots)
        waiting = any(sum(held.state.num_waiting.values()) for held in self._slots)
        if progress != self._moved[0] or not waiting:
            self._moved = (progress, now)

    def _status(self) -> Status:
        models = {served.name: self._model_status(served.name) for served in self._system.models}
        return Status(
            models=models,
            closing=self._closing,
            stuck_s=time.monotonic() - self._moved[1],
            num_swaps=sum(held.state.num_swaps for held in self._slots),
            num_waiting=sum(model.num_waiting for model in models.values()),
            num_running=sum(model.num_running for model in models.values()),
            standing=self._standing(),
        )

    def _model_status(self, model: str) -> ModelStatus:
        holding = [held for held in self._slots if model in held.shared.models]
        loaded = [held for held in holding if held.state.loaded_model == model]
        loading = any(held.state.model == model and held.state.state == "loading" for held in holding)
        standing = [one.renewal.standing.get(model, (0, 0)) for one in self._ingresses.values()]
        return ModelStatus(
            value="loaded" if loaded else "loading" if loading else "unloaded",
            num_waiting=sum(held.state.num_waiting.get(model, 0) for held in holding) + sum(one[0] for one in standing),
            num_running=sum(held.state.num_running for held in loaded) + sum(one[1] for one in standing),
        )

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            LOGGER.error("the owner of the slots failed: %s", error, exc_info=error)
