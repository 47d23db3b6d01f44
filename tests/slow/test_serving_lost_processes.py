"""The served system under load when an ingress, or a worker node with all that runs on it, is killed."""

import json
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from tests.execution.commands import command
from tests.execution.experiments import scripted
from tests.support.served import TIMEOUT_S, Endpoint, endpoint_of, num_open, url_of, wait_for, write_served

pytestmark = pytest.mark.slow

SENTENCE = "one two three four five"
ENDLESS = "word " * 20_000
MODELS = ("baseline", "legal-expert", "biomedical-expert")
NUM_CALLERS = 8
NUM_STREAMS = 12  # so many that each ingress has some


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory, local_ray: None) -> Iterator[Endpoint]:
    models = {
        "baseline": {**scripted(text=ENDLESS, seconds_per_token=0.05), "path": "scripted/baseline"},
        "legal-expert": {**scripted(text=SENTENCE, seconds_per_token=0.1), "path": "scripted/legal"},
    }
    folder = tmp_path_factory.mktemp("served")
    experiment = write_served(folder, models, router=None, ingress_replicas=2)
    decoding = experiment.config.decoding.model_copy(update={"max_new_tokens": 20_000})
    with endpoint_of(replace(experiment, config=experiment.config.model_copy(update={"decoding": decoding}))) as served:
        yield served


class Load:
    """Callers that each send the next call when the last is answered, until the context ends; `statuses` are theirs."""

    def __init__(self, url: str, models: tuple[str, ...]) -> None:
        self.answers: list[tuple[int, str]] = []
        self.slowest_s = 0.0
        self._url, self._models, self._is_over = url, models, False

    def __enter__(self) -> "Load":
        self._threads = ThreadPoolExecutor(NUM_CALLERS)
        self._callers: list[Future[None]] = [self._threads.submit(self._call, place) for place in range(NUM_CALLERS)]
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over = True
        self._threads.shutdown()
        for caller in self._callers:
            caller.result()

    def wait_for_more(self, number: int) -> None:
        """Return when so many more calls are answered."""
        enough = len(self.answers) + number
        wait_for(lambda: len(self.answers) >= enough or any(one.done() for one in self._callers))

    def _call(self, place: int) -> None:
        with httpx2.Client(base_url=self._url, timeout=TIMEOUT_S) as client:
            while not self._is_over:
                body = {
                    "model": self._models[place % len(self._models)],
                    "messages": [{"role": "user", "content": "x"}],
                    "max_tokens": 8,
                }
                started = time.perf_counter()
                answer = client.post("/v1/chat/completions", json=body)
                self.slowest_s = max(self.slowest_s, time.perf_counter() - started)
                self.answers.append((answer.status_code, answer.text))


def report(capsys: pytest.CaptureFixture[str], load: Load, ends: list[list[str]], num_streams: int) -> None:
    with capsys.disabled():
        sys.stdout.write(
            f"\n{len(load.answers)} whole answers, {len(refused(load))} refused, the slowest after"
            f" {load.slowest_s:.1f} s; {len(ends)} of {num_streams} streams ended with an error event\n"
        )


def refused(load: Load) -> list[tuple[int, str]]:
    return [answer for answer in load.answers if answer[0] != 200]


class Streams:
    """Streams that are read in threads; `ends` has the last two events of those that have ended."""

    def __init__(self, url: str, model: str, number: int) -> None:
        self._client = httpx2.Client(base_url=url, timeout=TIMEOUT_S)
        self._threads = ThreadPoolExecutor(number)
        self._open: list[Any] = []
        self.num_begun = 0
        self.ends: list[list[str]] = []
        self.read = [self._threads.submit(self._read, model) for _ in range(number)]

    def close(self) -> None:
        for response in self._open:
            response.close()
        self._threads.shutdown()
        self._client.close()

    def _read(self, model: str) -> None:
        body = {"model": model, "messages": [{"role": "user", "content": "x"}], "stream": True}
        with self._client.stream("POST", "/v1/chat/completions", json=body) as response:
            self._open.append(response)
            lines: list[str] = []
            has_begun = False
            try:
                for line in response.iter_lines():
                    if not has_begun and "word" in line:
                        self.num_begun, has_begun = self.num_begun + 1, True
                    lines = [*lines[-1:], line] if line else lines
            except (httpx2.TransportError, httpx2.StreamError) as error:
                lines.append(type(error).__name__)
            self.ends.append(lines[-2:])


@contextmanager
def streaming(url: str, model: str, number: int) -> Iterator[Streams]:
    streams = Streams(url, model, number)
    try:
        wait_for(lambda: streams.num_begun == number)
        yield streams
    finally:
        streams.close()


def require_error_event(ends: list[list[str]], codes: set[str]) -> None:
    for error, done in ends:
        assert json.loads(error.removeprefix("data: "))["error"]["code"] in codes, (error, done)
        assert done == "data: [DONE]"


def ingress_processes() -> list[psutil.Process]:
    return [one for one in psutil.Process().children(recursive=True) if one.name().startswith("ray::ServeRepl")]


