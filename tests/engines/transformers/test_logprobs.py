"""Log-probabilities of drawn tokens and of prompts, against one plain forward pass for each position."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from moe_ray.engines.base import BatchLimits, Delta, GenerateRequest, Generation, TokenLogprob
from moe_ray.engines.transformers import logprobs
from moe_ray.engines.transformers.engine import TransformersEngine
from moe_ray.engines.transformers.forward import read_once
from moe_ray.engines.transformers.spelling import TokenSpeller
from moe_ray.prompts.messages import Prompt
from tests.engines.asking import ONE_ROW, ROOMY, TEXTS, ask, ask_all, completion, engine, measure
from tests.engines.transformers.checkpoints import with_end_tokens
from tests.support.tiny_models import CONTEXT_LENGTH, Architecture, make_tokenizer

Checkpoints = Callable[[Architecture], Path]
NUM_TOP = 3


@pytest.fixture(scope="module", params=["llama", "gpt2", "gemma3", "merged mixture"])
def directory(
    request: pytest.FixtureRequest, checkpoint: Checkpoints, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A checkpoint of each architecture; of a mixture, one whose router chooses for each token."""
    if request.param != "merged mixture":
        return checkpoint(request.param)
    folder, tokenizer = tmp_path_factory.mktemp("mixture"), make_tokenizer()
    torch.manual_seed(0)
    model = transformers.MixtralForCausalLM(
        transformers.MixtralConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            num_local_experts=3,
            max_position_embeddings=CONTEXT_LENGTH,
            initializer_range=0.5,
        )
    )
    model.generation_config = transformers.GenerationConfig(eos_token_id=tokenizer.eos_token_id)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def asking(requests: Sequence[GenerateRequest], num: int | None = NUM_TOP, **fields: Any) -> list[GenerateRequest]:
    return [replace(one, num_logprobs=num, **fields) for one in requests]


class Oracle:
    """Reads each prefix of a sequence by itself."""

    def __init__(self, directory: Path) -> None:
        self._model = transformers.AutoModelForCausalLM.from_pretrained(directory)
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(directory)

    def check(self, read: Sequence[int], found: Sequence[TokenLogprob], num_top: int = NUM_TOP) -> None:
        """Compare `found` with the distribution after `read` and the tokens of `found` before."""
        before = list(read)
        for one in found:
            with torch.no_grad():
                expected = self._model(torch.tensor([before])).logits[0, -1].double().log_softmax(-1)
            assert one.logprob == pytest.approx(float(expected[one.token_id]), abs=1e-4)
            assert len(one.top) == num_top
            assert [value for _, _, value in one.top] == pytest.approx(expected.topk(num_top).values.tolist(), abs=1e-4)
            for _, token, value in one.top:
                assert value == pytest.approx(float(expected[token]), abs=1e-4)
            before.append(one.token_id)

    def prompt(self, request: GenerateRequest) -> list[int]:
        ids: list[int] = self.tokenizer(request.prompt.messages[0].content)["input_ids"]
        return ids


def content(answer: Generation) -> tuple[Any, ...]:
    return (answer.text, answer.token_ids, answer.finish_reason, answer.num_prompt_tokens, answer.error)


def read(loaded: TransformersEngine, requests: Sequence[GenerateRequest]) -> list[Generation]:
    """Submit all at once; check that the log-probabilities of the deltas belong to their tokens."""
    streams = [loaded.submit(one) for one in requests]
    for stream, request in zip(streams, requests, strict=True):
        deltas: list[Delta] = list(stream)
        result = stream.result()
        assert sum((delta.logprobs for delta in deltas), ()) == result.logprobs
        if request.num_logprobs is not None:
            for delta in deltas[:-1]:
                assert [one.token_id for one in delta.logprobs] == list(delta.token_ids)
    return [stream.result() for stream in streams]


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_drawn_tokens_have_those_of_the_plain_model(directory: Path, temperature: float) -> None:
    oracle, loaded = Oracle(directory), engine(directory)
    plain = ask_all(num=10, temperature=temperature, top_p=0.9, seed=3)
    requests = asking(plain)
    without = [content(one) for one in loaded.generate(plain)]
    for answers in (loaded.generate(requests), engine(directory, ONE_ROW).generate(requests), read(loaded, requests)):
        assert [content(one) for one in answers] == without
        for request, answer in zip(requests, answers, strict=True):
            assert tuple(one.token_id for one in answer.logprobs) == answer.token_ids
            oracle.check(oracle.prompt(request), answer.logprobs)
            if temperature == 0:
                assert all(one.top[0][1:] == (one.token_id, one.logprob) for one in answer.logprobs)
    loaded.close()


