"""Log-likelihoods over an API, compared with a closed form, and with the transformers engine on a real model."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from moe_ray.config.schema import ModelConfig
from moe_ray.engines.base import Likelihood
from moe_ray.engines.endpoint.engine import EndpointEngine
from moe_ray.errors import EngineLostError
from moe_ray.prompts.messages import Message, Prompt
from tests.engines.asking import ROOMY, completion, engine, measure
from tests.engines.openai_api import Api, Fault, Scored, logprob, words
from tests.support.tiny_models import Architecture

NONE_GIVEN = "the endpoint gives no prompt log-probabilities"
PROMPT = completion("Is it so? Answer:", choices=(" yes", " no way"), reference=" It is so")


def likelihoods(api: Api, *prompts: Prompt, style: str = "completion", **settings: Any) -> list[Likelihood]:
    settings = {"base_url": api.base_url, "max_retries": 1, **settings}
    made = EndpointEngine(
        ModelConfig(path="tiny", engine="endpoint", prompt_style=style, engine_settings=settings),
        ROOMY,
    )
    try:
        return made.loglikelihoods([measure(prompt, id=str(place)) for place, prompt in enumerate(prompts)])
    finally:
        made.close()


def expected(context: str, continuation: str) -> float:
    """The closed form: the sum over the continuation's words at their places behind the context's."""
    start = len(words(context))
    return math.fsum(logprob(start + place, token) for place, token in enumerate(words(continuation)))


@pytest.mark.parametrize(
    "ways",
    [("echo", "zero"), ("echo",), ("prompt_logprobs", "zero"), ("echo", "zero", "prompt_logprobs")],
    ids=["echo", "echo and a token", "prompt_logprobs", "all"],
)
def test_likelihoods_are_the_closed_form_in_every_way_that_an_api_gives_them(api: Api, ways: tuple[str, ...]) -> None:
    api.likelihoods = ways
    (answer,) = likelihoods(api, PROMPT)
    assert answer.error is None
    assert answer.loglikelihoods == pytest.approx([expected("Is it so? Answer:", one) for one in PROMPT.continuations])
    assert answer.num_tokens == (1, 2, 3)
    assert answer.num_prompt_tokens == 4
    assert answer.timing.total_s > 0


def test_white_space_at_the_contexts_end_goes_to_the_continuations(api: Api) -> None:
    spaced = completion("Answer:\n ", choices=("yes", "no way"))
    (answer,) = likelihoods(api, spaced)
    assert answer.loglikelihoods == pytest.approx([expected("Answer:", "\n yes"), expected("Answer:", "\n no way")])


def test_a_token_across_the_border_counts_for_the_side_that_the_contexts_own_count_leaves_it(api: Api) -> None:
    """The context has 2 tokens; together they are "ab", " cde" and " f": the straddling one is the context's."""
    (answer,) = likelihoods(api, completion("ab c", choices=("de f",)))
    assert answer.loglikelihoods == pytest.approx([logprob(2, " f")])
    assert answer.num_tokens == (1,)


def test_a_continuation_that_melts_into_the_context_is_the_answers_error(api: Api) -> None:
    (answer,) = likelihoods(api, completion("ab c", choices=("de",)))
    assert answer.error == "continuation 'de' has no tokens of its own"


def test_chats_are_measured_where_the_api_scores_a_message_left_open(api: Api) -> None:
    prompt = Prompt(messages=(Message(role="user", content="Is it?"),), choices=("yes", "no way"))
    (answer,) = likelihoods(api, prompt, style="chat")
    context = " [user] Is it? [assistant]"
    assert answer.loglikelihoods == pytest.approx([expected(context, " yes"), expected(context, " no way")])


@pytest.mark.parametrize(("style", "ways"), [("completion", ("zero",)), ("completion", ()), ("chat", ("echo", "zero"))])
def test_an_api_without_prompt_likelihoods_says_so_in_every_answer(api: Api, style: str, ways: tuple[str, ...]) -> None:
    api.likelihoods = ways
    answers = likelihoods(api, PROMPT, PROMPT, style=style)
    assert [answer.error for answer in answers] == [NONE_GIVEN] * 2
    assert [answer.loglikelihoods for answer in answers] == [(), ()]


def test_an_api_that_fails_on_such_requests_does_not_give_them(api: Api) -> None:
    api.broken = lambda body: Fault(status=500) if {"echo", "prompt_logprobs"} & body.keys() else None
    assert likelihoods(api, PROMPT)[0].error == NONE_GIVEN


