"""Every field of a request that is known here, and what it does: the one table that requests are checked against.

The OpenAPI document and docs/reference/serving-api.md are made from it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from moe_ray.serving.openai.values import Schema

Use = Literal["obeyed", "no effect", "unsupported"]
Table = Mapping[str, "RequestField"]

INT32 = 2**31 - 1
MAX_CHOICES_PER_PROMPT = 16
MAX_STOPS = 16
MAX_PROMPTS = 1024
MAX_MESSAGES = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestField:
    """One field of a request body. Null means that the field is absent, unless it is `required`.

    `use`: an obeyed field shapes the answer, or the call is refused. A field of no effect could not change the answer:
    every value of its schema is accepted. An unsupported field would change it: its schema has the values that ask
    for nothing.
    """

    name: str
    use: Use
    schema: Schema
    meaning: str
    required: bool = False


def obeyed(name: str, schema: Schema, meaning: str, *, required: bool = False) -> RequestField:
    return RequestField(name=name, use="obeyed", schema=schema, meaning=meaning, required=required)


def harmless(name: str, schema: Schema, meaning: str = "") -> RequestField:
    return RequestField(name=name, use="no effect", schema=schema, meaning=meaning)


def unsupported(name: str, *neutral: Any, why: str = "") -> RequestField:
    """A field that has no value but null and `neutral`."""
    return RequestField(name=name, use="unsupported", schema={"enum": list(neutral)}, meaning=why)


def table(*groups: Iterable[RequestField]) -> Table:
    """Return the fields of all groups by name; of two with one name, the first."""
    found: dict[str, RequestField] = {}
    for group in groups:
        for field in group:
            found.setdefault(field.name, field)
    return found


STRING: Schema = {"type": "string"}
BOOLEAN: Schema = {"type": "boolean"}
OBJECT: Schema = {"type": "object"}
_POSITIVE: Schema = {"type": "integer", "minimum": 1, "maximum": INT32}
_ALTERNATIVES: Schema = {"type": "integer", "minimum": 0, "maximum": 20}
_STOP: Schema = {"type": "string", "maxLength": 1000}
_TOKEN_IDS: Schema = {
    "type": "array",
    "items": {"type": "integer", "minimum": 0, "maximum": INT32},
    "minItems": 1,
}
_MESSAGES: Schema = {"type": "array", "minItems": 1, "maxItems": MAX_MESSAGES}
_STREAM_OPTIONS: Schema = {
    "type": "object",
    "properties": {
        "include_usage": {"type": ["boolean", "null"]},
        "include_obfuscation": {"enum": [False, None]},
        "continuous_usage_stats": {"enum": [False, None]},
    },
}

MODEL = obeyed(
    "model",
    {"type": "string", "minLength": 1, "maxLength": 256},
    "`auto`, the name of an expert, or that of the baseline",
    required=True,
)
SAMPLING = (
    obeyed("temperature", {"type": "number", "minimum": 0, "maximum": 2}, "0: the likeliest token each time"),
    obeyed("top_p", {"type": "number", "exclusiveMinimum": 0, "maximum": 1}, "nucleus sampling"),
)
STREAMING = (
    obeyed("stream", BOOLEAN, "send the answer as server-sent events"),
    obeyed(
        "stream_options",
        _STREAM_OPTIONS,
        "`include_usage`: a last event has the token counts. Without `stream` it has no effect",
    ),
)
# Of chats and of completions.
DRAWING = (
    *SAMPLING,
    *STREAMING,
    obeyed("max_tokens", _POSITIVE, "most tokens to draw; default: that of the experiment"),
    obeyed("max_completion_tokens", _POSITIVE, "newer name of `max_tokens`; if both are given they must be equal"),
    obeyed(
        "stop",
        {"anyOf": [_STOP, {"type": "array", "items": _STOP, "maxItems": MAX_STOPS}]},
        "texts that end the answer, which does not include them; empty ones have no effect",
    ),
    obeyed("seed", {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}, "same seed, same answer"),
    obeyed(
        "n",
        {"type": "integer", "minimum": 1, "maximum": MAX_CHOICES_PER_PROMPT},
        "answers to each prompt",
    ),
)

# Identification, billing and caches: they cannot change an answer.
ACCOUNTING = (
    harmless("user", STRING),
    harmless("metadata", OBJECT),
    harmless("service_tier", STRING),
    harmless("safety_identifier", STRING),
    harmless("prompt_cache_key", STRING),
    harmless("prompt_cache_options", OBJECT),
    harmless("prompt_cache_retention", STRING),
    harmless("parallel_tool_calls", BOOLEAN, "there are no tools to call"),
)
# Known to other servers, and without effect on an answer.
OTHER_SERVERS_ACCOUNTING = (
    harmless("request_id", STRING, "vLLM; the header `x-request-id` is obeyed"),
    harmless("cache_salt", STRING, "vLLM"),
    harmless("cache_prompt", BOOLEAN, "llama.cpp"),
    harmless("keep_alive", {"type": ["string", "number"]}, "Ollama"),
    harmless("include_reasoning", {"enum": [True]}, "vLLM; a reasoning trace is always sent"),
)
# Known to other servers, where they change the answer.
OTHER_SERVERS = (
    unsupported("top_k", -1, 0),
    unsupported("min_p", 0),
    unsupported("top_a", 0),
    unsupported("typical_p", 1),
    unsupported("repetition_penalty", 1),
    unsupported("repeat_penalty", 1),
    unsupported("length_penalty", 1),
    unsupported("no_repeat_ngram_size", 0),
    unsupported("mirostat", 0),
    unsupported("use_beam_search", False),
    unsupported("early_stopping", False),
    unsupported("stop_token_ids", []),
    unsupported("include_stop_str_in_output", False),
    unsupported("ignore_eos", False),
    unsupported("min_tokens", 0),
    unsupported("bad_words", []),
    unsupported("allowed_token_ids", []),
    unsupported("logits_processors", []),
    unsupported("skip_special_tokens", True),
    unsupported("spaces_between_special_tokens", True),
    unsupported("truncate_prompt_tokens"),
    unsupported("prompt_logprobs"),
    unsupported("return_tokens_as_token_ids", False),
    unsupported("return_token_ids", False),
    unsupported("priority", 0),
    unsupported("thinking_token_budget"),
    unsupported("guided_json"),
    unsupported("guided_regex"),
    unsupported("guided_choice"),
    unsupported("guided_grammar"),
    unsupported("structured_outputs"),
    unsupported("structural_tag"),
    unsupported("grammar", ""),
    unsupported("json_schema"),
    unsupported("regex"),
    unsupported("ebnf"),
    unsupported("format", ""),
    unsupported("documents", []),
    unsupported("chat_template"),
    unsupported("chat_template_kwargs", {}),
    unsupported("mm_processor_kwargs", {}),
    unsupported("kv_transfer_params", {}),
    unsupported("vllm_xargs", {}),
    unsupported("lora_path"),
    unsupported("n_predict"),
    unsupported("num_predict"),
    unsupported("num_ctx"),
    unsupported("options", {}),
    unsupported("system", ""),
    unsupported("think"),
    unsupported("thinking"),
    unsupported("enable_thinking"),
    unsupported("models", []),
    unsupported("provider", {}),
    unsupported("plugins", []),
    unsupported("transforms", []),
)
_PENALTIES = (
    unsupported("presence_penalty", 0),
    unsupported("frequency_penalty", 0),
    unsupported("logit_bias", {}),
)

CHAT = table(
    [
        MODEL,
        obeyed(
            "messages",
            _MESSAGES,
            "turns of `system` (also called `developer`), `user` and `assistant`; the last is not the assistant's. "
            "`content` is a text, or a list of text parts, which are joined by line breaks",
            required=True,
        ),
        *DRAWING,
        obeyed("logprobs", BOOLEAN, "log-probabilities of the drawn tokens; not with `auto`"),
        obeyed("top_logprobs", _ALTERNATIVES, "alternatives to report for each token; needs `logprobs`"),
        obeyed("store", BOOLEAN, "false: this call is never recorded"),
    ],
    ACCOUNTING,
    [
        harmless("prediction", OBJECT, "could only make an answer faster"),
        harmless("tool_choice", {"enum": ["none", "auto"]}, "there are no tools to call"),
        harmless("function_call", {"enum": ["none", "auto"]}, "there are no functions to call"),
        *_PENALTIES,
        unsupported("tools", []),
        unsupported("functions", []),
        unsupported("response_format", {"type": "text"}),
        unsupported("modalities", ["text"]),
        unsupported("audio"),
        unsupported("reasoning_effort"),
        unsupported("reasoning", {}),
        unsupported("verbosity", "medium"),
        unsupported("web_search_options"),
        unsupported("moderation"),
        unsupported("echo", False),
        unsupported("best_of", 1),
        unsupported("suffix", ""),
        unsupported("add_generation_prompt", True),
        unsupported("continue_final_message", False),
        unsupported("add_special_tokens", False),
    ],
    OTHER_SERVERS_ACCOUNTING,
    OTHER_SERVERS,
)

COMPLETION = table(
    [
        MODEL,
        obeyed(
            "prompt",
            {
                "anyOf": [
                    STRING,
                    {"type": "array", "items": STRING, "minItems": 1, "maxItems": MAX_PROMPTS},
                    _TOKEN_IDS,
                    {"type": "array", "items": _TOKEN_IDS, "minItems": 1, "maxItems": MAX_PROMPTS},
                ]
            },
            "one text or several, each as text or as token ids; `auto` takes one text",
            required=True,
        ),
        *DRAWING,
        obeyed("logprobs", _ALTERNATIVES, "alternatives to report for each token; not with `auto`"),
        obeyed("echo", BOOLEAN, "the prompt comes before the answer; neither with `stream` nor with `auto`"),
        obeyed(
            "best_of",
            {"type": "integer", "minimum": 1, "maximum": MAX_CHOICES_PER_PROMPT},
            "must equal `n`",
        ),
        obeyed("store", BOOLEAN, "false: this call is never recorded"),
    ],
    ACCOUNTING,
    [
        *_PENALTIES,
        unsupported("suffix", ""),
        unsupported("response_format", {"type": "text"}),
        unsupported("prompt_embeds"),
        unsupported("add_special_tokens", True),
    ],
    OTHER_SERVERS_ACCOUNTING,
    OTHER_SERVERS,
)

RESPONSES = table(
    [
        MODEL,
        obeyed(
            "input",
            {"anyOf": [STRING, _MESSAGES]},
            "a text, or messages as in a chat; reasoning items of earlier responses have no effect",
            required=True,
        ),
        obeyed("instructions", STRING, "a system message before the input"),
        obeyed("max_output_tokens", _POSITIVE, "most tokens to draw; default: that of the experiment"),
        *SAMPLING,
        *STREAMING,
        obeyed("store", {"enum": [False]}, "false: this call is never recorded; a response is never kept"),
    ],
    ACCOUNTING,
    [
        harmless("tool_choice", {"enum": ["none", "auto"]}, "there are no tools to call"),
        harmless("max_tool_calls", {"type": "integer", "minimum": 0, "maximum": INT32}, "there are no tools to call"),
        unsupported("previous_response_id", why="responses are not kept; send the conversation as `input`"),
        unsupported("conversation", why="conversations are not kept; send the conversation as `input`"),
        unsupported("background", False),
        unsupported("background_options"),
        unsupported("context_management", []),
        unsupported("access_programs"),
        unsupported("image"),
        unsupported("include", []),
        unsupported("moderation"),
        unsupported("prompt"),
        unsupported("reasoning", {}, {"effort": None}, {"effort": None, "summary": None}),
        unsupported("text", {}, {"format": {"type": "text"}}, {"format": {"type": "text"}, "verbosity": "medium"}),
        unsupported("tools", []),
        unsupported("top_logprobs", 0),
        unsupported("truncation", "disabled"),
    ],
    OTHER_SERVERS_ACCOUNTING,
    OTHER_SERVERS,
)

ROUTE = table(
    [
        harmless("model", STRING, "the router decides in any case"),
        obeyed("messages", _MESSAGES, "a chat; its user turns are routed"),
        obeyed("prompt", STRING, "a text to route"),
        obeyed("input", STRING, "a text to route"),
    ],
)

TOKENIZE = table(
    [
        obeyed("model", MODEL.schema, "whose tokenizer; default: that of the baseline"),
        obeyed("prompt", STRING, "a text"),
        obeyed("messages", _MESSAGES, "a chat, in the model's chat template"),
        obeyed("add_special_tokens", BOOLEAN, "of `prompt`: add the tokenizer's own tokens; default: true"),
        unsupported("add_generation_prompt", True),
        unsupported("continue_final_message", False),
        unsupported("return_token_strs", False),
        unsupported("chat_template"),
        unsupported("chat_template_kwargs", {}),
        unsupported("tools", []),
    ],
)
