"""Prompts: chat templates, begin tokens, roles that a template refuses, and prompts that are too long."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers

from moe_ray.microworld.data import build_tokenizer, load_tokenizer
from moe_ray.prompts.encoder import RowError, chat_text
from moe_ray.prompts.messages import Message, Prompt
from tests.engines.asking import ask, completion, engine
from tests.support.tiny_models import CHAT_TEMPLATE, CONTEXT_LENGTH, Architecture, make_tokenizer

Checkpoints = Callable[[Architecture], Path]

REFUSES_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
DROPS_SYSTEM = "{% for m in messages %}{% if m['role'] == 'user' %}<{{ m['content'] }}>{% endif %}{% endfor %}"

CHAT = Prompt(messages=(Message(role="system", content="be brief"), Message(role="user", content="is the drug")))


def with_template(source: Path, copy: Path, template: str | None) -> Path:
    """Copy a checkpoint and give it another chat template, or none."""
    shutil.copytree(source, copy, ignore=shutil.ignore_patterns("chat_template*"))
    make_tokenizer(template).save_pretrained(copy)
    return copy


def seen_tokens(directory: Path, prompt: Prompt, **fields: Any) -> list[int]:
    """Return the token ids that the model itself was given for `prompt`."""
    loaded = engine(directory, **fields)
    seen: list[list[int]] = []

    def record(module: object, args: object, kwargs: dict[str, object]) -> None:
        seen.append(kwargs["input_ids"][0].tolist())  # type: ignore[index]

    loaded._loaded.model.register_forward_pre_hook(record, with_kwargs=True)
    loaded.generate([ask(prompt, num=1)])
    return seen[0]


def test_a_chat_prompt_is_what_the_template_gives_with_one_begin_token(checkpoint: Checkpoints) -> None:
    directory = checkpoint("llama")
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    turns = [{"role": message.role, "content": message.content} for message in CHAT.messages]
    expected = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=True)["input_ids"]
    tokens = seen_tokens(directory, CHAT, prompt_style="chat")
    assert tokens == expected
    assert tokens.count(tokenizer.bos_token_id) == 1


def test_a_completion_prompt_is_the_raw_text_after_the_begin_token(checkpoint: Checkpoints) -> None:
    tokens = seen_tokens(checkpoint("llama"), completion("the law "))
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint("llama"))
    assert tokens == [tokenizer.bos_token_id, *tokenizer("the law ", add_special_tokens=False)["input_ids"]]


def test_an_empty_completion_prompt_starts_from_the_begin_token(checkpoint: Checkpoints) -> None:
    assert seen_tokens(checkpoint("llama"), completion("")) == [0]


@pytest.mark.parametrize("template", [REFUSES_SYSTEM + CHAT_TEMPLATE, DROPS_SYSTEM])
def test_a_system_text_that_the_template_does_not_take_goes_before_the_users(
    checkpoint: Checkpoints, tmp_path: Path, template: str
) -> None:
    directory = with_template(checkpoint("llama"), tmp_path / "copy", template)
    merged = Prompt(messages=(Message(role="user", content="be brief\n\nis the drug"),))
    assert seen_tokens(directory, CHAT, prompt_style="chat") == seen_tokens(directory, merged, prompt_style="chat")


def test_a_prompt_that_the_template_refuses_is_an_error_of_its_row(checkpoint: Checkpoints, tmp_path: Path) -> None:
    template = "{{ raise_exception('never') }}"
    directory = with_template(checkpoint("llama"), tmp_path / "copy", template)
    answer = engine(directory, prompt_style="chat").generate([ask(CHAT)])[0]
    assert answer.finish_reason == "error"
    assert "refuses" in (answer.error or "")
    assert "never" in (answer.error or "")


def test_a_template_that_prints_the_date_prints_the_same_one_every_day(checkpoint: Checkpoints, tmp_path: Path) -> None:
    template = "{% if not date_string is defined %}{{ strftime_now('%d') }}{% endif %}{{ date_string }}"
    directory = with_template(checkpoint("llama"), tmp_path / "copy", template + CHAT_TEMPLATE)
    tokens = seen_tokens(directory, CHAT, prompt_style="chat")
    assert "26 Jul 2024" in transformers.AutoTokenizer.from_pretrained(directory).decode(tokens)


def test_an_overlong_prompt_is_an_error_with_both_numbers_and_others_go_on(checkpoint: Checkpoints) -> None:
    answers = engine(checkpoint("llama")).generate([ask("#" * 117, num=12), ask("#" * 115, num=12)])
    assert answers[0].finish_reason == "error"
    assert answers[0].error == "the prompt has 118 tokens and 12 may follow, but the context holds 128"
    assert answers[0].num_prompt_tokens == 118
    assert answers[1].error is None


def test_an_overlong_prompt_is_cut_from_the_left_after_the_begin_token(checkpoint: Checkpoints) -> None:
    loaded = engine(checkpoint("llama"), overflow="truncate_left")
    tail = "a question of law"
    answer = loaded.generate([ask("#" * 300 + tail, num=12)])[0]
    assert answer.error is None
    assert answer.num_prompt_tokens == CONTEXT_LENGTH - 12
    tokens = loaded._encoder.encode(completion("#" * 300 + tail), 12).token_ids
    assert answer.num_truncated_tokens == 1 + 300 + len(loaded._loaded.tokenizer(tail)["input_ids"]) - 1 - len(tokens)
    assert tokens[0] == 0
    assert loaded._loaded.tokenizer.decode(tokens[1:]).endswith("###" + tail)


def test_more_new_tokens_than_the_context_holds_is_an_error_even_when_cutting(checkpoint: Checkpoints) -> None:
    answer = engine(checkpoint("llama"), overflow="truncate_left").generate([ask("the law", num=128)])[0]
    assert answer.finish_reason == "error"
    assert "128" in (answer.error or "")


def test_a_token_that_the_model_does_not_know_is_an_error_of_its_row(checkpoint: Checkpoints, tmp_path: Path) -> None:
    directory = tmp_path / "copy"
    shutil.copytree(checkpoint("llama"), directory)
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["zebra"])
    tokenizer.save_pretrained(directory)
    bad, good = engine(directory).generate([ask("zebra", id="a"), ask("law", id="b")])
    assert "the model knows" in (bad.error or "")
    assert good.error is None


def rendered(tokenizer: Any, *turns: tuple[str, str]) -> str:
    """Return what the template itself makes of `turns`."""
    messages = [{"role": role, "content": content} for role, content in turns]
    text: str = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return text


@pytest.mark.parametrize("question", ["is the drug", "  spaces \n and lines\n", "é \N{CAT FACE}", ""])
def test_a_users_text_is_what_the_template_gives(question: str, micro_tokenizer: Any) -> None:
    """Gates were trained on these texts: they must not change."""
    for tokenizer in (make_tokenizer(), micro_tokenizer):
        assert chat_text(tokenizer, [Message(role="user", content=question)]) == rendered(tokenizer, ("user", question))


@pytest.fixture(scope="module")
def micro_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    file = tmp_path_factory.mktemp("micro") / "tokenizer.json"
    build_tokenizer(["is the drug of law"], file)
    return load_tokenizer(file)


def test_a_text_outside_of_an_engine_has_the_fixed_date_and_the_merged_system_text() -> None:
    dated = make_tokenizer("{{ date_string }} " + CHAT_TEMPLATE)
    assert chat_text(dated, CHAT.messages) == "26 Jul 2024 <s>[system] be brief\n[user] is the drug\n[assistant]\n"
    for template in (REFUSES_SYSTEM + CHAT_TEMPLATE, DROPS_SYSTEM):
        tokenizer = make_tokenizer(template)
        assert chat_text(tokenizer, CHAT.messages) == rendered(tokenizer, ("user", "be brief\n\nis the drug"))
    with pytest.raises(RowError, match="refuses this prompt: never"):
        chat_text(make_tokenizer("{{ raise_exception('never') }}"), CHAT.messages)


def test_an_encoder_and_a_gate_read_one_text(checkpoint: Checkpoints) -> None:
    loaded = engine(checkpoint("llama"), prompt_style="chat")
    assert loaded._encoder.text(CHAT) == chat_text(make_tokenizer(), CHAT.messages)