def test_a_busy_api_is_no_api_without_likelihoods(api: Api) -> None:
    api.broken = lambda body: Fault(status=503) if "echo" in body else None
    with pytest.raises(EngineLostError, match="503"):
        likelihoods(api, PROMPT)


def test_what_does_not_fit_the_context_has_no_likelihood_and_costs_the_others_none(api: Api) -> None:
    api.context_length = 12
    fits, partly, neither = likelihoods(
        api,
        PROMPT,
        completion("a b c d", choices=(" yes", " no"), reference=" x" * 20),
        completion("a b c d", choices=(" x" * 20,)),
        max_concurrent_requests=1,
    )
    assert None not in fits.loglikelihoods
    assert partly.loglikelihoods[:2] == pytest.approx([expected("a b c d", " yes"), expected("a b c d", " no")])
    assert partly.loglikelihoods[2] is None
    assert "no continuation fits" in (neither.error or "")


def test_an_overlong_context_is_the_answers_error(api: Api) -> None:
    api.context_length = 12
    (answer,) = likelihoods(api, completion("x " * 30, choices=(" yes",)))
    assert "maximum context length is 12" in (answer.error or "")


@pytest.mark.parametrize("value", [None, float("-inf"), float("nan")])
def test_a_token_without_a_number_is_the_answers_error(api: Api, value: float | None) -> None:
    def scored(prompt: str) -> Scored:
        tokens = words(prompt)
        return tokens, [value if token == " no" else -1.0 for token in tokens]

    api.scored = scored
    (answer,) = likelihoods(api, PROMPT)
    assert answer.error == "the endpoint gives no number for a token of continuation ' no way'"


class WrappedModel:
    """A real checkpoint behind the API's echo, by transformers alone: one forward pass over a prompt."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        self._model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()

    @torch.inference_mode()
    def scored(self, prompt: str) -> Scored:
        ids = self._tokenizer(prompt, return_tensors="pt")["input_ids"]
        log_probabilities = self._model(ids).logits[0].float().log_softmax(-1)
        values = [float(log_probabilities[place - 1, ids[0, place]]) for place in range(1, ids.shape[1])]
        return [self._tokenizer.decode(one) for one in ids[0]], [None, *values]


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
@pytest.mark.parametrize("ways", [("echo", "zero"), ("echo",), ("prompt_logprobs", "zero")], ids=lambda ways: ways[0])
def test_a_real_model_has_the_likelihoods_that_the_transformers_engine_gives_it(
    api: Api, checkpoint: Callable[[Architecture], Path], architecture: Architecture, ways: tuple[str, ...]
) -> None:
    folder = checkpoint(architecture)
    api.scored, api.likelihoods = WrappedModel(folder).scored, ways
    prompts = [
        completion("the answer of the court:", choices=(" yes", " no", " maybe"), reference=" yes and no"),
        completion("the drug is ", choices=("yes", "no"), reference="a list of cells"),
        completion("def sum(list): ret", choices=("urn",)),
    ]
    own = engine(folder).loglikelihoods([measure(prompt) for prompt in prompts])
    over_http = likelihoods(api, *prompts)
    assert [answer.error is None for answer in over_http] == [True, True, False]
    for mine, theirs in zip(own, over_http, strict=True):
        assert theirs.error == mine.error
        assert theirs.loglikelihoods == pytest.approx(mine.loglikelihoods, abs=1e-4)
        assert theirs.num_tokens == mine.num_tokens


STRANGE = {
    "tokens that are numbers": ("tokens", [1, 2, 3]),
    "half a character": ("tokens", ["a\ud800", "b", "c"]),
    "no tokens": ("tokens", None),
    "a number that no float holds": ("token_logprobs", [None, -(10**400), -1.0]),
    "numbers that are texts": ("token_logprobs", [None, "low", "lower"]),
    "lists": ("token_logprobs", [[], [], []]),
}


@pytest.mark.parametrize("name", STRANGE)
def test_log_probabilities_of_another_shape_are_none_given(api: Api, name: str) -> None:
    key, value = STRANGE[name]
    logprobs = {"tokens": ["a", " b", " c"], "token_logprobs": [None, -1.0, -1.0], key: value}
    choice = {"text": "", "finish_reason": "length", "logprobs": logprobs}
    strange = Fault(status=200, body=json.dumps({"choices": [choice]}))
    api.broken = lambda body: strange if "echo" in body or "prompt_logprobs" in body else None
    (answer,) = likelihoods(api, PROMPT)
    assert (answer.error, answer.loglikelihoods) == (NONE_GIVEN, ())
