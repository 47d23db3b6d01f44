"""The endpoints' part of an OpenAPI document, made from the tables of fields."""

from collections.abc import Mapping
from typing import Any

from moe_ray.serving.calls import Endpoint
from moe_ray.serving.openai.conversation import ROLES, TEXT_PARTS
from moe_ray.serving.openai.fields import CHAT, COMPLETION, RESPONSES, ROUTE, STRING, TOKENIZE, RequestField, Table
from moe_ray.serving.openai.values import Schema

TABLES: Mapping[Endpoint, Table] = {
    "chat": CHAT,
    "completions": COMPLETION,
    "responses": RESPONSES,
    "route": ROUTE,
    "tokenize": TOKENIZE,
}
PATHS: Mapping[Endpoint, str] = {
    "chat": "/v1/chat/completions",
    "completions": "/v1/completions",
    "responses": "/v1/responses",
    "route": "/v1/route",
    "tokenize": "/tokenize",
}

MODELS_OPERATION = "models"

_INTEGER: Schema = {"type": "integer"}
_NUMBER: Schema = {"type": "number"}


def _object(required: Mapping[str, Schema], optional: Mapping[str, Schema] | None = None) -> dict[str, Any]:
    return {
        "type": "object",
        "required": list(required),
        "properties": {**required, **(optional or {})},
    }


def _list(items: Schema) -> dict[str, Any]:
    return {"type": "array", "items": items}


def _nullable(schema: Schema) -> dict[str, Any]:
    if schema.get("enum") == []:
        return {"type": "null"}
    return {"anyOf": [dict(schema), {"type": "null"}]}


VERDICT = _object(
    {
        "requested": STRING,
        "expert": STRING,
        "probabilities": {"type": "object", "additionalProperties": _NUMBER},
        "confidence": {"type": ["number", "null"]},
        "out_of_domain": {"type": ["boolean", "null"]},
        "fell_back": {"type": "boolean"},
        "pinned": {"type": ["string", "null"]},
        "router_ms": _NUMBER,
        "queue_ms": _NUMBER,
        "swap_ms": _NUMBER,
    }
)
ERROR = _object(
    {
        "error": _object(
            {
                "message": STRING,
                "type": STRING,
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            }
        )
    }
)
_USAGE = _object({"prompt_tokens": _INTEGER, "completion_tokens": _INTEGER, "total_tokens": _INTEGER})
_ENDS: Schema = {"enum": ["stop", "length"]}
_MESSAGE = _object(
    {"role": {"enum": ["assistant"]}, "content": STRING, "refusal": {"type": "null"}}, {"reasoning_content": STRING}
)
_CHOSEN: Mapping[str, Schema] = {
    "id": STRING,
    "model": STRING,
    "router_model_name": STRING,
    "moe_ray": VERDICT,
}


def _choices(name: str, text: Schema) -> dict[str, Any]:
    choice = _object(
        {"index": _INTEGER, name: text, "finish_reason": _ENDS}, {"logprobs": {"type": ["object", "null"]}}
    )
    return _object({**_CHOSEN, "created": _INTEGER, "choices": _list(choice), "usage": _USAGE})


ANSWERS: Mapping[Endpoint, dict[str, Any]] = {
    "chat": _choices("message", _MESSAGE),
    "completions": _choices("text", STRING),
    "responses": _object(
        {
            **_CHOSEN,
            "object": {"enum": ["response"]},
            "created_at": _INTEGER,
            "status": {"enum": ["completed", "incomplete"]},
            "output": _list(_object({"type": {"enum": ["message", "reasoning"]}, "id": STRING})),
            "usage": {"type": "object"},
        }
    ),
    "route": _object(
        {
            "id": STRING,
            "object": {"enum": ["routing.decision"]},
            "selected_model": STRING,
            "classifications": _list(_object({"label": STRING, "score": _NUMBER})),
            "selection_reason": {"enum": ["router", "out_of_domain", "fallback"]},
            "moe_ray": VERDICT,
        }
    ),
    "tokenize": _object({"count": _INTEGER, "max_model_len": _INTEGER, "tokens": _list(_INTEGER)}),
}


