"""Splitting reasoning from a growing text: whatever its pieces are, they add up to the split of the whole."""

import random

import pytest

from moe_ray.prompts.reasoning import KNOWN_STYLES, ReasoningSplitter
from moe_ray.prompts.trace_stream import TraceStream

SPLITTER = ReasoningSplitter(styles=KNOWN_STYLES)
TEXTS = (
    "plain text, 1 < 2 and [a] list, Here is more",
    "<think>\nhm\n\nso</think>\n\nThe answer.",
    "\n <think>hm</think><answer>yes</answer>",
    "First.\n<think>then</think>rest\n<think>\nagain </think> end ",
    "[THINK]no end of it  ",
    "It says <think> inside a line, and goes on",
    "A line <think>with a trace</think> inside",
    "the mark `</think>` is quoted",
    "```\n<think>\n```\ncode",
    "Here is my thought process: hm Here is my response: yes",
    "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>yes<|return|>",
    "<think>" + "long " * 200 + "</think>" + "answer " * 200,
)


def assert_adds_up(text: str, opened: bool, seed: int) -> list[str]:
    """Feed `text` in pieces of random sizes; return the pieces of the answer."""
    draw, stream = random.Random(seed), TraceStream(SPLITTER, opened=opened)
    pieces, at = [], 0
    while at < len(text):
        size = draw.choice((1, 1, 2, 3, 8))
        pieces.append(stream.feed(text[at : at + size]))
        at += size
    whole = SPLITTER.split(text, opened=opened)
    pieces.append(stream.finish(whole))
    assert "".join(piece.answer for piece in pieces) == whole.answer
    assert "".join(piece.reasoning for piece in pieces) == (whole.reasoning or "")
    return [piece.answer for piece in pieces]


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_add_up_to_the_split_of_the_whole_text(text: str) -> None:
    for seed in range(12):
        assert_adds_up(text, opened=False, seed=seed)


@pytest.mark.parametrize("text", ["hm</think>\nyes", "hm, no end", "</think>yes", "hm <think> too</think>yes"])
def test_a_trace_that_the_prompt_opened_is_split_too(text: str) -> None:
    for seed in range(12):
        assert_adds_up(text, opened=True, seed=seed)


@pytest.mark.parametrize("text", [TEXTS[0], TEXTS[-1]])
def test_an_answer_is_not_held_back_to_the_end(text: str) -> None:
    *before, last = assert_adds_up(text, opened=False, seed=1)
    assert len(last) < len("".join(before))
    assert sum(map(bool, before)) > 5