def test_a_killed_ingress_loses_no_whole_answer_and_its_streams_end_with_an_error_event(
    endpoint: Endpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    replica = endpoint.replica("baseline")
    with Load(endpoint.url, ("legal-expert",)) as load, streaming(endpoint.url, "baseline", NUM_STREAMS) as streams:
        load.wait_for_more(NUM_CALLERS)
        assert len(ingress_processes()) == 2
        ingress_processes()[0].kill()
        wait_for(lambda: streams.ends)
        load.wait_for_more(4 * NUM_CALLERS)
        wait_for(lambda: num_open(replica) == NUM_STREAMS - len(streams.ends))
        ends = list(streams.ends)
    require_error_event(ends, {"ingress_died"})
    report(capsys, load, ends, NUM_STREAMS)
    assert refused(load) == []
    wait_for(lambda: num_open(replica) == endpoint.metrics()["moe_ray_running_requests"] == 0)
    wait_for(lambda: len(ingress_processes()) == 2)


class Machines:
    """A Ray cluster on this machine: a head without CPUs, and two worker nodes."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        quickly = {"health_check_initial_delay_ms": 500, "health_check_period_ms": 500}
        shared = {"include_dashboard": False, "object_store_memory": 100 << 20}
        head = {"num_cpus": 0, **shared, "_system_config": {**quickly, "health_check_failure_threshold": 3}}
        self._cluster: Any = Cluster(initialize_head=True, head_node_args=head)
        self._workers = [self._cluster.add_node(num_cpus=1, object_store_memory=100 << 20) for _ in range(2)]
        self.address = str(self._cluster.address)

    def processes(self, name: str) -> list[list[psutil.Process]]:
        """The processes of each worker node whose name begins with `name`."""
        below = [_raylet(node).children(recursive=True) for node in self._workers]
        return [[one for one in processes if _name(one).startswith(name)] for processes in below]

    def kill_node(self, index: int) -> None:
        """End a worker node as a power loss would."""
        raylet = _raylet(node := self._workers.pop(index))
        for process in (raylet, *raylet.children(recursive=True)):
            process.kill()
        self._cluster.remove_node(node, allow_graceful=False)

    def shut_down(self) -> None:
        self._cluster.shutdown()


def _raylet(node: Any) -> psutil.Process:
    return psutil.Process(node.all_processes["raylet"][0].process.pid)


def _name(process: psutil.Process) -> str:
    try:
        return process.name()
    except psutil.NoSuchProcess:
        return ""


@pytest.fixture
def machines() -> Iterator[Machines]:
    cluster = Machines()
    yield cluster
    cluster.shut_down()


def test_a_killed_node_loses_no_whole_answer_and_its_models_come_back_elsewhere(
    tmp_path: Path, machines: Machines, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each node has a model; the node that is killed has an ingress too, if any has."""
    models = {
        name: {**scripted(text=SENTENCE, seconds_per_token=0.1), "path": f"scripted/{name}"} for name in MODELS[:2]
    }
    models[MODELS[2]] = {**scripted(text=ENDLESS, seconds_per_token=0.05), "path": "scripted/endless"}
    experiment = write_served(tmp_path, models, router=None, num_slots=1, ingress_replicas=3, max_running=8)
    settings = ("--set", f"runtime.address={machines.address}", "--set", "decoding.max_new_tokens=20000")
    with command("serve", str(experiment.path), *settings, environment={"HOME": str(tmp_path)}) as process:
        url = url_of(process)
        with httpx2.Client(base_url=url, timeout=TIMEOUT_S) as client, Load(url, MODELS[:2]) as load:
            with streaming(url, MODELS[2], 4) as streams:
                load.wait_for_more(NUM_CALLERS)
                victim = _index_of_most([len(one) for one in machines.processes("ray::ServingRep")])
                machines.kill_node(victim)
                load.wait_for_more(6 * NUM_CALLERS)
                ends = list(streams.ends)
            require_error_event(ends, {"ingress_died", "engine_died"})
            load.wait_for_more(NUM_CALLERS)
            for model in MODELS:
                wait_for(lambda model=model: _is_answered(client, model))  # type: ignore[misc]
        report(capsys, load, ends, 4)
        assert refused(load) == []
        wait_for(lambda: "moe_ray_running_requests 0\n" in client_text(url))
        process.terminate()
        out, err = process.communicate(timeout=TIMEOUT_S)
    assert "Traceback" not in out + err


def _index_of_most(numbers: list[int]) -> int:
    assert any(numbers), "a worker node holds a model"
    return numbers.index(max(numbers))


def _is_answered(client: httpx2.Client, model: str) -> bool:
    body = {"model": model, "messages": [{"role": "user", "content": "x"}], "max_tokens": 2}
    return client.post("/v1/chat/completions", json=body).status_code == 200


def client_text(url: str) -> str:
    return httpx2.get(f"{url}/metrics", timeout=TIMEOUT_S).text
