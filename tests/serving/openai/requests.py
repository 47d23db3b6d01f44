"""Request bodies: a plain one for each endpoint, malformed ones, and those of well-known clients."""

import json
from typing import Any

from moe_ray.serving.calls import ApiCall, CallLimits, Endpoint
from moe_ray.serving.openai.reading import (
    chat_call,
    completion_call,
    responses_call,
    route_call,
    tokenize_call,
)

CANARY = "c4nary"
"""Stands in malformed requests for what a client would not want to read in a log."""

PLAIN: dict[Endpoint, dict[str, Any]] = {
    "chat": {"model": "law", "messages": [{"role": "user", "content": "hi"}]},
    "completions": {"model": "law", "prompt": "hi"},
    "responses": {"model": "law", "input": "hi"},
    "route": {"prompt": "hi"},
    "tokenize": {"prompt": "hi"},
}


def read(endpoint: Endpoint, body: bytes, limits: CallLimits | None = None) -> ApiCall:
    """Read `body` as a request to `endpoint`."""
    limits = limits or CallLimits()
    if endpoint == "chat":
        return chat_call(body, limits=limits)
    if endpoint == "completions":
        return completion_call(body, limits=limits)
    return {"responses": responses_call, "route": route_call, "tokenize": tokenize_call}[endpoint](body)


def call(endpoint: Endpoint, **fields: Any) -> ApiCall:
    """Read the plain request with `fields`."""
    return read(endpoint, json.dumps({**PLAIN[endpoint], **fields}).encode())


def user(content: Any, **fields: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content, **fields}]


_NOT_JSON: list[bytes] = [
    b"",
    b"{",
    b"[]",
    b"null",
    b'"c4nary"',
    b'{"model": "\xff"}',
    b'{"model": "c4nary", "temperature": NaN}',
    b'{"model": "c4nary", "temperature": -Infinity}',
    b'{"model": "c4nary", "temperature": 1e999}',
    b'{"model": "\\ud800"}',
    b'{"\\udfff": 1}',
    b'{"model": "c4nary", "model": "c4nary"}',
    b'{"seed": 18446744073709551616}',
    b'{"seed": -9223372036854775809}',
    b'{"seed": ' + b"9" * 100_000 + b"}",
    b'{"seed": 0.' + b"9" * 100_000 + b"}",
    b'{"a": ' * 65 + b"1" + b"}" * 65,
    b'{"a": ' + b"[" * 100_000,
    b'{"a": "' + b'\\"' * 100_000,
    '{"model": "law"}'.encode("utf-16"),
    b'\xef\xbb\xbf{"model": "law"}',
    b'{"model": "a\x00b"}',
    b"{'model': 'c4nary'}",
    b'{"a": [' + b"[]," * 200_000 + b"1]}",
    b'{"model": "law",}',
]

