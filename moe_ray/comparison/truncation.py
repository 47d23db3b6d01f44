"""How many prompts were cut because they did not fit a model's context, and how many answers at the token limit."""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from moe_ray.comparison.records import CutAnswers, TruncatedPrompts

NUM_TRUNCATED = "num_truncated_tokens"


def truncated_prompts(answers: pa.Table, models: Sequence[str], domains: Sequence[str]) -> list[TruncatedPrompts]:
    """Counts by model and domain, of the answers that say how many tokens of their prompt were cut.

    A place of which no answer says it, or a table without that column, gives nothing: unknown is not none.
    """
    if NUM_TRUNCATED not in answers.column_names:
        return []
    known = answers.select(["model", "domain", NUM_TRUNCATED]).filter(pc.is_valid(answers.column(NUM_TRUNCATED)))
    cut = pc.cast(pc.greater(known.column(NUM_TRUNCATED), 0), pa.int64())
    aggregates = [("cut", "count"), ("cut", "sum"), (NUM_TRUNCATED, "max")]
    counted = known.append_column("cut", cut).group_by(["model", "domain"]).aggregate(aggregates)
    found = {(row["model"], row["domain"]): row for row in counted.to_pylist()}
    return [
        TruncatedPrompts(
            model=model,
            domain=domain,
            num_answers=row["cut_count"],
            num_truncated=row["cut_sum"],
            max_truncated_tokens=row[f"{NUM_TRUNCATED}_max"],
        )
        for model in models
        for domain in domains
        if (row := found.get((model, domain))) is not None
    ]


def cut_answers(answers: pa.Table, models: Sequence[str], domains: Sequence[str]) -> list[CutAnswers]:
    """Counts by model and domain, of the generated answers without an error, of those that the token limit ended."""
    drawn = answers.select(["model", "domain", "kind", "finish_reason"]).filter(
        (pc.field("kind") == "generate") & (pc.field("finish_reason") != "error")
    )
    is_cut = pc.cast(pc.equal(drawn.column("finish_reason"), "length"), pa.int64())
    aggregates = [("cut", "count"), ("cut", "sum")]
    counted = drawn.append_column("cut", is_cut).group_by(["model", "domain"]).aggregate(aggregates)
    found = {(row["model"], row["domain"]): row for row in counted.to_pylist()}
    return [
        CutAnswers(model=model, domain=domain, num_answers=row["cut_count"], num_cut=row["cut_sum"])
        for model in models
        for domain in domains
        if (row := found.get((model, domain))) is not None
    ]