def test_prompts_have_those_of_the_plain_model(directory: Path) -> None:
    oracle, loaded = Oracle(directory), engine(directory)
    requests = asking(ask_all(num=2), echo=True)
    for answers in (loaded.generate(requests), engine(directory, ONE_ROW).generate(requests), read(loaded, requests)):
        for request, answer in zip(requests, answers, strict=True):
            ids = oracle.prompt(request)
            first, *others = answer.prompt_logprobs
            told = [one for one in others if one is not None]
            assert (first, [one.token_id for one in told]) == (None, ids[1:])
            oracle.check(ids[:1], told)
            assert answer.prompt_text == request.prompt.messages[0].content
            assert answer.prompt_text.endswith("".join(one.token for one in told))
    loaded.close()


def test_an_echo_sums_to_the_loglikelihood_that_an_evaluation_measures(directory: Path) -> None:
    loaded = engine(directory)
    choices = (" yes", " no", " the question is maybe")
    measured = loaded.loglikelihoods([measure(completion(text, choices=choices)) for text in TEXTS])
    for text, likelihood in zip(TEXTS, measured, strict=True):
        requests = asking([ask(text + choice, num=1) for choice in choices], 1, echo=True)
        answers = loaded.generate(requests)
        sums = [
            sum(one.logprob for one in answer.prompt_logprobs[-num:] if one)
            for answer, num in zip(answers, likelihood.num_tokens, strict=True)
        ]
        assert sums == pytest.approx(likelihood.loglikelihoods, abs=1e-4)