# endpoint, fields over those of the plain request, the field at fault
_WRONG_FIELDS: list[tuple[Endpoint, dict[str, Any], str]] = [
    ("chat", {"model": None}, "model"),
    ("chat", {"model": ""}, "model"),
    ("chat", {"model": CANARY * 100}, "model"),
    ("chat", {"model": [CANARY]}, "model"),
    ("chat", {"messages": None}, "messages"),
    ("chat", {"messages": []}, "messages"),
    ("chat", {"messages": CANARY}, "messages"),
    ("chat", {"messages": user("a") * 4097}, "messages"),
    ("chat", {"messages": [CANARY]}, "messages[0]"),
    ("chat", {"messages": [{"content": CANARY}]}, "messages[0].role"),
    ("chat", {"messages": [{"role": CANARY, "content": "a"}]}, "messages[0].role"),
    ("chat", {"messages": [{"role": [], "content": "a"}]}, "messages[0].role"),
    ("chat", {"messages": [*user("a"), {"role": "tool", "content": CANARY, "tool_call_id": "1"}]}, "messages[1].role"),
    ("chat", {"messages": [{"role": "function", "content": CANARY}]}, "messages[0].role"),
    ("chat", {"messages": user(None)}, "messages[0].content"),
    ("chat", {"messages": user(4711)}, "messages[0].content"),
    ("chat", {"messages": user([CANARY])}, "messages[0].content[0]"),
    (
        "chat",
        {"messages": user([{"type": "image_url", "image_url": {"url": CANARY}}])},
        "messages[0].content[0].type",
    ),
    ("chat", {"messages": user([{"type": "input_audio", "input_audio": {}}])}, "messages[0].content[0].type"),
    ("chat", {"messages": user([{"type": "text"}])}, "messages[0].content[0].text"),
    ("chat", {"messages": user([{"type": "text", "text": 4711}])}, "messages[0].content[0].text"),
    (
        "chat",
        {"messages": [{"role": "assistant", "content": "a", "tool_calls": [{"id": CANARY}]}, *user("b")]},
        "messages[0].tool_calls",
    ),
    ("chat", {"messages": [*user("a"), {"role": "assistant", "content": CANARY}]}, "messages"),
    ("chat", {"model": "auto", "messages": [{"role": "system", "content": CANARY}]}, "messages"),
    ("chat", {"stream": CANARY}, "stream"),
    ("chat", {"stream": 1}, "stream"),
    ("chat", {"stream_options": CANARY}, "stream_options"),
    ("chat", {"stream_options": {"include_usage": CANARY}}, "stream_options"),
    ("chat", {"stream_options": {"include_obfuscation": True}}, "stream_options"),
    ("chat", {"max_tokens": 0}, "max_tokens"),
    ("chat", {"max_tokens": 2.5}, "max_tokens"),
    ("chat", {"max_tokens": True}, "max_tokens"),
    ("chat", {"max_tokens": CANARY}, "max_tokens"),
    ("chat", {"max_tokens": 2**40}, "max_tokens"),
    ("chat", {"max_completion_tokens": -4711}, "max_completion_tokens"),
    ("chat", {"max_tokens": 4711, "max_completion_tokens": 4712}, "max_tokens"),
    ("chat", {"temperature": -0.1}, "temperature"),
    ("chat", {"temperature": 2.1}, "temperature"),
    ("chat", {"temperature": CANARY}, "temperature"),
    ("chat", {"temperature": False}, "temperature"),
    ("chat", {"top_p": 0}, "top_p"),
    ("chat", {"top_p": 1.1}, "top_p"),
    ("chat", {"stop": [CANARY] * 17}, "stop"),
    ("chat", {"stop": [4711]}, "stop"),
    ("chat", {"stop": CANARY * 1000}, "stop"),
    ("chat", {"seed": 2**63}, "seed"),
    ("chat", {"seed": 1.5}, "seed"),
    ("chat", {"n": 0}, "n"),
    ("chat", {"n": 17}, "n"),
    ("chat", {"logprobs": 1}, "logprobs"),
    ("chat", {"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ("chat", {"top_logprobs": 3}, "top_logprobs"),
    ("chat", {"model": "auto", "logprobs": True}, "logprobs"),
    ("chat", {"store": CANARY}, "store"),
    ("chat", {"user": 4711}, "user"),
    ("chat", {"metadata": CANARY}, "metadata"),
    ("chat", {"tools": [{"type": "function", "function": {"name": CANARY}}]}, "tools"),
    ("chat", {"tool_choice": "required"}, "tool_choice"),
    ("chat", {"functions": [{"name": CANARY}]}, "functions"),
    ("chat", {"response_format": {"type": "json_object"}}, "response_format"),
    ("chat", {"presence_penalty": 0.5}, "presence_penalty"),
    ("chat", {"frequency_penalty": -0.5}, "frequency_penalty"),
    ("chat", {"logit_bias": {"4711": 1}}, "logit_bias"),
    ("chat", {"reasoning_effort": "high"}, "reasoning_effort"),
    ("chat", {"modalities": ["text", "audio"]}, "modalities"),
    ("chat", {"top_k": 40}, "top_k"),
    ("chat", {"min_p": 0.05}, "min_p"),
    ("chat", {"repetition_penalty": 1.1}, "repetition_penalty"),
    ("chat", {"guided_json": {"type": CANARY}}, "guided_json"),
    ("chat", {"ignore_eos": True}, "ignore_eos"),
    ("chat", {"ignore_eos": 0}, "ignore_eos"),
    ("chat", {"min_tokens": 5}, "min_tokens"),
    ("chat", {"continue_final_message": True}, "continue_final_message"),
    ("chat", {"chat_template": CANARY}, "chat_template"),
    ("chat", {"chat_template_kwargs": {"enable_thinking": False}}, "chat_template_kwargs"),
    ("completions", {"prompt": None}, "prompt"),
    ("completions", {"prompt": []}, "prompt"),
    ("completions", {"prompt": [[]]}, "prompt"),
    ("completions", {"prompt": [CANARY, 4711]}, "prompt"),
    ("completions", {"prompt": [-4711]}, "prompt"),
    ("completions", {"prompt": [1, True]}, "prompt"),
    ("completions", {"prompt": [[[4711]]]}, "prompt"),
    ("completions", {"prompt": ["a"] * 129}, "prompt"),
    ("completions", {"prompt": ["a"] * 1025}, "prompt"),
    ("completions", {"prompt": [1, 2**31]}, "prompt"),
    ("completions", {"prompt": ["a"] * 9, "n": 16}, "n"),
    ("completions", {"model": "auto", "prompt": [CANARY, "b"]}, "prompt"),
    ("completions", {"model": "auto", "prompt": [4711]}, "prompt"),
    ("completions", {"model": "auto", "logprobs": 1}, "logprobs"),
    ("completions", {"model": "auto", "echo": True}, "echo"),
    ("completions", {"echo": True, "stream": True}, "echo"),
    ("completions", {"logprobs": True}, "logprobs"),
    ("completions", {"logprobs": 21}, "logprobs"),
    ("completions", {"best_of": 2}, "best_of"),
    ("completions", {"suffix": CANARY}, "suffix"),
    ("completions", {"max_tokens": 0, "echo": True}, "max_tokens"),
    ("completions", {"use_beam_search": True}, "use_beam_search"),
    ("responses", {"input": None}, "input"),
    ("responses", {"input": []}, "input"),
    ("responses", {"input": [{"type": "item_reference", "id": CANARY}]}, "input[0].type"),
    ("responses", {"input": [{"type": "reasoning", "summary": []}]}, "input"),
    (
        "responses",
        {"input": user([{"type": "input_image", "image_url": CANARY}])},
        "input[0].content[0].type",
    ),
    ("responses", {"instructions": 4711}, "instructions"),
    ("responses", {"store": True}, "store"),
    ("responses", {"previous_response_id": CANARY}, "previous_response_id"),
    ("responses", {"conversation": CANARY}, "conversation"),
    ("responses", {"background": True}, "background"),
    ("responses", {"include": ["reasoning.encrypted_content"]}, "include"),
    ("responses", {"reasoning": {"effort": "high"}}, "reasoning"),
    ("responses", {"text": {"format": {"type": "json_schema", "name": CANARY}}}, "text"),
    ("responses", {"tools": [{"type": "web_search"}]}, "tools"),
    ("responses", {"truncation": "auto"}, "truncation"),
    ("responses", {"model": "auto", "input": [{"role": "system", "content": CANARY}]}, "input"),
    ("route", {"prompt": None}, "messages"),
    ("route", {"input": CANARY}, "input"),
    ("route", {"prompt": [CANARY]}, "prompt"),
    ("route", {"prompt": None, "messages": [{"role": "system", "content": CANARY}]}, "messages"),
    ("tokenize", {"prompt": None}, "prompt"),
    ("tokenize", {"messages": user(CANARY)}, "messages"),
    ("tokenize", {"add_special_tokens": "c4nary"}, "add_special_tokens"),
]

MALFORMED: list[tuple[Endpoint, bytes, str | None]] = [
    *(("chat", body, None) for body in _NOT_JSON),
    *(
        (endpoint, json.dumps({**PLAIN[endpoint], **fields}).encode(), param)
        for endpoint, fields, param in _WRONG_FIELDS
    ),
    ("chat", b'{"messages": [{"role": "user", "content": "c4nary"}]}', "model"),
    ("completions", b'{"model": "c4nary"}', "prompt"),
]

_TITLE_TASK = (
    "### Task:\nGenerate a concise, 3-5 word title with an emoji summarizing the chat history.\n"
    "### Chat History:\n<chat_history>\nUSER: Is a lease binding?\nASSISTANT: Often.\n</chat_history>"
)
CLIENTS: dict[str, tuple[Endpoint, dict[str, Any]]] = {
    "openai": (
        "chat",
        {
            "messages": [{"role": "developer", "content": "Be short."}, *user("Is a lease binding?")],
            "model": "auto",
            "max_completion_tokens": 200,
            "metadata": {"team": "a"},
            "reasoning_effort": None,
            "response_format": {"type": "text"},
            "service_tier": "auto",
            "store": False,
        },
    ),
    "continue": (
        "chat",
        {
            "messages": [
                {"role": "system", "content": "You are a coding assistant."},
                {"role": "user", "content": [{"type": "text", "text": "Explain this."}, {"type": "text", "text": "x"}]},
                {"role": "assistant", "content": "It adds.", "tool_calls": []},
                {"role": "user", "content": [{"type": "text", "text": "Shorter."}]},
            ],
            "model": "auto",
            "max_tokens": 4096,
            "temperature": 0.5,
            "stream": True,
            "stream_options": {"include_usage": True},
            "stop": ["<|im_end|>"],
        },
    ),
    "continue, autocompletion": (
        "completions",
        {
            "model": "programs",
            "prompt": "def add(a, b):\n",
            "max_tokens": 128,
            "temperature": 0.01,
            "stream": True,
            "stream_options": {"include_usage": True},
            "stop": ["\n\n", "<|endoftext|>"],
            "presence_penalty": 0,
            "frequency_penalty": 0,
        },
    ),
    "Open WebUI": (
        "chat",
        {
            "stream": True,
            "model": "auto",
            "messages": user("Is a lease binding?"),
            "params": {},
            "features": {"image_generation": False, "web_search": False},
            "variables": {"{{USER_NAME}}": "Ann"},
            "model_item": {"id": "auto", "object": "model"},
            "session_id": "s",
            "chat_id": "c",
            "id": "m",
            "background_tasks": {"title_generation": True},
            "stream_options": {"include_usage": True},
        },
    ),
    "Open WebUI, title": (
        "chat",
        {
            "model": "auto",
            "messages": user(_TITLE_TASK),
            "stream": False,
            "max_completion_tokens": 1000,
            "metadata": {"task": "title_generation", "chat_id": "c"},
        },
    ),
    "LibreChat": (
        "chat",
        {
            "model": "auto",
            "user": "66b",
            "stream": True,
            "temperature": 1,
            "top_p": 1,
            "presence_penalty": 0,
            "frequency_penalty": 0,
            "stream_options": {"include_usage": True},
            "messages": [{"role": "user", "name": "ann", "content": "Is a lease binding?"}],
        },
    ),
    "lm-eval, likelihood": (
        "completions",
        {
            "model": "law",
            "prompt": [[1, 2, 3], [4, 5]],
            "temperature": 0,
            "max_tokens": 1,
            "logprobs": 1,
            "seed": 1234,
            "echo": True,
        },
    ),
    "lm-eval, generation": (
        "completions",
        {
            "prompt": [[1, 2, 3]],
            "model": "law",
            "max_tokens": 256,
            "temperature": 0,
            "stop": ["Q:", "</s>"],
            "seed": 1234,
        },
    ),
    "lm-eval, chat": (
        "chat",
        {
            "messages": [{"role": "user", "content": "Q: 1+1?", "type": "text"}],
            "model": "auto",
            "max_tokens": 256,
            "temperature": 0,
            "stop": ["Q:", "</s>", "<|im_end|>", ""],
            "seed": 1234,
        },
    ),
    "guidellm": (
        "chat",
        {
            "model": "auto",
            "messages": [{"role": "user", "content": [{"type": "text", "text": "Is a lease binding?"}]}],
            "stream": True,
            "stream_options": {"include_usage": True, "continuous_usage_stats": None},
            "max_completion_tokens": 64,
        },
    ),
    "vllm bench": (
        "completions",
        {
            "model": "law",
            "prompt": "Is a lease binding?",
            "temperature": 0.0,
            "repetition_penalty": 1.0,
            "max_tokens": 128,
            "logprobs": None,
            "stream": True,
            "stream_options": {"include_usage": True},
        },
    ),
    "vllm bench, chat": (
        "chat",
        {
            "model": "law",
            "messages": [{"role": "user", "content": [{"type": "text", "text": "Is a lease binding?"}]}],
            "temperature": 0.0,
            "max_completion_tokens": 128,
            "stream": True,
            "stream_options": {"include_usage": True},
        },
    ),
    "agents, responses": (
        "responses",
        {
            "model": "auto",
            "instructions": "Be short.",
            "input": [
                {"role": "user", "content": "hi"},
                {"type": "reasoning", "id": "rs-1", "summary": []},
                {
                    "type": "message",
                    "id": "msg-1",
                    "role": "assistant",
                    "status": "completed",
                    "content": [{"type": "output_text", "text": "Hello.", "annotations": [], "logprobs": []}],
                },
                {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Is a lease binding?"}]},
            ],
            "include": [],
            "parallel_tool_calls": False,
            "tools": [],
            "tool_choice": "auto",
            "truncation": "disabled",
            "store": False,
            "stream": True,
        },
    ),
}
