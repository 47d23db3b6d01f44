"""Reasoning traces are separated from answers, whatever marks a model writes."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_ray.config.schema import ModelConfig
from moe_ray.prompts.reasoning import KNOWN_STYLES, ReasoningSplitter, splitter_of

AUTO = ReasoningSplitter(styles=KNOWN_STYLES)
HARMONY = "<|channel|>analysis<|message|>It reports no effect.<|end|><|start|>assistant<|channel|>final<|message|>Yes."


@pytest.mark.parametrize(
    ("text", "answer", "reasoning"),
    [
        ("<think> It reports no difference </think> Yes.", "Yes.", "It reports no difference"),
        ("<think>\n\n</think>\n\nYes.", "Yes.", ""),
        ("  <thinking>no</thinking>\nYes", "Yes", "no"),
        ("<thought>no</thought>Yes", "Yes", "no"),
        ("<reasoning>no</reasoning>\n<answer>\nYes\n</answer>\n", "Yes\n", "no"),
        ("<scratchpad>no</scratchpad> Yes", "Yes", "no"),
        ("<seed:think>no</seed:think>Yes", "Yes", "no"),
        ("[THINK]no[/THINK]Yes", "Yes", "no"),
        ("◁think▷no◁/think▷Yes", "Yes", "no"),
        ("<|START_THINKING|>no<|END_THINKING|><|START_RESPONSE|>Yes<|END_RESPONSE|>", "Yes", "no"),
        ("<|begin_of_thought|>no<|end_of_thought|><|begin_of_solution|>Yes<|end_of_solution|>", "Yes", "no"),
        ("<|channel>thought\nno<channel|>Yes", "Yes", "no"),
        ("<unused94>thought\nno<unused95>Yes", "Yes", "no"),
        ("Here is my thought process: no. Here is my response: Yes.", "Yes.", "no."),
        (HARMONY, "Yes.", "It reports no effect."),
        (HARMONY + "<|return|>", "Yes.", "It reports no effect."),
        ("<|channel|>analysis no <|channel|>final Yes", "Yes", "no"),
        ("<|channel|>final<|message|>Yes", "Yes", ""),
        ("analysisIt reports no effect.assistantfinalYes.", "Yes.", "It reports no effect."),
        ("<THINK>no</Think>Yes", "Yes", "no"),
        ("no effect is seen </think> Yes", "Yes", "no effect is seen"),
        ("Let me see.\n<think>no</think>\nYes", "Let me see.\n\nYes", "no"),
        ("<think>a</think>Part one. <think>b</think>Part two.", "Part one. Part two.", "a\n\nb"),
        ("<think>I close with </think> then say no </think> Yes", "Yes", "I close with\n\nthen say no"),
        ("<think>the tag <think> is odd, no</think>Yes", "Yes", "the tag <think> is odd, no"),
        ("<think>a [THINK] b [/THINK] no</think>Yes", "Yes", "a [THINK] b [/THINK] no"),
    ],
)
def test_a_trace_is_separated_from_the_answer(text: str, answer: str, reasoning: str) -> None:
    split = AUTO.split(text)
    assert (split.answer, split.reasoning) == (answer, reasoning)


@pytest.mark.parametrize(
    "text",
    [
        "<think> It reports no",
        "<|channel|>analysis<|message|>no",
        "[THINK]no",
        "\n<thinking>\nno, \n\nno",
        "<think>one</think>\n<think>two",
    ],
)
def test_a_trace_that_never_ends_leaves_no_answer(text: str) -> None:
    split = AUTO.split(text)
    assert split.answer.strip() == ""
    assert split.reasoning
    assert split.num_trace_characters == len(text)


def test_an_answer_before_an_open_trace_is_kept() -> None:
    assert AUTO.split("Yes.\n<think>but no").answer == "Yes.\n"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Yes, it does.",
        "  Yes \n",
        "HTML has no tag named <think> of its own.",
        "Write `<think>` before and `</think>` after.",
        "re.sub(r'<think>.*?</think>', '', text)",
        'text.split("</think>")[-1]',
        "```python\nprint('x')\n<think>\n</think>\n```",
        "The analysis of assistantfinal is open.",
        "1 < 2 and [THINKING] of it",
    ],
)
def test_a_text_without_a_trace_is_unchanged(text: str) -> None:
    split = AUTO.split(text)
    assert (split.answer, split.reasoning, split.num_trace_characters) == (text, None, 0)


def test_a_prompt_that_opens_the_trace_makes_the_answer_begin_inside_it() -> None:
    assert AUTO.split("so no </think> Yes", opened=True).answer == "Yes"
    assert AUTO.split("so no, and no", opened=True).answer == ""
    assert AUTO.split("<think> so no </think>Yes", opened=True).answer == "Yes"


@pytest.mark.parametrize(
    ("prompt", "opened"),
    [
        ("<|im_start|>assistant\n<think>\n", True),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", False),
        ("<|im_start|>assistant\n", False),
        ("What is <think>?\n[assistant]", False),
        ("[INST]x[/INST][THINK]", True),
        ("", False),
    ],
)
def test_a_prompt_says_whether_it_opens_a_trace(prompt: str, opened: bool) -> None:
    assert AUTO.is_opened_by(prompt) == opened


def test_a_model_can_name_its_own_marks_or_have_none() -> None:
    own = splitter_of(ModelConfig.model_validate({"path": "m", "reasoning": {"open": "{{", "close": "}}"}}))
    assert (own.split("{{no}}Yes").answer, own.split("<think>no</think>Yes").reasoning) == ("Yes", None)
    none = splitter_of(ModelConfig.model_validate({"path": "m", "reasoning": "none"}))
    assert none.split("<think>no</think>Yes", opened=True).answer == "<think>no</think>Yes"
    assert not none.is_opened_by("<think>")
    marks = {"open": "<t>", "close": "</t>", "starts_open": True}
    open_from_the_start = splitter_of(ModelConfig.model_validate({"path": "m", "reasoning": marks}))
    assert open_from_the_start.split("no").answer == ""


@given(st.lists(st.sampled_from(["<think>", "</think>", "[THINK]", "```", "\n", " no ", "'", "</thinking>", "x"])))
@settings(deadline=None)
def test_an_answer_is_split_once(parts: list[str]) -> None:
    """A stored answer that is split again by a reader must not lose more; marks in it are mentions."""
    text = "".join(parts)
    split = AUTO.split(text)
    assert len(split.answer) + len(split.reasoning or "") <= len(text)
    if split.reasoning is None:
        assert split.answer == text
        assert AUTO.split(split.answer) == split


@pytest.mark.parametrize(
    "unit", ["<think>", "</think>", "<think></think>", "<|channel|>analysis", "\n", " <", "`<think>", "analysis"]
)
def test_a_hostile_text_takes_linear_time(unit: str) -> None:
    text = unit * (300_000 // len(unit))
    start = time.process_time()
    AUTO.split(text)
    assert time.process_time() - start < 5