_GREETING = [{"role": "user", "content": "Hello"}]
LINKS: Mapping[str, Mapping[str, dict[str, Any]]] = {
    MODELS_OPERATION: {
        "chat_with_the_first": {
            "operationId": "chat",
            "description": "Chat with the first model of the list.",
            "requestBody": {"model": "$response.body#/data/0/id", "messages": _GREETING},
        }
    },
    "route": {
        "chat_with_the_expert": {
            "operationId": "chat",
            "description": "Chat with the model that the router chose for these messages.",
            "requestBody": {"model": "$response.body#/selected_model", "messages": "$request.body#/messages"},
        },
        "ask_the_expert": {
            "operationId": "responses",
            "description": "Ask the model that the router chose for this text.",
            "requestBody": {"model": "$response.body#/selected_model", "input": "$request.body#/input"},
        },
    },
    "tokenize": {
        "complete_the_tokens": {
            "operationId": "completions",
            "description": "Let the model continue the tokens.",
            "requestBody": {"model": "$request.body#/model", "prompt": "$response.body#/tokens"},
        }
    },
}
"""What of an answer goes into a next request, by the operation that gave it."""

_MODEL = _object(
    {
        "id": STRING,
        "object": {"enum": ["model"]},
        "created": _INTEGER,
        "owned_by": STRING,
        "status": _object({"value": {"enum": ["loaded", "loading", "unloaded"]}}),
    },
    {"max_model_len": {"type": ["integer", "null"]}, "moe_ray": {"type": "object"}},
)


def models_extra() -> dict[str, Any]:
    """Return the key `responses` of the operation that lists models."""
    listed = _object({"object": {"enum": ["list"]}, "data": _list(_MODEL)})
    return {"responses": {"200": _answered({"application/json": {"schema": listed}}, MODELS_OPERATION)}}


def _answered(content: dict[str, Any], operation: str) -> dict[str, Any]:
    links = {"links": dict(LINKS[operation])} if operation in LINKS else {}
    return {"description": "the answer", "content": content, **links}


def request_schema(endpoint: Endpoint) -> dict[str, Any]:
    """Return the JSON Schema of the endpoint's requests.

    It does not say what depends on several fields or several messages.
    """
    table = TABLES[endpoint]
    return {
        "type": "object",
        "required": [name for name, field in table.items() if field.required],
        "properties": {name: _property(field) for name, field in table.items()},
    }


def openapi_extra(endpoint: Endpoint) -> dict[str, Any]:
    """Return the keys `requestBody` and `responses` of the endpoint's operation."""
    answer: dict[str, Any] = {"application/json": {"schema": ANSWERS[endpoint]}}
    if "stream" in TABLES[endpoint]:
        answer["text/event-stream"] = {"schema": STRING}
    refusal = {"application/json": {"schema": ERROR}}
    return {
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": request_schema(endpoint)}},
        },
        "responses": {
            "200": _answered(answer, endpoint),
            "4XX": {"description": "the request is refused", "content": refusal},
            "5XX": {"description": "no answer could be made", "content": refusal},
        },
    }


def _property(field: RequestField) -> dict[str, Any]:
    schema = dict(field.schema)
    if field.name in TEXT_PARTS:
        schema = _with_messages(schema, TEXT_PARTS[field.name])
    if not field.required:
        schema = _nullable(schema)
    return schema | ({"description": field.meaning} if field.meaning else {})


def _with_messages(schema: dict[str, Any], kinds: tuple[str, ...]) -> dict[str, Any]:
    """Return `schema`, of which every list is one of messages."""
    if "anyOf" in schema:
        return {"anyOf": [_with_messages(dict(one), kinds) for one in schema["anyOf"]]}
    if schema["type"] != "array":
        return schema
    part = _object({"type": {"enum": list(kinds)}, "text": STRING})
    content = {"anyOf": [STRING, {"type": "array", "items": part}]}
    return schema | {"items": _object({"role": {"enum": list(ROLES)}, "content": content})}
