"""A gated mixture under the engine: its gate judges the prompt, once, whatever is drawn or measured after it."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from moe_ray.architectures import register
from moe_ray.architectures.gated_mixture import GatedMixtureConfig, GatedMixtureForCausalLM
from moe_ray.errors import ConfigError, ModelError
from tests.engines.asking import ONE_ROW, TEXTS, ask, ask_all, completion, engine, measure
from tests.support.tiny_models import make_tiny_checkpoint

CHOICES = (" yes", " no", " the question is maybe")


@pytest.fixture(scope="module", params=["weighted_sum", "select_one"])
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mixture of two tiny models that differ in their feed-forwards, and their tokenizer."""
    register()
    directory = make_tiny_checkpoint(tmp_path_factory.mktemp(request.param), "llama")
    text, names = transformers.AutoConfig.from_pretrained(directory), ["legal", "code"]
    config = GatedMixtureConfig(text_config=text, mixture_mode=request.param, expert_names=names)
    mixture = GatedMixtureForCausalLM(config)
    torch.manual_seed(1)
    for name, parameter in mixture.named_parameters():
        torch.nn.init.normal_(parameter, std=0.3 if ".experts." in name or "gating" in name else 0.5)
    mixture.generation_config = transformers.GenerationConfig(eos_token_id=1)
    mixture.save_pretrained(directory)
    return directory


def test_greedy_texts_are_those_of_generate_though_rows_leave_their_batch(directory: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(directory)
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    lengths = (3, 24, 9, 24, 17)
    requests = [ask(text, id=str(at), num=lengths[at]) for at, text in enumerate(TEXTS)]
    for request, answer in zip(requests, engine(directory).generate(requests), strict=True):
        ids = tokenizer(request.prompt.messages[0].content, return_tensors="pt")["input_ids"]
        expected = model.generate(ids, max_new_tokens=request.max_new_tokens, do_sample=False, pad_token_id=2)
        tokens = [token for token in expected[0, ids.shape[1] :].tolist() if token != 1]
        assert list(answer.token_ids) == tokens


def test_a_batchs_answers_are_those_of_single_rows(directory: Path) -> None:
    together, alone = engine(directory).generate(ask_all(num=12)), engine(directory, ONE_ROW).generate(ask_all(num=12))
    assert [one.token_ids for one in together] == [one.token_ids for one in alone]


def test_submitted_rows_that_join_each_other_keep_their_gates_decisions(directory: Path) -> None:
    loaded = engine(directory)
    requests = [ask(text, id=str(at), num=6 + 5 * at) for at, text in enumerate(TEXTS)]
    first = loaded.submit(requests[-1])
    next(first)
    streams = [loaded.submit(request) for request in requests[:-1]] + [first]
    found = [stream.result().token_ids for stream in streams]
    loaded.close()
    assert found == [one.token_ids for one in loaded.generate(requests)]


def test_loglikelihoods_are_those_of_experts_mixed_for_the_context_alone(directory: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(directory)
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    measured = engine(directory).loglikelihoods([measure(completion(text, choices=CHOICES)) for text in TEXTS])
    for text, found in zip(TEXTS, measured, strict=True):
        context = tokenizer(text, return_tensors="pt")["input_ids"]
        probs = model.get_gating_probs(context)
        for choice, value in zip(CHOICES, found.loglikelihoods, strict=True):
            ids = tokenizer(text + choice, return_tensors="pt")["input_ids"]
            with torch.no_grad():
                logits = model(ids, gating_probs=probs).logits[0, :-1].double().log_softmax(dim=-1)
            places = range(context.shape[1] - 1, ids.shape[1] - 1)
            expected = sum(float(logits[place, ids[0, place + 1]]) for place in places)
            assert value == pytest.approx(expected, abs=1e-4)


def test_a_paged_cache_which_packs_sequences_into_one_is_refused(directory: Path) -> None:
    with pytest.raises(ModelError, match="does not take a paged cache"):
        engine(directory, engine_settings={"batching": "continuous"})


def forced(directory: Path, **forward: Any) -> list[list[int]]:
    """Return what transformers' own generate gives for each of `TEXTS`, alone, with these forward arguments."""
    model = transformers.AutoModelForCausalLM.from_pretrained(directory)
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    found = []
    for text in TEXTS:
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        expected = model.generate(ids, max_new_tokens=12, do_sample=False, pad_token_id=2, **forward)
        found.append([token for token in expected[0, ids.shape[1] :].tolist() if token != 1])
    return found


@pytest.mark.parametrize(
    ("settings", "forward"),
    [
        ({"expert": "code"}, {"forced_expert": 1}),
        ({"expert": 0}, {"forced_expert": 0}),
        ({"mode": "weighted_sum"}, {"mixture_mode": "weighted_sum"}),
        ({"mode": "select_one"}, {"mixture_mode": "select_one"}),
    ],
    ids=str,
)
def test_an_expert_alone_and_a_mode_decide_greedy_texts(
    settings: dict[str, Any], forward: dict[str, Any], directory: Path
) -> None:
    answers = engine(directory, engine_settings=settings).generate(ask_all(num=12))
    assert [list(answer.token_ids) for answer in answers] == forced(directory, **forward)


def test_the_two_experts_alone_say_different_things(directory: Path) -> None:
    assert forced(directory, forced_expert=0) != forced(directory, forced_expert=1)


def test_an_expert_alone_measures_continuations_too(directory: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(directory)
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    (found,) = engine(directory, engine_settings={"expert": "code"}).loglikelihoods(
        [measure(completion(TEXTS[0], choices=CHOICES))]
    )
    num_context = tokenizer(TEXTS[0], return_tensors="pt")["input_ids"].shape[1]
    for choice, value in zip(CHOICES, found.loglikelihoods, strict=True):
        ids = tokenizer(TEXTS[0] + choice, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            logits = model(ids, forced_expert=1).logits[0, :-1].double().log_softmax(dim=-1)
        expected = sum(float(logits[at, ids[0, at + 1]]) for at in range(num_context - 1, ids.shape[1] - 1))
        assert value == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"expert": "medical"}, "experts are 0 to 1, or legal, code"),
        ({"expert": 2}, "experts are 0 to 1, or legal, code"),
        ({"expert": "code", "mode": "select_one"}, "mode has no effect beside expert"),
        ({"mode": "each"}, "Input should be 'weighted_sum' or 'select_one'"),
    ],
)
def test_a_wrong_choice_is_refused_by_the_engine(settings: dict[str, Any], said: str, directory: Path) -> None:
    with pytest.raises(ConfigError, match=said) as error:
        engine(directory, engine_settings=settings)
    assert error.value.where is not None
    assert error.value.where.startswith("engine_settings")
