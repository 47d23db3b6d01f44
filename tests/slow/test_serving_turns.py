"""Three models in turns on one slot: swaps, the wait for them, and what must not cause one."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from tests.execution.experiments import scripted
from tests.routing.queries import query
from tests.support.served import Endpoint, endpoint_of, num_open, train_router, wait_for, write_served

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("local_ray")]

MODELS = ("baseline", "legal-expert", "code-expert")
BROKEN = "biomedical-expert"
SLOW = "slow"


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory, local_ray: None) -> Iterator[Endpoint]:
    folder = tmp_path_factory.mktemp("turns")
    models: dict[str, dict[str, Any]] = {
        name: {**scripted(text=f"I am {name}"), "path": f"scripted/{name}"} for name in MODELS
    }
    models[SLOW] = {**scripted(text="word " * 12, seconds_per_token=20.0), "path": "scripted/slow"}
    models[BROKEN] = {**scripted(fail_to_load="no such weights"), "path": "scripted/broken"}
    experiment = write_served(
        folder,
        models,
        router=train_router(folder / "router"),
        num_slots=1,
        max_wait_s=0.5,
        sticky_sessions=True,
        ingress_replicas=2,
    )
    with endpoint_of(experiment) as served:
        yield served


def text(response: Any) -> str:
    assert response.status_code == 200, response.text
    found: str = response.json()["choices"][0]["message"]["content"]
    return found


def num_swaps(endpoint: Endpoint) -> float:
    return endpoint.metrics()["moe_ray_swaps"]


def test_every_model_answers_though_one_slot_holds_one_at_a_time(endpoint: Endpoint) -> None:
    with ThreadPoolExecutor(6) as threads:
        asked = [(name, threads.submit(endpoint.chat, name, "x")) for name in MODELS * 2]
        assert [text(one.result()) for _, one in asked] == [f"I am {name}" for name, _ in asked]
    found = endpoint.metrics()
    assert sum(found[f'moe_ray_model_loaded{{model="{name}"}}'] for name in (*MODELS, BROKEN)) == 1
    assert found["moe_ray_swaps"] >= 2


def test_an_answer_says_how_long_the_swap_took(endpoint: Endpoint) -> None:
    for name in ("baseline", "legal-expert"):
        verdict = endpoint.chat(name, "x").json()["moe_ray"]
    assert verdict["swap_ms"] > 0
    assert endpoint.chat("legal-expert", "x").json()["moe_ray"]["swap_ms"] == 0


@pytest.mark.parametrize("stream", ["false", "true"])
def test_clients_that_leave_while_they_are_answered_free_the_slot_for_the_next_model(
    endpoint: Endpoint, stream: str
) -> None:
    for _ in range(2):
        replica = endpoint.replica(SLOW)
        gone = [endpoint.leave_unanswered(SLOW, stream=stream) for _ in range(3)]
        wait_for(partial(_has_open, replica, 3))
        for connection in gone:
            connection.close()
        assert text(endpoint.chat("baseline", "x")) == "I am baseline"


def _has_open(replica: Any, number: int) -> bool:
    return num_open(replica) == number


def test_a_clients_own_task_is_answered_by_the_loaded_model_without_a_swap(endpoint: Endpoint) -> None:
    text(endpoint.chat("baseline", "x"))
    before = num_swaps(endpoint)
    asked = query("legal", 80_000).text
    for headers, content in (
        ({"x-moe-ray-priority": "background"}, asked),
        (None, f"### Task:\nGenerate a title.\n{asked}"),
    ):
        response = endpoint.chat("auto", content, headers=headers)
        assert text(response) == "I am baseline"
    assert response.json()["moe_ray"]["pinned"] in ("background", None)
    assert num_swaps(endpoint) == before


def test_a_conversation_stays_with_its_first_expert(endpoint: Endpoint) -> None:
    session = {"x-session-id": "conversation-1"}
    first = endpoint.chat("auto", query("legal", 80_100).text, headers=session).json()
    before = num_swaps(endpoint)
    second = endpoint.chat("auto", query("code", 80_101).text, headers=session).json()
    assert first["model"] == second["model"] == "legal-expert"
    assert (first["moe_ray"]["pinned"], second["moe_ray"]["pinned"]) == (None, "session")
    assert num_swaps(endpoint) == before


def test_a_model_that_cannot_be_loaded_fails_its_own_requests_alone(endpoint: Endpoint) -> None:
    with ThreadPoolExecutor(4) as threads:
        broken = [threads.submit(endpoint.chat, BROKEN, "x") for _ in range(2)]
        others = [threads.submit(endpoint.chat, name, "x") for name in MODELS[:2]]
        assert [text(one.result()) for one in others] == [f"I am {name}" for name in MODELS[:2]]
        for one in broken:
            response = one.result()
            assert (response.status_code, response.json()["error"]["code"]) == (503, "model_failed")
            assert "no such weights" in response.json()["error"]["message"]
            assert int(response.headers["retry-after"]) >= 1
