"""OpenAI's own client reads the streams, over a transport in memory."""

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from openai import APIError, OpenAI

from moe_ray.engines.base import Delta
from moe_ray.serving.calls import ApiError, Endpoint
from moe_ray.serving.openai.schema import PATHS
from tests.serving.openai.requests import read
from tests.serving.openai.streams import LAST, writer

_DELTAS = (Delta(reasoning="hm"), Delta(text="Y\u00e9s\u2028"), Delta(text="\n\ndata: x"), LAST)
_TEXT = "Y\u00e9s\u2028\n\ndata: x"
_ENDPOINTS: dict[str, Endpoint] = {path: endpoint for endpoint, path in PATHS.items()}


def _answer(request: httpx2.Request) -> httpx2.Response:
    """Answer with the stream of the deltas; the model "broken" fails after the second."""
    call = read(_ENDPOINTS[request.url.path], request.read())
    out = writer(call)
    sent = out.start()
    if call.model == "broken":
        sent += b"".join(out.delta(0, one) for one in _DELTAS[:2])
        sent += out.failure(ApiError(500, "the engine died", kind="server_error"))
    else:
        sent += b"".join(out.delta(0, one) for one in _DELTAS) + out.end()
    return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=sent)


@pytest.fixture
def client() -> Iterator[OpenAI]:
    transport = httpx2.Client(transport=httpx2.MockTransport(_answer))
    with OpenAI(base_url="http://moe.test/v1", api_key="none", http_client=transport, max_retries=0) as found:
        yield found


def _chat(client: OpenAI, model: str) -> Any:
    return client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "hi"}],
        stream=True,
        stream_options={"include_usage": True},
    )


def test_the_client_streams_a_chat(client: OpenAI) -> None:
    *chunks, last = list(_chat(client, "auto"))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == _TEXT
    assert [chunk.usage for chunk in chunks] == [None] * len(chunks)
    assert last.usage.total_tokens == 8
    assert json.loads(last.to_json())["moe_ray"]["expert"] == "law"


def test_the_client_streams_a_completion(client: OpenAI) -> None:
    chunks = list(client.completions.create(model="auto", prompt="hi", stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == _TEXT


def test_the_client_streams_a_response(client: OpenAI) -> None:
    found = list(client.responses.create(model="auto", input="hi", stream=True))
    assert "".join(one.delta for one in found if one.type == "response.output_text.delta") == _TEXT
    assert found[-1].type == "response.completed"


def test_a_stream_that_breaks_raises_in_the_client(client: OpenAI) -> None:
    with pytest.raises(APIError, match="the engine died"):
        list(_chat(client, "broken"))
