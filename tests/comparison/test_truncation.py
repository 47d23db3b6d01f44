"""Prompts that were cut: counted where the answers say so, unknown where they do not."""

import random
from pathlib import Path

import pyarrow as pa

from moe_ray.comparison.records import TruncatedPrompts
from moe_ray.comparison.summary import NUM_TRUNCATED, cut_answers, summarise, truncated_prompts
from moe_ray.report.cautions import cautions
from tests.support.synthetic_run import ALL_METRICS, synthetic_run

ROWS = [("a", "x", 0), ("a", "x", 7), ("a", "x", 2), ("a", "y", None), ("b", "x", None), ("b", "x", 0), ("c", "y", 1)]


def table_of(rows: list[tuple[str, str, int | None]]) -> pa.Table:
    models, domains, numbers = zip(*rows, strict=True)
    return pa.table({"model": models, "domain": domains, NUM_TRUNCATED: pa.array(numbers, pa.int32())})


def place(model: str, domain: str, num_answers: int, num_truncated: int, most: int) -> TruncatedPrompts:
    return TruncatedPrompts(
        model=model,
        domain=domain,
        num_answers=num_answers,
        num_truncated=num_truncated,
        max_truncated_tokens=most,
    )


def test_prompts_are_counted_by_model_and_domain_and_an_answer_that_does_not_say_is_left_out() -> None:
    expected = [place("a", "x", 3, 2, 7), place("b", "x", 1, 0, 0), place("c", "y", 1, 1, 1)]
    for seed in range(3):
        shuffled = random.Random(seed).sample(ROWS, len(ROWS))
        assert truncated_prompts(table_of(shuffled), ["a", "b", "c"], ["x", "y"]) == expected


def test_a_table_without_the_column_tells_nothing() -> None:
    assert truncated_prompts(table_of(ROWS).drop_columns([NUM_TRUNCATED]), ["a"], ["x"]) == []


def test_a_run_with_cut_prompts_warns_of_them_and_one_that_cut_none_does_not(tmp_path: Path) -> None:
    run, scores = synthetic_run(tmp_path / "run", num_models=2, num_answers=8)
    table = run.answers_table()
    if NUM_TRUNCATED in table.column_names:
        table = table.drop_columns([NUM_TRUNCATED])
    for numbers, texts in (
        ([None] * 8, []),
        ([0] * 8, []),
        ([3] + [0] * 7, ["1 prompt was cut from the left, by up to 3 tokens (general-7b: biomedical 1)."]),
    ):
        in_order = table.sort_by([("model", "descending"), ("example_id", "ascending")])
        answers = in_order.append_column(NUM_TRUNCATED, pa.array(numbers, pa.int32()))
        summary = summarise(scores, ALL_METRICS, run.manifest(), run.telemetry(), answers)
        assert [caution.text for caution in cautions(summary) if caution.title == "Truncated"] == texts


def test_answers_that_the_token_limit_ended_are_counted_by_model_and_domain() -> None:
    rows = [("m", "d", "generate", reason) for reason in ("length", "stop", "length", "error")]
    rows += [("m", "e", "generate", "stop"), ("m", "d", "likelihood", "length"), ("n", "d", "generate", "length")]
    names = ("model", "domain", "kind", "finish_reason")
    table = pa.table({name: [row[at] for row in rows] for at, name in enumerate(names)})
    found = cut_answers(table, ["n", "m"], ["d", "e"])
    assert [(item.model, item.domain, item.num_answers, item.num_cut) for item in found] == [
        ("n", "d", 1, 1),
        ("m", "d", 3, 2),
        ("m", "e", 1, 0),
    ]
