"""The slots' owner with replicas that are no processes: admission, releases, deaths, silent ingresses, the end."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import pytest
import ray
from ray.exceptions import ActorDiedError

from moe_ray.execution.replica import ReplicaPlace
from moe_ray.serving import slots
from moe_ray.serving.leases import Claim, Lease, Refusal, Renewal
from moe_ray.serving.metrics import MetricCounts
from moe_ray.serving.replicas import Replicas
from moe_ray.serving.slots import SlotOwner
from moe_ray.serving.system import ServedSystem, SharedSlot
from tests.serving.fakes import MODELS, Remote, settled, system

PLACE = ReplicaPlace(
    node="here", pid=1, gpu_ids=(), gpu_uuids=(), cuda_visible_devices=None, gpu_bytes=None, energy_j=None
)


class FakeProcess:
    """A replica: loaded at once, or when `may_load` is set; `stay` returns when it leaves, and raises when it dies."""

    def __init__(self, model: str) -> None:
        self.model = model
        self.may_load = asyncio.Event()
        self.may_load.set()
        self.error: Exception | None = None
        self.has_ended = False
        self.calls_stopped_of: list[str] = []
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.place = Remote(self._place)
        self.load = Remote(self._load)
        self.stay = Remote(self._stay)
        self.leave = Remote(self._leave)
        self.cancel_all_of = Remote(self._cancel_all_of)

    def die(self) -> None:
        self._over.set_exception(ActorDiedError())

    async def _place(self) -> ReplicaPlace:
        return PLACE

    async def _load(self) -> None:
        await self.may_load.wait()
        if self.error is not None:
            raise self.error

    async def _stay(self) -> None:
        await self._over

    async def _leave(self) -> None:
        self.has_ended = True
        if not self._over.done():
            self._over.set_result(None)

    async def _cancel_all_of(self, ingress: str) -> None:
        self.calls_stopped_of.append(ingress)


class FakeAgent:
    def __init__(self) -> None:
        self.may_depart = asyncio.Event()
        self.may_depart.set()
        self.await_departure = Remote(self._await_departure)

    async def _await_departure(self, *_arguments: Any) -> None:
        await self.may_depart.wait()


class FakeReplicas(Replicas):
    """`processes` are the replicas that were opened, in their order; `prepare` may change a new one."""

    def __init__(self, of: ServedSystem) -> None:
        super().__init__(of, {})
        self.processes: list[FakeProcess] = []
        self.agent = FakeAgent()
        self.prepare: Callable[[FakeProcess], None] = lambda process: None

    def open(self, shared: SharedSlot, model: str, name: str) -> Any:
        process = FakeProcess(model)
        self.prepare(process)
        self.processes.append(process)
        return process

    def _agent(self, node: str) -> Any:
        return self.agent


class Owner(SlotOwner):
    """An owner of such replicas."""

    def __init__(self, of: ServedSystem) -> None:
        super().__init__(of, {})
        self._replicas = self.fake = FakeReplicas(of)

    @property
    def processes(self) -> list[FakeProcess]:
        return self.fake.processes

    async def granted(self, model: str, call: str, **others: Any) -> Lease:
        outcome = await asyncio.wait_for(self.acquire(Claim(model, "i", call, **others)), 10)
        assert isinstance(outcome, Lease), outcome
        return outcome


@pytest.fixture(autouse=True)
def _no_process_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "kill", lambda actor: None)
    monkeypatch.setattr(slots, "TICK_S", 0.001)


def play(scene: Callable[[Owner], Coroutine[Any, Any, None]], *, one_slot: bool = False, **options: Any) -> None:
    async def run() -> None:
        served = system(**options)
        if one_slot:
            slot = served.slots[0]
            shared = SharedSlot(name="slot-0", slot=slot.slot, uses_gpu=False, models=MODELS)
            served = replace(served, slots=(shared,))
        owner = Owner(served)
        await owner.start()
        await owner.ready()
        await scene(owner)

    asyncio.run(run())


def test_models_with_a_slot_of_their_own_are_loaded_before_anybody_asks() -> None:
    async def scene(owner: Owner) -> None:
        assert sorted(await owner.loaded_models()) == sorted(MODELS)
        await settled()
        assert (await owner.metrics())[1].num_running == 0

    play(scene)


def test_a_slot_that_is_shared_loads_who_is_asked_for_and_swaps_when_it_is_idle() -> None:
    async def scene(owner: Owner) -> None:
        assert await owner.loaded_models() == []
        first = await owner.granted("law", "1")
        assert first.replica.model == "law"
        await owner.release("1")
        assert (await owner.granted("med", "2")).replica.model == "med"
        assert [process.has_ended for process in owner.processes] == [True, False]
        assert (await owner.metrics())[1].num_swaps == 1

    play(scene, one_slot=True)


def test_no_model_is_loaded_before_the_memory_of_the_last_is_free() -> None:
    async def scene(owner: Owner) -> None:
        await owner.granted("law", "1")
        owner.fake.agent.may_depart.clear()
        await owner.release("1")
        waits = asyncio.ensure_future(owner.granted("med", "2"))
        await settled()
        assert [process.model for process in owner.processes] == ["law"]
        owner.fake.agent.may_depart.set()
        assert (await waits).replica.model == "med"

    play(scene, one_slot=True)


def test_a_background_call_that_may_move_gets_a_model_that_takes_calls_now() -> None:
    async def scene(owner: Owner) -> None:
        lease = await owner.granted("law", "1")
        assert lease.model == "law"
        for call, model in (("2", "law"), ("3", "med")):
            lease = await owner.granted(model, call, background=True, may_move=True)
            assert (lease.model, lease.replica.model) == ("law", "law")
        waits = asyncio.ensure_future(owner.acquire(Claim("med", "i", "4", background=True)))
        await settled()
        assert not waits.done(), "a call that names its model waits for it"
        assert len(owner.processes) == 1
        waits.cancel()

    play(scene, one_slot=True)


def test_a_background_call_that_may_move_keeps_its_model_where_none_is_loaded_and_prefers_the_baseline() -> None:
    async def alone(owner: Owner) -> None:
        waits = asyncio.ensure_future(owner.granted("med", "1", background=True, may_move=True))
        assert (await waits).model == "med"

    async def beside_the_baseline(owner: Owner) -> None:
        owner.processes[MODELS.index("med")].die()
        await settled()
        assert (await owner.granted("med", "1", background=True, may_move=True)).model == "base"

    play(alone, one_slot=True, max_wait_s=0.01)
    play(beside_the_baseline)


def test_a_release_that_overtakes_its_call_is_kept_for_it() -> None:
    async def scene(owner: Owner) -> None:
        await owner.release("1")
        assert isinstance(await owner.acquire(Claim("law", "i", "1")), Refusal)
        assert (await owner.metrics())[1].num_running == 0
        await owner.granted("law", "2")

    play(scene, one_slot=True)


def test_a_call_that_is_released_while_it_waits_loads_nothing() -> None:
    async def scene(owner: Owner) -> None:
        await owner.granted("law", "1")
        waits = asyncio.ensure_future(owner.acquire(Claim("med", "i", "2")))
        await settled()
        await owner.release("2")
        await settled()
        assert waits.cancelled()
        await owner.release("1")
        await settled()
        assert await owner.loaded_models() == ["law"]

    play(scene, one_slot=True)


def test_a_replica_that_dies_is_replaced_for_those_who_wait() -> None:
    async def scene(owner: Owner) -> None:
        await owner.granted("law", "1")
        owner.processes[-1].die()
        await settled()
        lease = await owner.granted("law", "2")
        assert lease.replica is owner.processes[-1]
        assert len(owner.processes) == 2
        assert (await owner.metrics())[1].num_running == 1

    play(scene, one_slot=True)


def test_a_call_that_saw_its_replica_die_gets_another_though_the_owner_has_not_heard_of_it() -> None:
    async def scene(owner: Owner) -> None:
        first = await owner.granted("law", "1")
        await owner.release("1")
        second = await owner.granted("law", "2", dead=first.replica_name)
        assert second.replica_name != first.replica_name
        third = await owner.granted("law", "3", dead=first.replica_name)
        assert third.replica_name == second.replica_name, "the death of an old replica ends no other"

    play(scene, one_slot=True)


def test_a_load_that_fails_is_told_to_those_who_wait_for_it_alone() -> None:
    async def scene(owner: Owner) -> None:
        def prepare(process: FakeProcess) -> None:
            process.error = RuntimeError("no such weights") if process.model == "med" else None

        owner.fake.prepare = prepare
        claims = Claim("med", "i", "1"), Claim("law", "i", "2")
        failed, fine = await asyncio.gather(*map(owner.acquire, claims))
        assert isinstance(failed, Refusal)
        assert (failed.kind, "no such weights" in failed.reason) == ("failed", True)
        assert isinstance(fine, Lease)

    play(scene, one_slot=True)


def test_calls_of_an_ingress_that_is_silent_are_freed_and_stopped_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(owner: Owner) -> None:
        counts = MetricCounts()
        counts.add("moe_ray_requests_total")
        await owner.renew("i", Renewal(metrics=counts, standing={"law": (1, 2)}, num_standing=2))
        await owner.granted("law", "1")
        assert (await owner.metrics())[1].num_running == 3
        monkeypatch.setattr(slots, "LEASE_S", 0.0)
        while (await owner.metrics())[1].num_running:
            await asyncio.sleep(0.001)
        for _ in range(5):
            await asyncio.sleep(0.002)
        counted, status = await owner.metrics()
        assert status.num_waiting == 0
        assert counted.counts == counts.counts, "what it counted stays"
        assert owner.processes[-1].calls_stopped_of == ["i"]

    play(scene, one_slot=True)


def test_the_end_waits_for_running_calls_refuses_others_and_ends_every_process() -> None:
    async def scene(owner: Owner) -> None:
        await owner.granted("law", "1")
        waits = asyncio.ensure_future(owner.acquire(Claim("med", "i", "2")))
        await settled()
        ending = asyncio.ensure_future(owner.close(60.0))
        await settled()
        refused = await waits
        assert isinstance(refused, Refusal)
        assert refused.kind == "closing"
        assert isinstance(await owner.acquire(Claim("law", "i", "3")), Refusal)
        assert not ending.done()
        await owner.release("1")
        assert await ending
        assert all(process.has_ended for process in owner.processes)

    play(scene, one_slot=True)


def test_the_end_waits_for_calls_that_an_ingress_admitted_itself() -> None:
    async def scene(owner: Owner) -> None:
        await owner.renew("i", Renewal(metrics=MetricCounts(), standing={"law": (0, 1)}, num_standing=1))
        ending = asyncio.ensure_future(owner.close(60.0))
        await settled()
        status = await owner.renew("i", Renewal(metrics=MetricCounts(), num_standing=1, knows_closing=True))
        assert (status.closing, status.standing) == (True, {})
        await asyncio.sleep(0.05)
        assert not any(process.has_ended for process in owner.processes)
        await owner.renew("i", Renewal(metrics=MetricCounts(), knows_closing=True))
        assert await ending
        assert all(process.has_ended for process in owner.processes)

    play(scene)


def test_an_end_whose_time_is_up_says_that_calls_were_cut() -> None:
    async def scene(owner: Owner) -> None:
        await owner.granted("law", "1")
        assert not await owner.close(0.01)
        assert all(process.has_ended for process in owner.processes)

    play(scene, one_slot=True)


def test_the_end_waits_for_a_process_that_is_ending_already() -> None:
    async def scene(owner: Owner) -> None:
        await owner.granted("law", "1")
        owner.fake.agent.may_depart.clear()
        ending = asyncio.ensure_future(owner.close(60.0))
        await owner.release("1")
        await asyncio.sleep(0.05)
        assert not ending.done()
        owner.fake.agent.may_depart.set()
        assert await ending

    play(scene, one_slot=True)


def test_a_session_keeps_its_model_and_the_oldest_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "MAX_SESSIONS", 2)

    async def scene(owner: Owner) -> None:
        assert await owner.session("a", "law") == "law"
        assert await owner.session("b", "med") == "med"
        assert await owner.session("a", "med") == "law"
        assert await owner.session("c", "law") == "law"
        assert await owner.session("b", "base") == "base", "b was the oldest"

    play(scene)
