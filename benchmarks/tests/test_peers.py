"""The parts of the comparison with lm_eval that decide what counts as equal, and what is asked."""

import dataclasses
import statistics
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.peers import pass_rule
from benchmarks.peers.comparing import (
    EQUAL_SHARE,
    Difference,
    TextAgreement,
    answer_length,
    compare_likelihoods,
    compare_texts,
    difference,
)
from benchmarks.peers.explaining import Explainer, Explanation
from benchmarks.peers.lengths import choose, reference_lengths
from benchmarks.peers.speed import Pair, Side, median_stages, stage_seconds
from benchmarks.peers.theirs import CHOICES, GENERATE, REFERENCE, Asked, Spoken, TheirRun, write_tasks
from moe_ray.domains.example import Example
from moe_ray.prompts.messages import Message, Prompt
from moe_ray.store.answers import Answer
from tests.scoring.answering import generated
from tests.support.tiny_models import make_tiny_checkpoint

END, PADDING = 1, 2


def ours(text: str, *token_ids: int) -> Answer:
    return dataclasses.replace(generated(text), token_ids=list(token_ids), num_completion_tokens=len(token_ids))


def theirs(text: str, *token_ids: int) -> Spoken:
    return Spoken(text=text, token_ids=token_ids)


def test_end_and_padding_tokens_after_an_answer_are_no_difference() -> None:
    assert difference(ours("a b", 7, 8), theirs("a b", 7, 8, END, PADDING, PADDING)) is None
    assert difference(ours("a b", 7, 8), theirs("a b", 7, 8)) is None


def test_tokens_after_a_stop_string_are_no_difference_when_the_text_was_cut_there() -> None:
    assert difference(ours("a", 7, 9), theirs("a", 7, 9, 10, 11)) is None


@pytest.mark.parametrize(
    ("mine", "other", "kind", "position", "tokens"),
    [
        (ours("a b", 7, 8), theirs("a c", 7, 9), "tokens", 1, (8, 9)),
        (ours("a b", 7, 8), theirs("a", 7), "tokens", 1, (8, None)),
        (ours("a b", 7, 8), theirs("a", 7, END, PADDING), "tokens", 1, (8, END)),
        (ours("a", 7), theirs("a b", 7, 8), "end", 1, (None, 8)),
        (ours("a", 7), theirs("A", 7), "text", 1, (None, None)),
        (ours("a ", 7), theirs("a", 7), "end", 1, (None, None)),
    ],
)
def test_what_differs_is_named_with_its_place(
    mine: Answer, other: Spoken, kind: str, position: int, tokens: tuple[int | None, int | None]
) -> None:
    found = difference(mine, other)
    assert found is not None
    assert (found.kind, found.position, found.tokens) == (kind, position, tokens)


def test_one_difference_in_a_hundred_is_the_most_that_counts_as_equal() -> None:
    mine = {str(number): ours("a", 7) for number in range(100)}
    same = {key: theirs("a", 7, END) for key in mine}
    one, two = {**same, "3": theirs("b", 8)}, {**same, "3": theirs("b", 8), "4": theirs("b", 8)}
    assert EQUAL_SHARE == 0.99
    assert [compare_texts(mine, other).holds for other in (same, one, two)] == [True, True, False]
    assert compare_texts(mine, same) == TextAgreement(num_examples=100, num_tokens=100, differences=())


def test_sides_that_answered_other_examples_are_not_compared() -> None:
    with pytest.raises(ValueError, match="2 examples are on one side only"):
        compare_texts({"a": ours("a", 7)}, {"b": theirs("a", 7)})
    with pytest.raises(ValueError, match=r"shorter|longer"):
        compare_likelihoods({"a": [-1.0]}, {"a": [-1.0, -2.0]})


