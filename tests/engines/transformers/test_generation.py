"""Generation against transformers' own `generate`, and what batches, stops and seeds do to it."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers

from moe_ray.engines.base import BatchLimits, GenerateRequest, Generation
from tests.engines.asking import ONE_ROW, ROOMY, TEXTS, ask, ask_all, completion, engine
from tests.engines.transformers.checkpoints import ARCHITECTURES, with_end_tokens
from tests.support.tiny_models import Architecture

Checkpoints = Callable[[Architecture], Path]


def peer_tokens(directory: Path, texts: tuple[str, ...], num: int, eos_token_ids: list[int]) -> list[list[int]]:
    """Let `generate` continue `texts` in one left-padded batch; return the new tokens up to the end token."""
    model = transformers.AutoModelForCausalLM.from_pretrained(directory)
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory, padding_side="left")
    inputs = tokenizer(list(texts), return_tensors="pt", padding=True, return_token_type_ids=False)
    output = model.generate(
        **inputs, max_new_tokens=num, do_sample=False, eos_token_id=eos_token_ids, pad_token_id=tokenizer.pad_token_id
    )
    return [_until_end(row, eos_token_ids) for row in output[:, inputs["input_ids"].shape[1] :].tolist()]


def _until_end(tokens: list[int], eos_token_ids: list[int]) -> list[int]:
    ends = [index for index, token in enumerate(tokens) if token in eos_token_ids]
    return tokens[: min(ends, default=len(tokens))]


def content(generations: list[Generation]) -> list[tuple[object, ...]]:
    """Return what must repeat: everything but the times."""
    return [
        (one.text, one.token_ids, one.finish_reason, one.num_prompt_tokens, one.timing.batch_rows, one.error)
        for one in generations
    ]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_greedy_tokens_are_those_of_generate(
    architecture: Architecture, checkpoint: Checkpoints, tmp_path: Path
) -> None:
    plain = checkpoint(architecture)
    unended = peer_tokens(plain, TEXTS, 24, [1])
    eos = [1, unended[0][5], unended[1][11], unended[3][2]]
    directory = with_end_tokens(plain, tmp_path / "ended", eos)

    answers = engine(directory).generate(ask_all(num=24))

    assert [list(one.token_ids) for one in answers] == peer_tokens(directory, TEXTS, 24, eos)
    assert {one.finish_reason for one in answers} >= {"stop"}
    assert len({len(one.token_ids) for one in answers}) > 1, "rows must leave the batch at different steps"


def test_greedy_tokens_are_those_of_generate_where_long_texts_have_other_positions(checkpoint: Checkpoints) -> None:
    directory = checkpoint("phi3_longrope")
    expected = [peer_tokens(directory, (text,), 24, [1])[0] for text in TEXTS]
    answers = engine(directory).generate(ask_all(num=24))
    assert [list(one.token_ids) for one in answers] == expected
    lengths = [one.num_prompt_tokens + 24 for one in answers]
    assert [one.timing.batch_rows == 1 for one in answers] == [length > 32 for length in lengths]
    assert 0 < sum(length > 32 for length in lengths) < len(TEXTS) - 1


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_row_says_the_same_alone_and_in_a_batch(architecture: Architecture, checkpoint: Checkpoints) -> None:
    together = engine(checkpoint(architecture), ROOMY).generate(ask_all(num=24))
    alone = engine(checkpoint(architecture), ONE_ROW).generate(ask_all(num=24))
    assert [one.token_ids for one in together] == [one.token_ids for one in alone]
    assert {one.timing.batch_rows for one in together} == {len(TEXTS)}
    assert {one.timing.batch_rows for one in alone} == {1}


def test_the_checkpoints_own_decoding_settings_do_not_count(checkpoint: Checkpoints, tmp_path: Path) -> None:
    settings = {"repetition_penalty": 5.0, "do_sample": True, "temperature": 3.0, "forced_bos_token_id": 7}
    directory = with_end_tokens(checkpoint("llama"), tmp_path / "set", [1], **settings)
    assert content(engine(directory).generate(ask_all())) == content(engine(checkpoint("llama")).generate(ask_all()))


def test_the_same_requests_give_the_same_content_in_any_order(checkpoint: Checkpoints) -> None:
    loaded = engine(checkpoint("llama"), BatchLimits(max_rows=2, cache_memory_bytes=1 << 30))
    requests = ask_all(temperature=0.9, top_p=0.9)
    first = content(loaded.generate(requests))
    assert content(loaded.generate(requests)) == first
    assert content(loaded.generate(requests[::-1])) == first[::-1]


def test_a_sample_follows_from_its_seed_and_not_from_its_neighbours(checkpoint: Checkpoints) -> None:
    loaded = engine(checkpoint("llama"))
    requests = [ask(TEXTS[0], id="a", temperature=1.0, seed=seed) for seed in range(4)]
    together = [one.token_ids for one in loaded.generate(requests)]
    assert [loaded.generate([request])[0].token_ids for request in requests] == together
    assert len(set(together)) == 4


def test_a_greedy_row_is_not_changed_by_a_sampled_neighbour(checkpoint: Checkpoints) -> None:
    loaded = engine(checkpoint("qwen2"))
    greedy, sampled = ask(TEXTS[0], id="a"), ask(TEXTS[1], id="b", temperature=1.5)
    assert loaded.generate([greedy, sampled])[0].token_ids == loaded.generate([greedy])[0].token_ids


def test_text_ends_before_the_stop_string_and_tokens_after_it(checkpoint: Checkpoints) -> None:
    loaded = engine(checkpoint("llama"))
    plain = loaded.generate([ask(TEXTS[0], num=24)])[0]
    stop = plain.text[8:11]
    answer = loaded.generate([ask(completion(TEXTS[0], stop=(stop, "never said")), num=24)])[0]
    assert answer.finish_reason == "stop"
    assert answer.text == plain.text[: plain.text.index(stop)]
    num = len(answer.token_ids)
    assert answer.token_ids == plain.token_ids[:num]
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint("llama"))
    assert stop in tokenizer.decode(plain.token_ids[:num])
    assert stop not in tokenizer.decode(plain.token_ids[: num - 1])


def test_the_earliest_of_several_stop_strings_counts(checkpoint: Checkpoints) -> None:
    loaded = engine(checkpoint("llama"))
    text = loaded.generate([ask(TEXTS[0], num=24)])[0].text
    stops = (text[12:14], text[4:6])
    answer = loaded.generate([ask(completion(TEXTS[0], stop=stops), num=24)])[0]
    assert answer.text == text[: min(text.index(stop) for stop in stops)]


def test_a_stop_string_that_is_a_special_token_ends_the_answer(checkpoint: Checkpoints, tmp_path: Path) -> None:
    directory = tmp_path / "special"
    shutil.copytree(checkpoint("llama"), directory)
    token = engine(directory).generate([ask(TEXTS[0])])[0].token_ids[4]
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    spelled = tokenizer.convert_ids_to_tokens(token)
    tokenizer.add_special_tokens({"additional_special_tokens": [spelled]})
    tokenizer.save_pretrained(directory)
    answer = engine(directory).generate([ask(completion(TEXTS[0], stop=(spelled,)))])[0]
    assert (answer.finish_reason, len(answer.token_ids)) == ("stop", 4)


def test_an_answer_that_uses_all_its_tokens_ends_by_length(checkpoint: Checkpoints) -> None:
    answer = engine(checkpoint("phi3")).generate([ask(TEXTS[0], num=3)])[0]
    assert (answer.finish_reason, len(answer.token_ids)) == ("length", 3)


def test_each_row_has_its_own_times(checkpoint: Checkpoints) -> None:
    requests = [ask(TEXTS[0], id="long", num=24), ask(TEXTS[1], id="short", num=2), ask(TEXTS[2], id="one", num=1)]
    long, short, one = (answer.timing for answer in engine(checkpoint("llama")).generate(requests))
    assert long.time_to_first_token_s == short.time_to_first_token_s == one.time_to_first_token_s == one.total_s
    assert one.total_s < short.total_s < long.total_s


@pytest.mark.parametrize("max_rows_that_fit", [0, 1, 3])
def test_a_batch_that_does_not_fit_is_halved_until_it_does(checkpoint: Checkpoints, max_rows_that_fit: int) -> None:
    loaded = engine(checkpoint("llama"))
    expected = loaded.generate(ask_all())

    def refuse(module: object, args: object, kwargs: dict[str, torch.Tensor]) -> None:
        if len(kwargs["input_ids"]) > max_rows_that_fit:
            raise torch.OutOfMemoryError("CUDA out of memory")

    loaded._loaded.model.register_forward_pre_hook(refuse, with_kwargs=True)
    answers = loaded.generate(ask_all())
    if max_rows_that_fit == 0:
        assert all(one.finish_reason == "error" and "out of memory" in (one.error or "") for one in answers)
    else:
        assert [one.token_ids for one in answers] == [one.token_ids for one in expected]
        assert max(one.timing.batch_rows for one in answers) <= max_rows_that_fit


def test_another_error_of_the_model_is_not_hidden(checkpoint: Checkpoints) -> None:
    loaded = engine(checkpoint("llama"))

    def fail(*args: object) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    loaded._loaded.model.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        loaded.generate(ask_all())


def test_logits_that_are_not_numbers_are_an_error_of_their_row(checkpoint: Checkpoints) -> None:
    loaded = engine(checkpoint("llama"))
    poisoned = loaded._loaded.tokenizer("drug", add_special_tokens=False)["input_ids"][0]
    with torch.no_grad():
        loaded._loaded.model.get_input_embeddings().weight[poisoned] = float("nan")
    bad, good = loaded.generate([ask("drug", id="bad"), ask("contract", id="good", num=1)])
    assert bad.finish_reason == "error"
    assert (bad.text, bad.token_ids) == ("", ())
    assert "not numbers" in (bad.error or "")
    assert good.error is None


def test_no_requests_give_no_answers(checkpoint: Checkpoints) -> None:
    assert engine(checkpoint("llama")).generate([]) == []


def test_requests_with_different_limits_share_a_batch(checkpoint: Checkpoints) -> None:
    loaded = engine(checkpoint("llama"))
    requests: list[GenerateRequest] = [replace(one, max_new_tokens=3 + n) for n, one in enumerate(ask_all())]
    assert [len(one.token_ids) for one in loaded.generate(requests)] == [3, 4, 5, 6, 7]
