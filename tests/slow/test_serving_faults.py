"""The served system under faults: clients that leave, and processes that are killed."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import openai
import psutil
import pytest

from tests.execution.experiments import scripted
from tests.support.served import Endpoint, endpoint_of, num_open, wait_for, write_served

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("local_ray")]

MAX_RUNNING = 3
NUM_INGRESS = 2
ENDLESS = "word " * 20_000  # at the pace below, for longer than any test waits
DISCONNECT_DISABLED = {"x-request-disconnect-disabled": "?1"}


def models(faults: Path) -> dict[str, dict[str, Any]]:
    """A model for each kind of fault: one that lost two processes of late is not tried at once."""
    script = {
        "baseline": scripted(text=ENDLESS, seconds_per_token=0.05),
        "legal-expert": scripted(text="one two three four five", seconds_per_token=0.1),
        "biomedical-expert": scripted(text=ENDLESS, seconds_per_token=0.05),
        "code-expert": scripted(text="fine", crash_on=["poison"], crash_times=2, fault_dir=str(faults)),
    }
    return {name: {**model, "path": f"scripted/{name}"} for name, model in script.items()}


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory, local_ray: None) -> Iterator[Endpoint]:
    folder = tmp_path_factory.mktemp("served")
    experiment = write_served(
        folder, models(folder / "faults"), router=None, max_running=MAX_RUNNING, ingress_replicas=NUM_INGRESS
    )
    experiment = experiment_with_long_answers(experiment)
    with endpoint_of(experiment) as served:
        yield served


def experiment_with_long_answers(experiment: Any) -> Any:
    from dataclasses import replace

    decoding = experiment.config.decoding.model_copy(update={"max_new_tokens": 20_000})
    return replace(experiment, config=experiment.config.model_copy(update={"decoding": decoding}))


def is_free(endpoint: Endpoint, replica: Any) -> bool:
    found = endpoint.metrics()
    return num_open(replica) == found["moe_ray_running_requests"] == found["moe_ray_waiting_requests"] == 0


@pytest.mark.parametrize("headers", [{}, DISCONNECT_DISABLED], ids=["plain", "disconnect disabled"])
@pytest.mark.parametrize("stream", ["false", "true"])
def test_a_client_that_leaves_stops_its_generation_and_frees_its_slot(
    endpoint: Endpoint, stream: str, headers: dict[str, str]
) -> None:
    replica = endpoint.replica("baseline")
    with endpoint.leave_unanswered("baseline", stream=stream, **headers) as connection:
        wait_for(lambda: num_open(replica) == 1)
        if stream == "true":
            assert b"word" in _read_until(connection, b"word")
    wait_for(lambda: is_free(endpoint, replica))


@pytest.mark.parametrize("headers", [{}, DISCONNECT_DISABLED], ids=["plain", "disconnect disabled"])
@pytest.mark.parametrize("stream", ["false", "true"])
def test_a_client_that_leaves_while_it_waits_is_never_answered(
    endpoint: Endpoint, stream: str, headers: dict[str, str]
) -> None:
    replica = endpoint.replica("baseline")
    running = [endpoint.leave_unanswered("baseline", stream="true") for _ in range(MAX_RUNNING)]
    wait_for(lambda: num_open(replica) == MAX_RUNNING)
    with endpoint.leave_unanswered("baseline", stream=stream, **headers):
        wait_for(lambda: endpoint.metrics()["moe_ray_waiting_requests"] == 1)
    wait_for(lambda: endpoint.metrics()["moe_ray_waiting_requests"] == 0)
    assert num_open(replica) == MAX_RUNNING
    for connection in running:
        connection.close()
    wait_for(lambda: is_free(endpoint, replica))


def _read_until(connection: Any, sign: bytes) -> bytes:
    read = b""
    while sign not in read and (more := connection.recv(65536)):
        read += more
    return bytes(read)


def test_a_client_that_reads_nothing_and_leaves_frees_its_slot(endpoint: Endpoint) -> None:
    replica = endpoint.replica("biomedical-expert")
    connection = endpoint.leave_unanswered("biomedical-expert", stream="true")
    wait_for(lambda: num_open(replica) == 1)
    connection.close()
    wait_for(lambda: is_free(endpoint, replica))


def test_calls_with_one_request_id_do_not_end_each_other(endpoint: Endpoint) -> None:
    headers = {"x-request-id": "the-same"}
    with ThreadPoolExecutor(MAX_RUNNING) as threads:
        for _ in range(2):
            answers = list(threads.map(lambda _: endpoint.chat("legal-expert", "x", headers=headers), range(3)))
            assert [answer.status_code for answer in answers] == [200] * 3


def test_no_whole_answer_is_lost_when_the_models_process_is_killed(endpoint: Endpoint) -> None:
    replica = endpoint.replica("legal-expert")
    with ThreadPoolExecutor(12) as threads:
        asked = [threads.submit(endpoint.chat, "legal-expert", f"question {place}") for place in range(24)]
        wait_for(lambda: num_open(replica) == MAX_RUNNING)
        endpoint_kill(replica)
        answers = [one.result() for one in asked]
    assert [(one.status_code, one.text[:0]) for one in answers] == [(200, "")] * 24, [one.text for one in answers]
    assert {one.json()["choices"][0]["message"]["content"] for one in answers} == {"one two three four five"}
    wait_for(lambda: any("replica_deaths" in name for name in endpoint.metrics()))


def endpoint_kill(replica: Any) -> None:
    import os
    import signal

    import ray

    os.kill(ray.get(replica.place.remote()).pid, signal.SIGKILL)


def test_a_stream_whose_model_is_killed_ends_with_an_error_event_and_done(endpoint: Endpoint) -> None:
    body = {"model": "biomedical-expert", "messages": [{"role": "user", "content": "x"}], "stream": True}
    replica = endpoint.replica("biomedical-expert")
    with (
        endpoint.client.stream("POST", "/v1/chat/completions", json=body) as response,
        openai.OpenAI(base_url=f"{endpoint.url}/v1", api_key="none", max_retries=0) as client,
        client.chat.completions.create(**body) as chunks,  # type: ignore[call-overload]
    ):
        lines = response.iter_lines()
        assert "word" in next(line for line in lines if '"word' in line)
        assert next(chunk for chunk in chunks if chunk.choices[0].delta.content)
        endpoint_kill(replica)
        *_, error, done = [line for line in lines if line]
        with pytest.raises(openai.APIError) as failed:
            list(chunks)
    assert json.loads(error.removeprefix("data: "))["error"]["code"] == "engine_died"
    assert done == "data: [DONE]"
    assert failed.value.code == "engine_died"
    assert endpoint.metrics()["moe_ray_running_requests"] == 0


def test_a_request_that_kills_two_processes_is_refused_and_the_model_comes_back(endpoint: Endpoint) -> None:
    response = endpoint.chat("code-expert", "x", headers={"x-request-id": "poison"})
    assert response.status_code == 500, response.text
    assert response.json()["error"]["code"] == "engine_died"
    assert response.headers["x-should-retry"] == "false"
    again = endpoint.chat("code-expert", "x")
    assert again.status_code == 200 or int(again.headers["retry-after"]) > 0
    wait_for(lambda: endpoint.chat("code-expert", "x").status_code == 200)


def test_calls_of_an_ingress_that_is_killed_end_and_others_take_its_place(endpoint: Endpoint) -> None:
    replica = endpoint.replica("baseline")
    running = [endpoint.leave_unanswered("baseline", stream="true") for _ in range(MAX_RUNNING)]
    wait_for(lambda: num_open(replica) == MAX_RUNNING)
    for process in ingress_processes():
        process.kill()
    wait_for(lambda: num_open(replica) == 0)
    wait_for(lambda: _is_answered(endpoint))
    assert endpoint.metrics()["moe_ray_running_requests"] == 0
    for connection in running:
        connection.close()


def _is_answered(endpoint: Endpoint) -> bool:
    try:
        return bool(endpoint.chat("legal-expert", "x").status_code == 200)
    except httpx2.TransportError:
        return False


def ingress_processes() -> list[psutil.Process]:
    named = [one for one in psutil.Process().children(recursive=True) if one.name().startswith("ray::ServeRepl")]
    assert len(named) == NUM_INGRESS, [one.name() for one in psutil.Process().children(recursive=True)]
    return named
