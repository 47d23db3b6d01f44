"""Reasoning traces of a local model: marks that are special tokens, traces that the prompt opens, template switches."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from moe_ray.engines.transformers.engine import num_tokens_of
from moe_ray.engines.transformers.rows import DecodeRow, DrawnRow
from moe_ray.errors import ModelError
from moe_ray.prompts.messages import Message, Prompt
from moe_ray.prompts.reasoning import KNOWN_STYLES, mark_tokens
from tests.engines.asking import ask, engine
from tests.support.tiny_models import CHAT_TEMPLATE, Architecture, make_tokenizer

Checkpoints = Callable[[Architecture], Path]

CHAT = Prompt(messages=(Message(role="user", content="is the drug"),))
OPENS = CHAT_TEMPLATE.replace(
    "[assistant]\n", "[assistant]\n{% if enable_thinking is defined and not enable_thinking %}<think></think>"
    "{% else %}<think>\n{% endif %}"
)  # fmt: skip


def with_template(source: Path, copy: Path, template: str) -> Path:
    shutil.copytree(source, copy, ignore=shutil.ignore_patterns("chat_template*"))
    make_tokenizer(template).save_pretrained(copy)
    return copy


def drawn_row(tokens: list[str], text: str) -> DrawnRow:
    """A row that draws `text` with a tokenizer whose `tokens` are special, before it ends."""
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": [*tokens, "<|other|>"]})
    special = {token: tokenizer.convert_tokens_to_ids(token) for token in [*tokens, "<|other|>", "</s>", "<pad>"]}
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    marks = mark_tokens(KNOWN_STYLES, list(special))
    row = DrawnRow(
        row=DecodeRow(index=0, token_ids=(1,), num_truncated=0, request=ask("x", num=len(ids) + 1)),
        tokenizer=tokenizer,
        end_token_ids=frozenset({special["</s>"]}),
        special_token_ids=frozenset(special.values()),
        mark_token_ids=frozenset(special[token] for token in marks),
        uniforms=[],
    )
    for token in [*ids, special["</s>"]]:
        row.take(token, 0.0)
    return row


@pytest.mark.parametrize(
    ("tokens", "text", "shown"),
    [
        (["[THINK]", "[/THINK]"], "[THINK]no[/THINK]<|other|>yes", "[THINK]no[/THINK]yes"),
        (
            ["<|channel|>", "<|message|>", "<|start|>", "<|end|>"],
            "<|channel|>analysis<|message|>no<|end|><|start|>assistant<|channel|>final<|message|>yes",
            "<|channel|>analysis<|message|>no<|end|><|start|>assistant<|channel|>final<|message|>yes",
        ),
        (["<|end|>", "<|start|>"], "yes<|end|><|start|>", "yes"),
        ([], "the law<|other|>", "the law"),
    ],
)
def test_special_tokens_that_mark_a_trace_stay_in_the_text_and_others_leave_it(
    tokens: list[str], text: str, shown: str
) -> None:
    assert drawn_row(tokens, text).text == shown


def test_the_tokens_of_a_trace_are_counted_to_its_closing_mark() -> None:
    row = drawn_row(["[THINK]", "[/THINK]"], "[THINK]no, no[/THINK]yes")
    num_trace = len("[THINK]no, no[/THINK]")
    number = num_tokens_of(row, num_trace)
    assert row.decoded(row.token_ids[:number]) == "[THINK]no, no[/THINK]"
    assert number < len(row.token_ids)


def test_a_trace_that_the_template_opens_and_nothing_closes_is_no_answer(
    checkpoint: Checkpoints, tmp_path: Path
) -> None:
    opening = with_template(checkpoint("llama"), tmp_path / "opens", OPENS)
    (inside,) = engine(opening, prompt_style="chat").generate([ask(CHAT)])
    assert (inside.text, inside.num_reasoning_tokens) == ("", len(inside.token_ids))
    assert inside.reasoning
    switches = {"enable_thinking": False}
    (outside,) = engine(opening, prompt_style="chat", chat_template_kwargs=switches).generate([ask(CHAT)])
    assert outside.text
    assert (outside.reasoning, outside.num_reasoning_tokens) == (None, None)
    (whole,) = engine(opening, prompt_style="chat", reasoning="none").generate([ask(CHAT)])
    assert whole.text.strip() == inside.reasoning
    assert whole.token_ids == inside.token_ids


def test_switches_reach_the_chat_template(checkpoint: Checkpoints, tmp_path: Path) -> None:
    directory = with_template(checkpoint("llama"), tmp_path / "opens", OPENS)
    texts: list[str] = [
        engine(directory, prompt_style="chat", chat_template_kwargs=switches)._encoder.text(CHAT)
        for switches in ({}, {"enable_thinking": False}, {"enable_thinking": True})
    ]
    assert texts[0].endswith("<think>\n")
    assert texts[1].endswith("<think></think>")
    assert texts[2] == texts[0]


def test_a_switch_that_the_template_does_not_know_is_refused(checkpoint: Checkpoints, tmp_path: Path) -> None:
    directory = with_template(checkpoint("llama"), tmp_path / "opens", OPENS)
    with pytest.raises(ModelError, match="no variable enable_thinkng"):
        engine(directory, prompt_style="chat", chat_template_kwargs={"enable_thinkng": False})


def test_json_of_the_answers_content_is_the_same_twice(checkpoint: Checkpoints, tmp_path: Path) -> None:
    directory = with_template(checkpoint("llama"), tmp_path / "opens", OPENS)
    loaded: Any = engine(directory, prompt_style="chat")
    found = [
        json.dumps([one.text, one.reasoning, one.num_reasoning_tokens])
        for _ in range(2)
        for one in loaded.generate([ask(CHAT)])
    ]
    assert found[0] == found[1]
