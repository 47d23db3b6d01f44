"""The served system from a client's side: OpenAI's client, curl, recorded clients, and the texts of an evaluation."""

import asyncio
import json
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx2
import openai
import pytest

from moe_ray.routing.router import Router
from moe_ray.runs import evaluate as pipeline
from moe_ray.serving.openai.schema import PATHS
from tests.engines.openai_api import Api
from tests.engines.openai_api import serving as serving_api
from tests.execution.experiments import Recorder, content
from tests.routing.queries import DOMAINS, query
from tests.serving.openai.requests import CLIENTS, MALFORMED
from tests.support.served import EXPERTS, Endpoint, endpoint_of, of_every_engine, train_router, write_served

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("local_ray")]

MODELS = ("baseline", "code-expert", "legal-expert", "biomedical-expert")
PARTS = ("router", "queue", "swap", "engine")


@dataclass(frozen=True, kw_only=True)
class Scene:
    """An experiment that was evaluated and is served: the rows of its answers, its endpoint, a model's API."""

    rows: list[dict[str, Any]]
    endpoint: Endpoint
    api: Api


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory, local_ray: None) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("served")
    with serving_api(Api()) as api:
        router = train_router(folder / "router")
        experiment = write_served(folder, of_every_engine(folder, api), router=router)
        outcome = pipeline.evaluate(experiment, Recorder())
        assert outcome.abandoned == ()
        with endpoint_of(experiment) as endpoint:
            yield Scene(rows=content(outcome.run), endpoint=endpoint, api=api)


@pytest.fixture
def endpoint(scene: Scene) -> Endpoint:
    return scene.endpoint


@pytest.fixture
def client(endpoint: Endpoint) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{endpoint.url}/v1", api_key="none", max_retries=0) as found:
        yield found


def messages(text: str) -> Any:
    return [{"role": "user", "content": text}]


def served_text(endpoint: Endpoint, row: dict[str, Any], *, stream: bool) -> tuple[str, str]:
    """Ask for what the evaluation asked; return text and finish reason."""
    settings = json.loads(row["settings"])
    body = {
        "model": row["model"],
        "messages": json.loads(row["messages"]),
        "max_tokens": settings["max_new_tokens"],
        "stop": settings["stop"],
        "stream": stream,
    }
    response = endpoint.client.post(PATHS["chat"], json=body, headers={"x-request-id": row["example_id"]})
    assert response.status_code == 200, response.text
    if not stream:
        choice = response.json()["choices"][0]
        return choice["message"]["content"], choice["finish_reason"]
    *events, done = response.text.strip().split("\n\n")
    assert done == "data: [DONE]"
    choices = [json.loads(event.removeprefix("data: "))["choices"][0] for event in events]
    return "".join(one["delta"].get("content", "") for one in choices), choices[-1]["finish_reason"]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("num_at_once", [1, 8])
def test_served_text_is_evaluated_text(scene: Scene, model: str, stream: bool, num_at_once: int) -> None:
    rows = [row for row in scene.rows if row["model"] == model]
    assert {row["error"] for row in rows} == {None}
    assert len({row["text"] for row in rows}) > 1, "the texts say nothing if all are alike"
    with ThreadPoolExecutor(num_at_once) as threads:
        found = list(threads.map(lambda row: served_text(scene.endpoint, row, stream=stream), rows))
    assert found == [(row["text"], row["finish_reason"]) for row in rows]


def test_auto_goes_where_the_router_says_with_its_probabilities(endpoint: Endpoint) -> None:
    texts = [query(label, 60_000 + place).text for label in (*DOMAINS, "sports") for place in range(3)]
    assert endpoint.served.system.router_dir is not None
    routes = Router.load(endpoint.served.system.router_dir).route(texts)
    assert {route.is_out_of_domain for route in routes} == {True, False}
    for text, route in zip(texts, routes, strict=True):
        response = endpoint.chat("auto", text, max_tokens=1)
        verdict = response.json()["moe_ray"]
        assert verdict["probabilities"] == pytest.approx(route.probabilities, abs=1e-6)
        assert (verdict["out_of_domain"], verdict["fell_back"]) == (route.is_out_of_domain, route.is_out_of_domain)
        expert = "baseline" if route.is_out_of_domain else EXPERTS[route.domain]
        assert response.json()["model"] == response.headers["x-moe-ray-model"] == verdict["expert"] == expert
        alone = endpoint.client.post(PATHS["route"], json={"prompt": text}).json()
        assert alone["selected_model"] == expert
        assert alone["moe_ray"]["probabilities"] == verdict["probabilities"]


def test_openais_client_chats_streams_and_lists_models(client: openai.OpenAI) -> None:
    asked = query("legal", 61_000).text
    whole = client.chat.completions.create(model="auto", messages=messages(asked))
    assert whole.model == "legal-expert"
    assert whole.usage is not None
    assert whole.usage.completion_tokens > 0
    *chunks, last = client.chat.completions.create(
        model="auto", messages=messages(asked), stream=True, stream_options={"include_usage": True}
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert last.usage is not None
    assert [model.id for model in client.models.list()] == ["auto", *MODELS]
    assert client.completions.create(model="baseline", prompt="the drug is", max_tokens=3).choices[0].text
    assert client.responses.create(model="baseline", input="the drug is", store=False).output_text
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="none", messages=messages("hi"))


