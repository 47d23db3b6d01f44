"""Log-probabilities from a request's body to its answer's, as lm-evaluation-harness reads them; refusals."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from moe_ray.config.schema import DecodingConfig, ModelConfig, RuntimeConfig
from moe_ray.config.serving import ServingConfig
from moe_ray.engines.base import NO_ECHO, NO_LOGPROBS, BatchLimits, LikelihoodRequest
from moe_ray.engines.transformers.engine import TransformersEngine
from moe_ray.prompts.messages import Message, Prompt
from moe_ray.serving.backend import Backend, Ticket
from moe_ray.serving.calls import ApiCall, ApiError, RoutingVerdict
from moe_ray.serving.failures import engine_error
from moe_ray.serving.openai.bodies import writer_for
from moe_ray.serving.system import ServedModel, ServedSystem
from tests.serving.openai.requests import call
from tests.serving.openai.streams import chunks
from tests.support.tiny_models import Architecture

pytestmark = pytest.mark.usefixtures("one_thread")

CONTEXTS = ("the answer of the court is", "a question of law and é", "the drug")
CHOICES = (" yes", " no", " the question is maybe")


@pytest.fixture(scope="module")
def model(checkpoint: Callable[[Architecture], Path]) -> ModelConfig:
    return ModelConfig(path=str(checkpoint("llama")), prompt_style="completion")


@pytest.fixture(scope="module")
def loaded(model: ModelConfig) -> Iterator[TransformersEngine]:
    engine = TransformersEngine(model, BatchLimits(max_rows=8, cache_memory_bytes=1 << 30))
    yield engine
    engine.close()


def backend(model: ModelConfig, *, gives_logprobs: bool) -> Backend:
    served = ServedModel(name="law", model=model, domains=(), is_baseline=False, gives_logprobs=gives_logprobs)
    system = ServedSystem(
        name="s",
        models=(served,),
        experts={},
        fallback=None,
        slots=(),
        router_dir=None,
        decoding=DecodingConfig(),
        runtime=RuntimeConfig(),
        serving=ServingConfig(),
    )
    return Backend(system, None, None, "ingress")


def ticket(asked: ApiCall) -> Ticket:
    return Ticket(id="r1", call=asked, verdict=RoutingVerdict(requested="law", expert="law"))


def answered(model: ModelConfig, loaded: TransformersEngine, asked: ApiCall) -> Any:
    """The body of the answer to a call, as the ingress writes it; submitted as a replica does it."""
    of = ticket(asked)
    assert of.verdict is not None
    streams = [loaded.submit(one) for one in backend(model, gives_logprobs=True).requests(of)]
    writer = writer_for(asked, of.verdict, request_id="r1", created=0)
    return json.loads(writer.whole([stream.result() for stream in streams]))


def parsed(choices: Sequence[Any], context_lengths: Sequence[int]) -> list[tuple[float, bool]]:
    """Read the choices as lm-evaluation-harness does (`LocalCompletionsAPI.parse_logprobs`)."""
    found = []
    for choice, length in zip(sorted(choices, key=lambda one: one["index"]), context_lengths, strict=True):
        values = choice["logprobs"]["token_logprobs"][length:-1]
        tops = choice["logprobs"]["top_logprobs"][length:-1]
        is_greedy = not any(value != max(top.values()) for value, top in zip(values, tops, strict=True))
        found.append((sum(values), is_greedy))
    return found


def test_lm_evaluation_harness_reads_what_an_evaluation_measures(
    model: ModelConfig, loaded: TransformersEngine
) -> None:
    prompts = [Prompt(messages=(Message(role="user", content=text),), choices=CHOICES) for text in CONTEXTS]
    measured = loaded.loglikelihoods([LikelihoodRequest(id="1", prompt=one) for one in prompts])
    whole = [loaded.token_ids(prompt_of(text + choice)) for text in CONTEXTS for choice in CHOICES]
    lengths = [len(loaded.token_ids(prompt_of(text))) for text in CONTEXTS for _ in CHOICES]
    asked = call("completions", prompt=whole, echo=True, max_tokens=1, logprobs=1, temperature=0, seed=1234)
    found = parsed(answered(model, loaded, asked)["choices"], lengths)
    expected = [value for one in measured for value in one.loglikelihoods]
    assert [value for value, _ in found] == pytest.approx(expected, abs=1e-4)
    assert [greedy for _, greedy in found] == [
        is_greedy(model, ids, length) for ids, length in zip(whole, lengths, strict=True)
    ]


def test_what_the_model_would_say_is_greedy_also_up_to_its_end(
    model: ModelConfig, loaded: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = loaded.token_ids(prompt_of(CONTEXTS[0]))
    drawn = answered(model, loaded, call("completions", prompt=[context], max_tokens=4, temperature=0, logprobs=1))
    ids = [*context]
    for _ in range(4):
        ids.append(likeliest(model, ids)[-1])
    assert len(drawn["choices"][0]["logprobs"]["tokens"]) == 4
    asked = call("completions", prompt=[ids], echo=True, max_tokens=1, logprobs=1, temperature=0)
    expected = parsed(answered(model, loaded, asked)["choices"], [len(context)])
    assert expected[0][1]
    monkeypatch.setattr(loaded, "_loaded", with_end_token(loaded, likeliest(model, ids)[-1]))
    monkeypatch.setattr(loaded._streaming, "_loaded", loaded._loaded)
    body = answered(model, loaded, asked)
    assert body["choices"][0]["finish_reason"] == "stop"
    assert parsed(body["choices"], [len(context)]) == expected


def test_texts_of_an_echo_stand_where_their_offsets_say(model: ModelConfig, loaded: TransformersEngine) -> None:
    asked = call("completions", prompt=list(CONTEXTS), echo=True, max_tokens=1, logprobs=2, temperature=0)
    for context, choice in zip(CONTEXTS, answered(model, loaded, asked)["choices"], strict=True):
        told = choice["logprobs"]
        assert choice["text"].startswith(context)
        assert "".join(told["tokens"][:-1]) == context
        assert told["text_offset"][-1] == len(context)
        ends = [*told["text_offset"][1:], len(choice["text"])]
        assert all(
            choice["text"][start:end] == token
            for token, start, end in zip(told["tokens"][:-1], told["text_offset"], ends, strict=False)
        )
        assert all(one <= other for one, other in pairwise(told["text_offset"]))


@pytest.mark.parametrize("endpoint", ["chat", "completions"])
def test_a_stream_tells_what_a_whole_answer_tells(
    endpoint: Any, model: ModelConfig, loaded: TransformersEngine
) -> None:
    fields: dict[str, Any] = {"max_tokens": 8, "temperature": 0.7, "seed": 5}
    fields |= {"logprobs": True, "top_logprobs": 2} if endpoint == "chat" else {"logprobs": 2}
    whole = answered(model, loaded, call(endpoint, **fields))["choices"][0]["logprobs"]
    asked = call(endpoint, stream=True, **fields)
    of = ticket(asked)
    assert of.verdict is not None
    writer = writer_for(asked, of.verdict, request_id="r1", created=0)
    (request,) = backend(model, gives_logprobs=True).requests(of)
    sent = writer.start() + b"".join(writer.delta(0, delta) for delta in loaded.submit(request)) + writer.end()
    pieces = [one["choices"][0]["logprobs"] for one in chunks(sent) if one["choices"]]
    for key, values in whole.items():
        assert [value for piece in pieces if piece for value in piece[key]] == values


@pytest.mark.parametrize(
    ("endpoint", "fields", "param"),
    [
        ("chat", {"logprobs": True}, "logprobs"),
        ("completions", {"logprobs": 0, "echo": True}, "logprobs"),
        ("completions", {"logprobs": 1, "stream": True}, "logprobs"),
        ("completions", {"echo": True}, "echo"),
    ],
)
def test_an_engine_without_them_refuses(endpoint: Any, fields: dict[str, Any], param: str, model: ModelConfig) -> None:
    with pytest.raises(ApiError) as caught:
        backend(model, gives_logprobs=False).requests(ticket(call(endpoint, **fields)))
    assert (caught.value.status, caught.value.param) == (400, param)
    assert backend(model, gives_logprobs=False).requests(ticket(call(endpoint)))[0].num_logprobs is None


@pytest.mark.parametrize(
    ("endpoint", "fields", "reason", "param"),
    [
        ("chat", {"logprobs": True}, NO_LOGPROBS, "logprobs"),
        ("chat", {"logprobs": True}, "400: logprobs are not supported", "logprobs"),
        ("completions", {"logprobs": 1, "echo": True}, NO_ECHO, "echo"),
        ("completions", {"logprobs": 1}, "400: the prompt is bad", "prompt"),
    ],
)
def test_a_refusal_of_the_engine_names_the_field_that_asked_for_it(
    endpoint: Any, fields: dict[str, Any], reason: str, param: str
) -> None:
    error = engine_error(call(endpoint, **fields), reason, refused=True)
    assert (error.status, error.param, error.message) == (400, param, reason)


def prompt_of(text: str) -> Prompt:
    return Prompt(messages=(Message(role="user", content=text),))


def likeliest(model: ModelConfig, ids: Sequence[int]) -> list[int]:
    """The likeliest token after each of `ids`, by the plain model."""
    plain = transformers.AutoModelForCausalLM.from_pretrained(model.path)
    with torch.no_grad():
        found: list[int] = plain(torch.tensor([ids])).logits[0].argmax(-1).tolist()
    return found


def is_greedy(model: ModelConfig, ids: Sequence[int], length: int) -> bool:
    return likeliest(model, ids)[length - 1 : -1] == list(ids[length:])


def with_end_token(loaded: TransformersEngine, token: int) -> Any:
    return replace(loaded._loaded, eos_token_ids=frozenset({token}))
