"""Examples of any task, one's own included: their texts can be sent, tokenized and stored."""

from pathlib import Path

from moe_ray.domains.example import Example
from moe_ray.prompts.messages import Message, Prompt
from moe_ray.store.run_directory import RunDirectory

HALF = "a\ud800"


def half_example() -> Example:
    prompt = Prompt(messages=(Message(role="user", content=HALF),), stop=(HALF,), choices=("yes", HALF), reference=HALF)
    return Example(id=HALF, domain="d", prompts={"chat": prompt}, reference=HALF, grading={"label": HALF})


def test_half_a_character_becomes_a_question_mark_in_every_text_that_a_model_gets() -> None:
    example = half_example()
    prompt = example.prompts["chat"]
    assert prompt.messages[0].content == prompt.reference == example.id == example.reference == "a?"
    assert (prompt.stop, prompt.choices) == (("a?",), ("yes", "a?"))


def test_an_example_whose_grading_holds_half_a_character_is_written_and_read_back(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    run.prepare()
    run.write_examples("d", [half_example()])
    (read,) = run.examples("d")
    assert (read.id, read.grading) == ("a?", {"label": "a\ufffd"})
