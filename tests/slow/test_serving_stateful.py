"""Sequences of requests that schemathesis makes along the links of the served OpenAPI document."""

import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from moe_ray.serving.openai.schema import LINKS, PATHS
from tests.engines.openai_api import Api
from tests.engines.openai_api import serving as serving_api
from tests.support.fuzzed import MARKS, document_of, fuzzing, require_ready
from tests.support.served import (
    Endpoint,
    endpoint_of,
    of_every_engine,
    require_refusal_in_openais_shape,
    train_router,
    write_served,
)

pytestmark = MARKS

NUM_SEQUENCES, NUM_STEPS = 60, 6
TEXTS = ("messages", "prompt", "input")


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory, local_ray: None) -> Iterator[Endpoint]:
    folder: Path = tmp_path_factory.mktemp("served")
    with serving_api(Api()) as api:
        experiment = write_served(folder, of_every_engine(folder, api), router=train_router(folder / "router"))
        with endpoint_of(experiment) as served:
            yield served


def make_answerable(case: Any) -> None:
    """Change a first request so that it can be answered: one text only, of the user, and a model that is there.

    The change depends on the request alone, because Hypothesis wants the same from the same draws.
    """
    body = case.body
    if not isinstance(body, dict) or case.path not in (PATHS["route"], PATHS["tokenize"]):
        return
    chosen = zlib.crc32(repr(body).encode("utf-8", "surrogatepass"))
    if case.path == PATHS["route"] and chosen % 2:
        body["input"] = body.get("input") or "Is the contract valid?"
        given = ["input"]
    else:
        given = [name for name in TEXTS if body.get(name)]
    for name in TEXTS:
        if given and name != given[chosen // 2 % len(given)]:
            body.pop(name, None)
    if isinstance(body.get("messages"), list) and isinstance(body["messages"][-1], dict):
        body["messages"][-1]["role"] = "user"
    if case.path == PATHS["tokenize"]:
        body["model"] = ("baseline", "code-expert")[chosen % 2]


FIRST: dict[str, dict[str, Any]] = {
    "chat_with_the_expert": {"messages": [{"role": "user", "content": "Is the contract valid?"}]},
    "ask_the_expert": {"input": "Is the contract valid?"},
    "complete_the_tokens": {"model": "baseline", "prompt": "Is the contract valid?"},
}


@pytest.mark.parametrize(
    ("operation", "name"), [(operation, name) for operation, links in LINKS.items() for name in links]
)
def test_every_link_of_the_document_leads_to_an_answer(endpoint: Endpoint, operation: str, name: str) -> None:
    first = FIRST.get(name)
    if first is None:
        answer = endpoint.client.get("/v1/models").json()
    else:
        answer = endpoint.client.post(PATHS[operation], json=first).json()  # type: ignore[index]
    link = LINKS[operation][name]
    body = {key: resolved(value, first, answer) for key, value in link["requestBody"].items()}
    reply = endpoint.client.post(PATHS[link["operationId"]], json=body)
    assert reply.status_code == 200, reply.text


def resolved(value: Any, request: Any, response: Any) -> Any:
    """Return what a runtime expression of OpenAPI stands for; other values as they are."""
    if not isinstance(value, str) or not value.startswith("$"):
        return value
    source, _, pointer = value.partition("#/")
    found = request if source == "$request.body" else response
    for part in pointer.split("/"):
        found = found[int(part)] if isinstance(found, list) else found[part]
    return found


def test_no_sequence_along_the_links_ends_in_a_fault(endpoint: Endpoint, capsys: pytest.CaptureFixture[str]) -> None:
    followed: Counter[str] = Counter()
    num_answered: Counter[str] = Counter()
    statuses: Counter[int] = Counter()
    machine: Any = document_of(endpoint).as_state_machine()

    class Sequence(machine):  # type: ignore[misc]
        def step(self, input: Any) -> Any:
            if input.transition is None:
                make_answerable(input.case)
            output = super().step(input)
            statuses[output.response.status_code] += 1
            if input.transition is not None and input.is_applied:
                followed[input.transition.id] += 1
                num_answered[input.transition.id] += output.response.status_code == 200
            return output

        def validate_response(self, response: Any, case: Any, **_options: Any) -> None:
            require_refusal_in_openais_shape(response)

    Sequence.run(settings=fuzzing(NUM_SEQUENCES, stateful_step_count=NUM_STEPS, derandomize=True))
    summary = f"{statuses.total()} requests, {dict(statuses)}; answered by link {num_answered}"
    require_ready(endpoint, summary, capsys)
    names = {name for links in LINKS.values() for name in links}
    # Which links a sequence follows is drawn at random.
    assert {name for name in names if any(name in link for link in followed)}
    assert num_answered.total() > 0