@pytest.mark.parametrize(("value", "holds"), [(-3.00005, True), (-3.0002, False), (None, False)])
def test_log_likelihoods_may_differ_in_the_fourth_digit_and_no_more(value: float | None, holds: bool) -> None:
    found = compare_likelihoods({"a": [-1.0, value], "b": [-5.0]}, {"a": [-1.0, -3.0], "b": [-5.0]})
    assert found.holds is holds
    assert (found.num_values, found.mean_size) == (3, 3.0)


def test_an_answer_is_as_long_as_what_comes_before_its_first_end_token() -> None:
    assert answer_length([5, 6, END, END], frozenset({END})) == 2
    assert answer_length([5, 6], frozenset({END})) == 2


def test_wanted_lengths_are_spread_as_mbpps_references() -> None:
    lengths = reference_lengths(200, 256)
    assert lengths == sorted(lengths)
    assert statistics.median(lengths) == pytest.approx(139 / 2.4, abs=1)
    assert sum(length <= 397 / 2.4 for length in lengths) / 200 == pytest.approx(0.95, abs=0.01)
    assert max(lengths) == 256


def test_the_nearest_lengths_are_chosen_and_none_twice() -> None:
    lengths = [5, 250, 61, 60, 9, 7]
    assert [lengths[place] for place in choose(lengths, [6, 6, 60, 240])] in ([5, 7, 60, 250], [7, 5, 60, 250])
    with pytest.raises(ValueError, match="1 candidates for 2"):
        choose([1], [1, 1])


def test_every_second_of_a_run_belongs_to_one_stage() -> None:
    lines = [
        (1.0, "Reading data and checkpoints"),
        (2.0, "Joining Ray"),
        (5.0, "Answering"),
        (5.5, "m-1: starting (CPU slot 0)"),
        (7.0, "m-1: loading"),
        (9.0, "m-1: ready (loaded in 2.0 s)"),
        (15.0, "m: 96 of 96 answers"),
        (16.0, "m-1: gone"),
        (18.0, "Grading answers"),
        (19.0, "Writing the report"),
        (20.0, "Report: somewhere"),
    ]
    stages = stage_seconds(lines, 20.5)
    assert sum(seconds for _, seconds in stages) == pytest.approx(20.5)
    assert dict(stages)["answering, committing"] == 7.0
    assert dict(stages)["Ray's start, its node's agent"] == 3.0
    assert dict(stage_seconds(lines[:4] + lines[8:], 20.5))["the actor's process, its imports"] == 12.5
    assert dict(median_stages([stages, stages, [("grading", 9.0)]]))["grading"] == 1.0


def test_ratios_are_ours_over_theirs() -> None:
    pair = Pair(
        ours=Side(wall_s=30.0, answering_s=10.0, num_tokens=2000),
        theirs=Side(wall_s=60.0, answering_s=20.0, num_tokens=2000),
        our_stages=(),
        their_stages=(),
    )
    assert (pair.wall_ratio, pair.throughput_ratio) == (0.5, 2.0)


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ("def f(x):\n    return x + 1", 1.0),
        ("Here:\n```python\ndef f(x):\n    return x + 1\n```\nand so on", 1.0),
        ("def f(x):\n    return x", 0.0),
        ("def f(x:", 0.0),
        ("```python\ndef f(x):\n    return x\n```\n```python\ndef f(x):\n    return x + 1\n```", 0.0),
    ],
)
def test_the_peers_rule_runs_the_first_block_with_all_tests(answer: str, value: float) -> None:
    tests = ["assert f(1) == 2", "assert f(2) == 3"]
    assert pass_rule.process_results({"tests": tests}, [answer]) == {"pass_at_1": value}


def test_the_peers_rule_ends_a_program_that_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pass_rule, "TIMEOUT_S", 0.5)
    assert not pass_rule.passes("while True: pass", [])