@pytest.mark.parametrize("architecture", ["llama", "phi3_longrope"])
def test_a_prompt_whose_logits_are_kept_in_parts_gets_the_same(
    checkpoint: Checkpoints, architecture: Architecture, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = engine(checkpoint(architecture))
    requests = asking(ask_all(num=1), echo=True)
    whole = loaded.generate(requests)
    num_kept: list[int] = []
    loaded._loaded.model.lm_head.register_forward_hook(
        lambda _module, _inputs, logits: num_kept.append(logits.shape[:2].numel())
    )
    bytes_per_position = loaded._loaded.vocabulary_size * logprobs.FLOAT_BYTES
    monkeypatch.setattr(logprobs, "PROMPT_LOGITS_BYTES", 10 * bytes_per_position)
    monkeypatch.setattr(logprobs, "LOGPROBS_BYTES", 2 * bytes_per_position)
    parts = loaded.generate(requests)
    assert max(num_kept) == 10
    for one, other in zip(parts, whole, strict=True):
        assert one.prompt_text == other.prompt_text
        assert [part and part.token for part in one.prompt_logprobs] == [
            part and part.token for part in other.prompt_logprobs
        ]
        assert [part.logprob for part in one.prompt_logprobs[1:] if part] == pytest.approx(
            [part.logprob for part in other.prompt_logprobs[1:] if part], abs=1e-4
        )


def test_only_an_echo_reports_the_end_token(checkpoint: Checkpoints, tmp_path: Path) -> None:
    """A reader that finds the prompt's tokens by counting back from the end must not lose one of them."""
    (drawn,) = engine(checkpoint("llama")).generate([ask("the drug is", num=6)])
    end = drawn.token_ids[0]
    loaded = engine(with_end_tokens(checkpoint("llama"), tmp_path / "ended", [end]))
    requests = [*asking([ask("the drug is", num=6)]), *asking([ask("the drug is", num=6)], echo=True)]
    for plain, echoed in (loaded.generate(requests), read(loaded, requests)):
        assert (plain.token_ids, plain.logprobs, plain.finish_reason) == ((), (), "stop")
        assert (echoed.token_ids, [one.token_id for one in echoed.logprobs]) == ((), [end])
    loaded.close()


def test_rows_that_do_not_ask_get_none_beside_those_that_do(checkpoint: Checkpoints) -> None:
    loaded = engine(checkpoint("llama"))
    nums = (None, 0, 2, None, 5)
    requests = [replace(one, num_logprobs=num) for one, num in zip(ask_all(num=5), nums, strict=True)]
    for answers in (loaded.generate(requests), read(loaded, requests)):
        assert [{len(one.top) for one in answer.logprobs} for answer in answers] == [set(), {0}, {2}, set(), {5}]
    loaded.close()


def test_an_echo_without_log_probabilities_measures_nothing(
    checkpoint: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logprobs, "read_once", lambda *_, **__: pytest.fail("a prompt was read for nothing"))
    loaded = engine(checkpoint("llama"))
    for answers in (loaded.generate([ask("the law", num=3)]), loaded.generate([replace(ask("the law"), echo=True)])):
        assert (answers[0].prompt_logprobs, answers[0].logprobs) == ((), ())
    assert answers[0].prompt_text == "the law"


def test_token_ids_are_echoed_as_their_text(checkpoint: Checkpoints) -> None:
    loaded = engine(checkpoint("llama"))
    (ids,) = [loaded.token_ids(completion("the law of é"), add_special_tokens=False)]
    prompt = Prompt(messages=(), token_ids=tuple(ids))
    (answer,) = loaded.generate(asking([ask(prompt, num=1)], 1, echo=True))
    assert answer.prompt_text == "the law of é"
    told = [one.token for one in answer.prompt_logprobs if one]
    assert (told[-2:], "".join(["the", *told])) == (["", "é"], answer.prompt_text)


def test_one_token_has_nothing_before_it_to_be_measured_by(checkpoint: Checkpoints) -> None:
    loaded = engine(checkpoint("llama"))
    requests = asking([ask(Prompt(messages=(), token_ids=ids), num=1) for ids in ((5,), (5, 6, 7))], 1, echo=True)
    one, three = loaded.generate(requests)
    assert (one.prompt_logprobs, len(three.prompt_logprobs), one.error, three.error) == ((None,), 3, None, None)


def test_an_echoed_prompt_is_never_cut(checkpoint: Checkpoints) -> None:
    loaded = engine(checkpoint("llama"), overflow="truncate_left")
    plain = ask("a" * CONTEXT_LENGTH, num=4)
    cut, refused = loaded.generate([plain, *asking([plain], 1, echo=True)])
    assert cut.num_truncated_tokens > 0
    assert refused.refused
    assert "an echoed prompt is not cut" in str(refused.error)


def test_rows_that_ask_leave_continuous_batching(checkpoint: Checkpoints) -> None:
    loaded = engine(checkpoint("llama"), ROOMY, engine_settings={"batching": "continuous"}, gpus=0)
    requests = [*ask_all(num=6), *asking(ask_all(num=6))]
    answers = loaded.generate(requests)
    half = len(TEXTS)
    assert [content(one) for one in answers[:half]] == [content(one) for one in answers[half:]]
    assert [bool(one.logprobs) for one in answers] == [False] * half + [True] * half


def test_logits_that_are_not_numbers_are_an_error_of_their_row(checkpoint: Checkpoints) -> None:
    loaded = engine(checkpoint("llama"))
    with torch.no_grad():
        loaded._loaded.model.lm_head.weight[7] = math.nan
    for answers in (
        loaded.generate(asking([ask("the law")], echo=True)),
        read(loaded, asking([ask("the law")], echo=True)),
    ):
        assert (answers[0].finish_reason, answers[0].logprobs, answers[0].prompt_logprobs) == ("error", (), ())
    loaded.close()


def test_a_stream_that_runs_out_of_memory_while_it_scores_starts_again(
    checkpoint: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = engine(checkpoint("llama"), BatchLimits(max_rows=8, cache_memory_bytes=1 << 30))
    requests = asking(ask_all(num=4), echo=True)
    expected = loaded.generate(requests)
    plain = read_once

    def tight(model: Any, ids: torch.Tensor, *rest: Any, **more: Any) -> torch.Tensor:
        if ids.shape[0] > 1:
            raise torch.OutOfMemoryError("out of memory")
        return plain(model, ids, *rest, **more)

    monkeypatch.setattr(logprobs, "read_once", tight)
    for answers in (read(loaded, requests), loaded.generate(requests)):
        assert [content(one) for one in answers] == [content(one) for one in expected]
        assert [len(one.prompt_logprobs) for one in answers] == [len(one.prompt_logprobs) for one in expected]
    loaded.close()


@pytest.mark.parametrize("text", ["é", "a é ü b", "日本 law", "\ufffd\ufffd a", "👩‍👩‍👧", "</s> x", " a", "a\n", ""])
def test_pieces_join_to_the_text(text: str) -> None:
    tokenizer = make_tokenizer()
    speller = TokenSpeller(tokenizer)
    ids = tokenizer(text)["input_ids"]
    assert "".join(speller.pieces(ids, text)) == text
    if text:
        assert "".join(speller.pieces(ids[1:])) == text


def test_pieces_of_broken_characters_join_to_their_own_text() -> None:
    tokenizer = make_tokenizer()
    half = tokenizer("é", add_special_tokens=False)["input_ids"][0]
    word = tokenizer("law", add_special_tokens=False)["input_ids"]
    speller = TokenSpeller(tokenizer)
    assert speller.text(half) == "\ufffd"
    for ids in ([half], [half, *word], [*word, half], [*word, *[half] * 20, *word]):
        pieces = speller.pieces(ids)
        assert len(pieces) == len(ids)
        assert "".join(pieces).replace("\ufffd", "") == "law" * (len(ids) - ids.count(half))