def test_openais_asynchronous_client_streams_several_answers_at_once(endpoint: Endpoint) -> None:
    async def ask(client: openai.AsyncOpenAI, model: str) -> str:
        stream = await client.chat.completions.create(model=model, messages=messages("the drug is"), stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def ask_all() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{endpoint.url}/v1", api_key="none", max_retries=0) as client:
            return await asyncio.gather(*(ask(client, model) for model in (*MODELS, *MODELS)))

    answers = asyncio.run(ask_all())
    assert all(answers)
    assert [answers[place] for place in (0, 1, 3)] == [answers[place] for place in (4, 5, 7)]


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_curl_gets_an_answer_from_the_line_that_the_command_prints(endpoint: Endpoint) -> None:
    from moe_ray.cli.serve import _first_line

    done = subprocess.run(
        ["sh", "-c", f"{_first_line(endpoint.served)} --silent --show-error --fail"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["object"] == "chat.completion"


@pytest.mark.parametrize("name", sorted(CLIENTS))
def test_recorded_requests_of_clients_get_2xx(endpoint: Endpoint, name: str) -> None:
    path, body = CLIENTS[name]
    named = {**body, "model": "auto" if body.get("model") == "auto" else "baseline"}
    fewer = {key: min(named[key], 16) for key in ("max_tokens", "max_completion_tokens") if named.get(key)}
    response = endpoint.client.post(PATHS[path], json=named | fewer)
    assert response.status_code == 200, response.text


def test_malformed_requests_are_refused_over_http(endpoint: Endpoint) -> None:
    for path, body, _ in MALFORMED:
        response = endpoint.client.post(PATHS[path], content=body, headers={"content-type": "application/json"})
        assert response.status_code in (400, 413), response.text
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}


def test_a_prompt_that_is_too_long_is_400_with_both_numbers(endpoint: Endpoint) -> None:
    for stream in (False, True):
        response = endpoint.chat("code-expert", "the drug " * 200, stream=stream)
        error = response.json()["error"]
        assert (response.status_code, error["code"]) == (400, "context_length_exceeded")
        assert "128" in error["message"]


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("chat", {"messages": messages("the drug is"), "logprobs": True, "top_logprobs": 2}),
        ("completions", {"prompt": "the drug is", "logprobs": 2}),
        ("completions", {"prompt": [3, 14, 15], "logprobs": 2, "echo": True}),
    ],
)
def test_log_probabilities_of_a_model_behind_an_api_are_those_of_the_api(
    scene: Scene, path: Any, asked: dict[str, Any]
) -> None:
    asked = {**asked, "max_tokens": 4, "temperature": 0}
    served = scene.endpoint.client.post(PATHS[path], json={"model": "biomedical-expert", **asked})
    own = httpx2.post(scene.api.base_url + PATHS[path].removeprefix("/v1"), json={"model": "tiny", **asked})
    assert (served.status_code, own.status_code) == (200, 200), served.text
    choice, upstream = served.json()["choices"][0], own.json()["choices"][0]
    assert choice["logprobs"] == upstream["logprobs"]
    assert choice.get("text") == upstream.get("text")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("ability", ["refused", "ignored"])
def test_log_probabilities_that_an_api_does_not_give_are_400(
    scene: Scene, ability: Any, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scene.api, "logprobs", ability)
    response = scene.endpoint.chat("biomedical-expert", "the drug is", logprobs=True, stream=stream)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "logprobs"), response.text


def test_tokens_and_tokenizer_are_those_of_the_model(endpoint: Endpoint) -> None:
    body = endpoint.client.post(PATHS["tokenize"], json={"model": "baseline", "prompt": "yes no"}).json()
    assert (body["count"], body["max_model_len"]) == (len(body["tokens"]), 512)
    assert endpoint.client.get("/tokenizer_info?model=baseline").json()["eos_token"] == "</s>"
    remote = endpoint.client.post(PATHS["tokenize"], json={"model": "biomedical-expert", "prompt": "yes"})
    assert (remote.status_code, remote.json()["error"]["param"]) == (400, "model")


def test_all_models_are_loaded_and_the_server_is_ready(endpoint: Endpoint) -> None:
    listed = {one["id"]: one for one in endpoint.client.get("/v1/models").json()["data"]}
    assert {name: one["status"]["value"] for name, one in listed.items()} == dict.fromkeys(("auto", *MODELS), "loaded")
    assert listed["legal-expert"]["moe_ray"] == {"role": "expert", "domains": ["legal"]}
    for path in ("/readyz", "/healthz", "/", "/openapi.json"):
        assert endpoint.client.get(path).status_code == 200


def test_the_parts_of_the_time_are_within_the_time_of_the_requests(endpoint: Endpoint) -> None:
    before = endpoint.totals()
    for place in range(4):
        endpoint.chat("auto", query("code", 62_000 + place).text)
        endpoint.chat("auto", query("code", 63_000 + place).text, stream=True)
    after = endpoint.totals()
    spent = {name: after[name] - before.get(name, 0.0) for name in after}
    assert spent["moe_ray_engine_seconds_count"] == spent["moe_ray_queue_seconds_count"] == 8
    parts = sum(spent.get(f"moe_ray_{part}_seconds_sum", 0.0) for part in PARTS)
    assert 0 < spent["moe_ray_engine_seconds_sum"] <= parts <= spent["moe_ray_request_seconds_sum"]
    assert spent["moe_ray_completion_tokens_total"] > 8