def asked(**grading: Any) -> Asked:
    prompt = Prompt(
        messages=(Message(role="user", content="Is {{x}} right?\n"),),
        stop=("[DONE]",),
        choices=(" yes", " no"),
        reference=" it is",
    )
    example = Example(
        id="e1",
        domain="law",
        prompts={"completion": prompt},
        reference="it is",
        grading={"label": "no", "choices": ["yes", "no"], **grading},
    )
    parts = (GENERATE, CHOICES, REFERENCE)
    return Asked(domain="law", style="completion", examples=[example], max_new_tokens=9, parts=parts)


def test_a_domain_becomes_tasks_that_ask_the_same(tmp_path: Path) -> None:
    assert write_tasks(tmp_path, [asked()]) == ["law-generate", "law-choices", "law-reference"]
    tasks = {part: yaml.safe_load((tmp_path / f"law-{part}.yaml").read_text()) for part in (GENERATE, CHOICES)}
    assert tasks[GENERATE]["generation_kwargs"] == {"until": ["[DONE]"], "max_gen_toks": 9, "do_sample": False}
    assert tasks[CHOICES]["output_type"] == "multiple_choice"
    (record,) = [yaml.safe_load(line) for line in (tmp_path / "law-choices.jsonl").read_text().splitlines()]
    assert record["prompt"] == "Is {{x}} right?\n"
    assert (record["choices"], record["label"], record["reference"]) == ([" yes", " no"], 1, " it is")


def test_a_task_with_tests_is_scored_by_running_them(tmp_path: Path) -> None:
    write_tasks(tmp_path, [asked(tests=["assert True"])])
    text = (tmp_path / "law-generate.yaml").read_text()
    assert "process_results: !function pass_rule.process_results\n" in text
    assert (tmp_path / "pass_rule.py").is_file()


def test_logs_are_read_with_the_token_ids_of_the_same_request(tmp_path: Path) -> None:
    """The same prompt was asked twice, with other limits: each answer goes with its own tokens."""
    sample = (
        '{{"doc": {{"id": "e1"}}, "resps": [["{text}"]], "arguments": {{"gen_args_0": {{"arg_0": "hello", '
        '"arg_1": {{"until": [], "max_gen_toks": {limit}, "do_sample": false}}}}}}}}\n'
    )
    (tmp_path / "samples_short_2026.jsonl").write_text(sample.format(text="a", limit=1))
    (tmp_path / "samples_long_2026.jsonl").write_text(sample.format(text="a b", limit=2))
    rows = [
        {"prompt": "hello", "max_new_tokens": limit, "stop": [], "token_ids": tokens}
        for limit, tokens in ((1, [7]), (2, [7, 8]))
    ]
    run = TheirRun(folder=tmp_path, record={"rows": rows}, wall_s=1.0)
    assert run.spoken("short") == {"e1": theirs("a", 7)}
    assert run.spoken("long") == {"e1": theirs("a b", 7, 8)}


def test_a_difference_is_a_tie_only_where_the_models_own_logits_are_next_to_each_other(tmp_path: Path) -> None:
    """The gap is read after the prompt, with its begin token, and the tokens that both sides agree on."""
    import torch
    import transformers

    checkpoint = make_tiny_checkpoint(tmp_path, "llama")
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint).eval()
    with torch.inference_mode():
        logits = model(torch.tensor([[*tokenizer("the court is")["input_ids"], 7, 8]])).logits[0, -1]
    ordered = logits.argsort(descending=True).tolist()
    answer, explainer = ours("a", 7, 8, ordered[0], 9), Explainer(checkpoint)

    def explained(other: int | None) -> Explanation:
        found = Difference(example_id="e1", kind="tokens", position=2, tokens=(ordered[0], other))
        return explainer.explain(found, "the court is", answer)

    assert explained(ordered[1]).gap_logits == pytest.approx(float(logits[ordered[0]] - logits[ordered[1]]), abs=1e-4)
    assert not explained(ordered[-1]).is_rounding
    assert explained(ordered[0]).is_rounding
    assert explained(None).gap_logits is None
    assert not explained(None).is_rounding
