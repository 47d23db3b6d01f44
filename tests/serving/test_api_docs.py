"""docs/reference/serving-api.md lists every field of every endpoint as the code has them.

Write it again with `python -m tests.serving.test_api_docs`.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from moe_ray.serving.calls import Endpoint
from moe_ray.serving.openai.fields import OTHER_SERVERS, OTHER_SERVERS_ACCOUNTING, RequestField
from moe_ray.serving.openai.schema import PATHS, TABLES
from moe_ray.serving.openai.values import described

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "serving-api.md"
INTRODUCTION = """\
# The served API

The API is OpenAI's, with additions: `auto` as a model, which lets the router choose, the object `moe_ray` in every
answer, and `/v1/route`, which routes and generates nothing.

## Fields of requests

Every known field is of one of three kinds; null means that a field is absent.

- **Obeyed**: the field shapes the answer, or the request is refused.
- **No effect**: the field could not change an answer (accounting, caches). Any value of its type is accepted.
- **Unsupported**: the field would change the answer, here or on another server. Only null and the values listed, which
  ask for nothing, are accepted.

Unknown fields have no effect. The response header `x-moe-ray-ignored` lists their names, at most 16, as
`name` or `messages.name`.

A refused request gets status 400 and OpenAI's error object; `param` names the field, and the message repeats nothing of
the request. JSON must be one object in UTF-8, at most 64 levels deep, without duplicate keys, NaN, infinities, lone
surrogates, or integers outside of 64 bits, and of at most 200,000 strings, lists and objects.

A number without a fraction is an integer: `5.0` is accepted for `5`. A request asks for at most 128 answers, which is
the number of its prompts times `n`.

## Answers

`model` is the model that answered, and `router_model_name` the name in the request. `moe_ray` says which model was
chosen and why:

| key | meaning |
| --- | --- |
| `requested` | the `model` of the request |
| `expert` | the model that answered |
| `probabilities` | the router's probability of each expert; empty if it was not asked |
| `confidence` | the largest of them |
| `out_of_domain` | the query belongs to no expert |
| `fell_back` | the baseline answered in place of the router's choice |
| `pinned` | why the router was not obeyed: `session` or `background` |
| `router_ms`, `queue_ms`, `swap_ms` | time spent on routing, waiting for a slot, and loading the model |

In a stream, `moe_ray` is in the first event and in the last event of each choice, and `router_model_name` in every
event. Token counts come in a last event with no choices, if `stream_options.include_usage` asks for them; `usage` is
null or absent elsewhere. A reasoning trace is `reasoning_content`, beside the text. An error after the first byte is an
event `{"error": ...}`, followed by `[DONE]`.

Log-probabilities are natural logarithms of the model's own distribution, before `temperature` and `top_p`; -9999.0
stands for minus infinity. A token that is a part of a character has U+FFFD in its text. Models of the transformers
engine give log-probabilities and echo prompts, and so does an engine of your own that says so. Models behind an API
(engines `endpoint` and `server`) give what their API gives, as it gives it. `logprobs` and `echo` are refused with 400
where an engine or its API cannot give them.
"""
PROSE: dict[Endpoint, str] = {
    "chat": """\
The roles are `system` (also called `developer`), `user` and `assistant`; `content` is a text, or a list of text parts,
which are joined by line breaks. Images, audio, files and tools are refused, and so is a conversation that ends with the
assistant's turn. The router reads the user's turns, joined by line breaks.
""",
    "completions": """\
The model continues the text as it is, without a chat template. With several prompts, the choices are those of the first
prompt, then those of the second, and so on. With `echo` and `logprobs` the prompt's tokens are scored, as
lm-evaluation-harness needs it: the first token has null, and an end token that was drawn has an entry. A prompt with
`echo` is never cut: one that does not fit the context is refused. The tokens of a prompt join to its text: the token
that completes a character has it whole. `text_offset` counts from the start of the choice's text.
""",
    "responses": """\
Text only, and stateless: nothing is kept, so that `store: true` and every reference to an earlier response are refused.
A response has an item of type `reasoning` if there is a trace, and one of type `message`. The events of a stream are
OpenAI's; the last is `response.completed`, `response.incomplete` or `response.failed`, and no `[DONE]` follows.
""",
    "route": """\
The router's decision without an answer: exactly one of `messages`, `prompt` and `input`. The answer has
`selected_model`, `classifications` (label and score, likeliest first), `selection_reason` (`router`, `out_of_domain` or
`fallback`) and `moe_ray`.
""",
    "tokenize": """\
A model's token ids of a text or a chat: exactly one of `prompt` and `messages`. The answer has `count`, `tokens` and
`max_model_len`, the context length of the model.
""",
}


def page() -> str:
    return INTRODUCTION + "".join(section(endpoint) for endpoint in PATHS) + others()


def others() -> str:
    lines = [
        "\n## Fields of other servers\n",
        "vLLM, llama.cpp, Ollama and others know them. In chats, completions and responses they are:",
    ]
    return "\n".join([*lines, *rows(OTHER_SERVERS_ACCOUNTING), *rows(OTHER_SERVERS)]) + "\n"


def section(endpoint: Endpoint) -> str:
    fields = TABLES[endpoint].values()
    lines = [f"\n## POST {PATHS[endpoint]}\n", PROSE[endpoint], "| obeyed | value | meaning |", "| --- | --- | --- |"]
    for field in fields:
        if field.use == "obeyed":
            required = "; required" if field.required else ""
            lines.append(f"| `{field.name}` | {cell(described(field.schema))}{required} | {field.meaning} |")
    shared = (*OTHER_SERVERS_ACCOUNTING, *OTHER_SERVERS) if endpoint in ("chat", "completions", "responses") else ()
    own = [field for field in fields if field not in shared]
    for use in ("no effect", "unsupported"):
        lines += rows([field for field in own if field.use == use])
    return "\n".join(lines) + "\n"


def rows(fields: Sequence[RequestField]) -> list[str]:
    """The table of fields that are not obeyed, all of one kind."""
    if not fields:
        return []
    found = [f"| `{field.name}` | {accepted(field)} | {field.meaning} |" for field in fields]
    return [f"\n| {fields[0].use} | accepted values | remarks |", "| --- | --- | --- |", *found]


def accepted(field: RequestField) -> str:
    if "enum" in field.schema:
        return ", ".join(f"`{json.dumps(one)}`" for one in (*field.schema["enum"], None))
    return cell(described(field.schema))


def cell(text: str) -> str:
    return text.replace("|", "\\|")


def test_the_page_of_the_api_is_what_the_code_has() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python -m tests.serving.test_api_docs"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
