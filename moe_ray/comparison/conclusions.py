"""When a difference between two systems supports no verdict, and why not."""

import numpy as np

from moe_ray.comparison.columns import NO_SCORE, BoolArray, Column
from moe_ray.comparison.systems import NO_PICK
from moe_ray.scoring.samples import NO_ANSWER
from moe_ray.scoring.score import Metric

# A verdict needs scores of both systems on all but this share of the examples. What is missing was not drawn at
# random, and 5 % of the examples can move a mean by as much as most differences are worth.
MAX_MISSING = 0.05
NOT_ANSWERED = (NO_ANSWER, NO_SCORE, NO_PICK)


def same_reference(a: Column, b: Column) -> BoolArray:
    """True [n] unless the two scores were measured against different references, or weigh differently."""
    is_known = (a.golds != None) & (b.golds != None)  # noqa: E711  (elementwise)
    both = a.scored & b.scored
    differs = (is_known & (a.golds != b.golds)) | (a.weights != b.weights)
    same: BoolArray = ~(both & differs.astype(np.bool_))
    return same


def no_conclusion(a: Column, b: Column, metric: Metric, name_a: str, name_b: str) -> str | None:
    """Why the scores of systems a and b on the same examples support no verdict; None where they do."""
    num = len(a.values)
    if metric.worst is None and (a.failed != b.failed).any():
        failed_a, failed_b = int(a.failed.sum()), int(b.failed.sum())
        return (
            f"{metric.name} has no worst value that a failure could count as, and {name_a} failed on {failed_a} of "
            f"{num} examples, {name_b} on {failed_b}"
        )
    num_other = int((~same_reference(a, b)).sum())
    if num_other > MAX_MISSING * num:
        return f"{name_a} and {name_b} were measured against different references on {num_other} of {num} examples"
    num_missing = int(missing(a, b).sum())
    if num_missing > MAX_MISSING * num:
        return (
            f"{num_missing} of {num} examples have no score of {name_a} or {name_b}; at most {MAX_MISSING:.0%} may "
            "be missing"
        )
    return None


def missing(a: Column, b: Column) -> BoolArray:
    """True [n] where a score of either is missing.

    An example that neither was scored on though both were answered is at fault itself, and so are examples on which
    both failed where failures cannot be counted: what remains does not favour a system.
    """
    unscored = ~a.scored | ~b.scored
    neither = ~a.scored & ~b.scored
    is_at_fault = neither & ~np.isin(a.reasons, NOT_ANSWERED) & ~np.isin(b.reasons, NOT_ANSWERED)
    found: BoolArray = unscored & ~is_at_fault
    return found
