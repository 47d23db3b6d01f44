"""The OpenAPI description is that of what is read and written."""

import json
from typing import Any

import pytest

from moe_ray.serving.calls import ApiError, Endpoint
from moe_ray.serving.openai.bodies import route_body, tokenize_body
from moe_ray.serving.openai.schema import ANSWERS, ERROR, PATHS, TABLES, openapi_extra, request_schema
from moe_ray.serving.openai.values import conforms, described
from tests.serving.openai.requests import CLIENTS, PLAIN, call
from tests.serving.openai.streams import VERDICT, generation, writer


@pytest.mark.parametrize("endpoint", TABLES)
def test_the_plain_request_is_as_the_schema_says(endpoint: Endpoint) -> None:
    assert conforms(PLAIN[endpoint], request_schema(endpoint))


@pytest.mark.parametrize("client", CLIENTS)
def test_the_requests_of_clients_are_as_the_schema_says(client: str) -> None:
    endpoint, body = CLIENTS[client]
    if endpoint != "responses":  # The schema leaves out the reasoning items that are ignored.
        assert conforms(body, request_schema(endpoint))


@pytest.mark.parametrize("endpoint", ["chat", "completions", "responses"])
def test_answers_are_as_the_schema_says(endpoint: Any) -> None:
    body = json.loads(writer(call(endpoint)).whole([generation("Yes.", reasoning="hm")]))
    assert conforms(body, ANSWERS[endpoint])
    assert not conforms({**body, "id": 1}, ANSWERS[endpoint])


def test_the_other_bodies_are_as_the_schema_says() -> None:
    assert conforms(route_body(VERDICT, request_id="r1"), ANSWERS["route"])
    assert conforms(tokenize_body([1], context_length=5), ANSWERS["tokenize"])
    assert conforms(ApiError(400, "no").body(), ERROR)


@pytest.mark.parametrize("endpoint", PATHS)
def test_the_description_is_json(endpoint: Endpoint) -> None:
    extra = openapi_extra(endpoint)
    assert json.loads(json.dumps(extra)) == extra
    content = extra["responses"]["200"]["content"]
    assert ("text/event-stream" in content) == ("stream" in TABLES[endpoint])


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "number", "exclusiveMinimum": 0, "maximum": 1}, "a number above 0 and up to 1"),
        ({"type": "array", "items": {"type": "string"}, "minItems": 1}, "a list of at least 1 entries, each a string"),
        ({"type": ["string", "null"], "maxLength": 5}, "a string or null of up to 5 characters"),
        ({"enum": [False, "a"]}, 'false or "a"'),
    ],
)
def test_schemas_are_put_into_words(schema: dict[str, Any], words: str) -> None:
    assert described(schema) == words
