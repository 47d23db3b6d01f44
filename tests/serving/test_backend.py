"""From a call to its answer, over a fake owner of slots: who answers, what is retried, and what is released."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, RayTaskError

from moe_ray.serving.backend import Backend, Ticket
from moe_ray.serving.calls import ApiError
from moe_ray.serving.leases import Refusal, StandingReplica
from tests.serving.fakes import FakeOwner, FakeReplica, backend_of, generation, settled, system
from tests.serving.openai.requests import call

Scene = Callable[[FakeOwner, Backend], Coroutine[Any, Any, Any]]


def play(scene: Scene, *, has_router: bool = True, **options: Any) -> FakeOwner:
    """Run `scene` with a new owner and its backend, whose system has `options`."""

    async def run() -> FakeOwner:
        owner = FakeOwner(FakeReplica())
        backend = backend_of(owner, system(**options), has_router=has_router)
        backend.status = owner.status()
        await scene(owner, backend)
        await settled()
        return owner

    return asyncio.run(run())


def ticket(model: str = "auto", text: str = "law of leases", **fields: Any) -> Ticket:
    return Ticket(id="r", call=call("chat", model=model, messages=[{"role": "user", "content": text}]), **fields)


def test_a_named_model_answers_whatever_the_text_and_the_router_is_not_asked() -> None:
    async def scene(owner: FakeOwner, backend: Backend) -> None:
        verdict = await backend.judge(ticket("med"))
        assert (verdict.requested, verdict.expert, verdict.confidence) == ("med", "med", None)

    play(scene, has_router=False)


def test_an_unknown_model_is_404_and_the_models_are_named() -> None:
    async def scene(owner: FakeOwner, backend: Backend) -> None:
        with pytest.raises(ApiError, match="auto, base, law, med") as refused:
            await backend.judge(ticket("c4nary"))
        assert (refused.value.status, refused.value.code, refused.value.param) == (404, "model_not_found", "model")
        assert "c4nary" not in refused.value.message

    play(scene)


def test_auto_goes_to_the_expert_of_the_likeliest_domain() -> None:
    async def scene(owner: FakeOwner, backend: Backend) -> None:
        verdict = await backend.judge(ticket("auto", "med dose"))
        assert (verdict.expert, verdict.confidence, verdict.fell_back) == ("med", 0.8, False)
        assert verdict.out_of_domain is False
        assert verdict.probabilities == {"law": 0.2, "med": 0.8}
        assert verdict.router_ms > 0

    play(scene)


def test_what_is_out_of_domain_goes_to_the_baseline_and_says_so() -> None:
    async def scene(owner: FakeOwner, backend: Backend) -> None:
        verdict = await backend.judge(ticket("auto", "a recipe"))
        assert (verdict.expert, verdict.out_of_domain, verdict.fell_back) == ("base", True, True)

    play(scene)


def test_without_a_baseline_what_is_out_of_domain_goes_to_the_likeliest_expert() -> None:
    async def scene(owner: FakeOwner, backend: Backend) -> None:
        verdict = await backend.judge(ticket("auto", "a recipe"))
        assert (verdict.expert, verdict.out_of_domain, verdict.fell_back) == ("law", True, False)

    play(scene, fallback=None)


def test_a_domain_without_an_expert_goes_to_the_baseline() -> None:
    async def scene(owner: FakeOwner, backend: Backend) -> None:
        verdict = await backend.judge(ticket("auto", "med dose"))
        assert (verdict.expert, verdict.out_of_domain, verdict.fell_back) == ("base", False, True)

    play(scene, experts=("law",))


def test_a_domain_without_an_expert_and_without_a_baseline_is_404() -> None:
    async def scene(owner: FakeOwner, backend: Backend) -> None:
        with pytest.raises(ApiError, match="no model answers") as refused:
            await backend.judge(ticket("auto", "med dose"))
        assert refused.value.status == 404

    play(scene, experts=("law",), fallback=None)


def test_without_a_router_auto_asks_for_a_model() -> None:
    async def scene(owner: FakeOwner, backend: Backend) -> None:
        with pytest.raises(ApiError, match="name a model") as refused:
            await backend.judge(ticket("auto"))
        assert (refused.value.status, refused.value.param) == (400, "model")

    play(scene, has_router=False)


def test_a_session_stays_with_its_first_expert_where_that_is_wanted() -> None:
    async def scene(owner: FakeOwner, backend: Backend) -> None:
        first = await backend.judge(ticket("auto", "law of leases", session="s"))
        second = await backend.judge(ticket("auto", "med dose", session="s"))
        other = await backend.judge(ticket("auto", "med dose", session="t"))
        assert [(one.expert, one.pinned) for one in (first, second, other)] == [
            ("law", None),
            ("law", "session"),
            ("med", None),
        ]

    play(scene, sticky_sessions=True)


def test_a_session_means_nothing_by_default() -> None:
    async def scene(owner: FakeOwner, backend: Backend) -> None:
        await backend.judge(ticket("auto", "law of leases", session="s"))
        assert (await backend.judge(ticket("auto", "med dose", session="s"))).expert == "med"

    assert play(scene).sessions == {}


async def answered(backend: Backend, asked: Ticket) -> list[str]:
    asked.verdict = await backend.judge(asked)
    return [one.text for one in (await backend.answer(asked))[1]]


def test_an_answer_brings_its_waits_along_and_releases_its_slot() -> None:
    async def scene(owner: FakeOwner, backend: Backend) -> None:
        asked = ticket("law")
        assert await answered(backend, asked) == ["Hello there."]
        assert asked.verdict is not None
        assert (asked.verdict.queue_ms, asked.verdict.swap_ms) == (2.0, 3.0)

    owner = play(scene)
    assert (len(owner.claims), owner.held, owner.replica.cancelled) == (1, [], [])


@pytest.mark.parametrize(
    ("model", "background", "moves"), [("auto", True, True), ("auto", False, False), ("law", True, False)]
)
def test_the_owner_may_give_a_background_request_of_auto_another_model(
    model: str, background: bool, moves: bool
) -> None:
    async def scene(owner: FakeOwner, backend: Backend) -> None:
        owner.gives = "base"
        asked = ticket(model, background=background)
        await answered(backend, asked)
        assert asked.verdict is not None
        assert (asked.verdict.expert, asked.verdict.pinned) == (("base", "background") if moves else ("law", None))

    assert [(one.background, one.may_move) for one in play(scene).claims] == [(background, moves)]


def test_a_session_keeps_the_model_of_its_background_requests() -> None:
    async def scene(owner: FakeOwner, backend: Backend) -> None:
        owner.gives = "base"
        await backend.judge(ticket("auto", "law of leases", session="s"))
        asked = ticket("auto", "med dose", session="s", background=True)
        await answered(backend, asked)
        assert asked.verdict is not None
        assert (asked.verdict.expert, asked.verdict.pinned) == ("law", "session")

    play(scene, sticky_sessions=True)


def test_a_call_whose_replica_dies_is_answered_by_the_next_one_whose_name_is_not_the_dead_ones() -> None:
    async def scene(owner: FakeOwner, backend: Backend) -> None:
        owner.replica.dies = 1
        assert await answered(backend, ticket("law")) == ["Hello there."]

    owner = play(scene)
    assert [one.dead for one in owner.claims] == ["", "replica-1"]
    assert owner.held == []
    first, second = owner.replica.requests
    assert first == second, "the same seed"


def test_a_call_that_ends_two_replicas_is_refused_and_is_not_to_be_sent_again() -> None:
    async def scene(owner: FakeOwner, backend: Backend) -> None:
        owner.replica.dies = 5
        with pytest.raises(ApiError) as failed:
            await answered(backend, ticket("law"))
        assert (failed.value.status, failed.value.code) == (500, "engine_died")
        assert failed.value.headers() == {"x-should-retry": "false"}

    owner = play(scene)
    assert (len(owner.claims), owner.held) == (2, [])


def test_an_error_of_the_engine_is_no_death_and_is_not_retried() -> None:
    async def scene(owner: FakeOwner, backend: Backend) -> None:
        def fail(_request: Any) -> Any:
            error: Any = RayTaskError
            raise error("answer", "Traceback", ValueError("bad weights"))

        owner.replica.reply = fail
        with pytest.raises(ApiError, match="bad weights") as failed:
            await answered(backend, ticket("law"))
        assert (failed.value.status, failed.value.code) == (500, "engine_failed")
        assert not any(name == "moe_ray_replica_deaths_total" for name, _ in backend.metrics.counts)

    owner = play(scene)
    assert (len(owner.claims), owner.held) == (1, [])


@pytest.mark.parametrize(
    ("kind", "code"), [("full", "queue_full"), ("failed", "model_failed"), ("closing", "shutting_down")]
)
def test_a_refusal_is_503_with_a_time_to_come_back(kind: str, code: str) -> None:
    async def scene(owner: FakeOwner, backend: Backend) -> None:
        owner.refusal = Refusal(kind, "because", 7.0)
        with pytest.raises(ApiError, match="because") as refused:
            await answered(backend, ticket("law"))
        assert (refused.value.status, refused.value.code) == (503, code)
        assert refused.value.headers() == {"retry-after": "7", "retry-after-ms": "7000"}

    play(scene)


def test_slots_that_cannot_be_reached_are_503_for_every_way_to_ask() -> None:
    async def scene(owner: FakeOwner, backend: Backend) -> None:
        owner.broken = ActorDiedError()
        asked = ticket("auto", session="s")
        for ask in (backend.judge(asked), backend.current_status(), answered(backend, ticket("law"))):
            with pytest.raises(ApiError, match="cannot be reached") as refused:
                await ask
            assert refused.value.status == 503
            assert "retry-after" in refused.value.headers()

    play(scene, sticky_sessions=True)


def test_a_call_that_is_cancelled_while_it_waits_gives_its_place_up() -> None:
    async def scene(owner: FakeOwner, backend: Backend) -> None:
        owner.may_grant.clear()
        waits = asyncio.ensure_future(answered(backend, ticket("law")))
        await settled()
        waits.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waits

    owner = play(scene)
    assert (len(owner.claims), owner.held) == (1, [])


def test_a_call_that_is_cancelled_while_it_runs_stops_its_generation() -> None:
    async def scene(owner: FakeOwner, backend: Backend) -> None:
        owner.replica.may_answer.clear()
        runs = asyncio.ensure_future(answered(backend, ticket("law")))
        await owner.replica.has_begun.wait()
        runs.cancel()
        with pytest.raises(asyncio.CancelledError):
            await runs

    owner = play(scene)
    assert owner.held == []
    assert owner.replica.cancelled == [one.call for one in owner.claims]


def test_two_calls_with_one_request_id_are_two_calls() -> None:
    async def scene(owner: FakeOwner, backend: Backend) -> None:
        await asyncio.gather(answered(backend, ticket("law")), answered(backend, ticket("law")))

    owner = play(scene)
    assert len({one.call for one in owner.claims}) == 2
    assert owner.held == []


async def pieces_of(backend: Backend, asked: Ticket) -> str:
    asked.verdict = await backend.judge(asked)
    return "".join([piece.delta.text async for pieces in backend.stream(asked) for piece in pieces])


def test_a_stream_that_loses_its_replica_fails_and_is_not_begun_again() -> None:
    async def scene(owner: FakeOwner, backend: Backend) -> None:
        owner.replica.breaks = ActorDiedError()
        with pytest.raises(ApiError) as failed:
            await pieces_of(backend, ticket("law"))
        assert (failed.value.status, failed.value.code) == (500, "engine_died")

    owner = play(scene)
    assert (len(owner.claims), owner.held) == (1, [])


def test_a_stream_that_is_left_early_stops_its_generation() -> None:
    async def scene(owner: FakeOwner, backend: Backend) -> None:
        asked = ticket("law")
        asked.verdict = await backend.judge(asked)
        stream = backend.stream(asked)
        await anext(stream)
        await stream.aclose()

    owner = play(scene)
    assert owner.held == []
    assert owner.replica.cancelled == [one.call for one in owner.claims]


def test_each_choice_has_a_seed_of_its_own_and_the_same_call_the_same_seeds() -> None:
    async def scene(owner: FakeOwner, backend: Backend) -> None:
        for _ in range(2):
            asked = Ticket(id="r", call=call("completions", prompt=["a", "b"], n=2, seed=5, temperature=1.0))
            await answered(backend, asked)
        asked = Ticket(id="r", call=call("chat", max_tokens=3))
        owner.replica.reply = lambda request: generation()
        await answered(backend, asked)

    requests = play(scene).replica.requests
    assert [one.seed for one in requests[:4]] == [one.seed for one in requests[4:8]] == [5, 6, 7, 8]
    assert [one.max_new_tokens for one in requests[-2:]] == [8, 3], "what the call leaves open is the experiment's"


def test_a_standing_replica_is_asked_without_the_owner_and_its_call_is_reported() -> None:
    async def scene(owner: FakeOwner, backend: Backend) -> None:
        owner.standing = {"law-1": StandingReplica("law-1", "law", owner.replica)}
        owner.replica.may_answer.clear()
        renewing = asyncio.ensure_future(backend.renew_forever())
        while not backend._standing.load:
            await asyncio.sleep(0)
        asking = asyncio.ensure_future(answered(backend, ticket("law")))
        await owner.replica.has_begun.wait()
        assert backend._standing.load == {"law": (0, 1)}
        owner.replica.may_answer.set()
        await asking
        assert (owner.claims, backend._standing.num_running) == ([], 0)
        renewing.cancel()

    play(scene)


def test_a_standing_replica_that_dies_is_given_up_for_one_of_the_owners() -> None:
    async def scene(owner: FakeOwner, backend: Backend) -> None:
        backend._standing.update({name: StandingReplica(name, "law", owner.replica) for name in ("law-1", "law-2")})
        owner.replica.dies = 1
        await answered(backend, ticket("law"))
        (claim,) = owner.claims
        assert (claim.model, claim.was_admitted) == ("law", True)
        assert claim.dead in ("law-1", "law-2")

    owner = play(scene)
    assert owner.held == []


def test_a_call_that_waited_for_a_standing_replica_keeps_its_admission_when_it_is_gone() -> None:
    async def scene(owner: FakeOwner, backend: Backend) -> None:
        backend._standing.update({"law-1": StandingReplica("law-1", "law", owner.replica)})
        owner.replica.may_answer.clear()
        asked = [asyncio.ensure_future(answered(backend, ticket("law"))) for _ in range(2)]
        await owner.replica.has_begun.wait()
        backend._standing.update({})
        owner.replica.may_answer.set()
        await asyncio.gather(*asked)
        assert [one.was_admitted for one in owner.claims] == [True]
        await answered(backend, ticket("law"))
        assert not owner.claims[-1].was_admitted

    play(scene, max_running=1)
