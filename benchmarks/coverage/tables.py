"""The outcomes as Markdown tables, one row for each setting, one column for each number of examples."""

from collections.abc import Callable, Sequence
from itertools import groupby

from scipy.stats import binom

from benchmarks.coverage.cases import Case, ManyCase, PairCase, ValueCase
from benchmarks.coverage.trials import Estimate, Outcome
from moe_ray.comparison.resampling import wilson_interval

Row = tuple[Case, Outcome]


def exact_coverage(case: ValueCase) -> float:
    """Accuracy's coverage, summed over the binomial distribution."""
    num, truth = case.num_examples, case.scores.truth
    intervals = [wilson_interval(count, num) for count in range(num + 1)]
    return float(
        sum(
            binom.pmf(count, num, truth)
            for count, (low, high, _) in enumerate(intervals)
            if low is not None and high is not None and low <= truth <= high
        )
    )


def print_tables(rows: Sequence[Row]) -> None:
    """Print the tables of all kinds of cases that are in `rows`."""
    values = [row for row in rows if isinstance(row[0], ValueCase)]
    _print("Coverage of a value's interval (share of trials without one in brackets)", values, _coverage)
    accuracies = [row for row in values if row[0].family == "accuracy"]
    _print("The same, summed exactly", accuracies, lambda case, _: _exact(case))
    _print("Mean width of a value's interval", values, lambda _, outcome: _text(outcome.width))
    pairs = [row for row in rows if isinstance(row[0], PairCase)]
    _print("Coverage of a difference's interval", pairs, _coverage)
    equal = [row for row in pairs if isinstance(row[0], PairCase) and row[0].truth == 0]
    _print("Equal systems called different (p < 0.05)", equal, lambda _, outcome: _text(outcome.rejected))
    unequal = [row for row in pairs if row not in equal]
    _print("Unequal systems called different (power)", unequal, lambda _, outcome: _text(outcome.rejected))
    many = [row for row in rows if isinstance(row[0], ManyCase)]
    _print("False discovery rate after adjustment", many, lambda _, outcome: _text(outcome.false_discovery_rate))
    _print("Better systems found after adjustment", many, lambda _, outcome: _text(outcome.found))


def _print(title: str, rows: Sequence[Row], cell: Callable[[Case, Outcome], str]) -> None:
    if not rows:
        return
    sizes = sorted({case.num_examples for case, _ in rows})
    print(f"{title}\n")
    print(f"| | {' | '.join(f'n = {size}' for size in sizes)} |")
    print("| --- |" + " --- |" * len(sizes))
    for (family, setting), group in groupby(rows, key=lambda row: (row[0].family, row[0].setting)):
        cells = {case.num_examples: cell(case, outcome) for case, outcome in group}
        print(f"| {family}, {setting} | {' | '.join(cells.get(size, '') for size in sizes)} |")
    print()


def _exact(case: Case) -> str:
    return f"{exact_coverage(case):.3f}" if isinstance(case, ValueCase) else ""


def _coverage(_: Case, outcome: Outcome) -> str:
    return _text(outcome.coverage) + (f" ({outcome.without:.0%})" if outcome.without else "")


def _text(estimate: Estimate) -> str:
    if estimate.value is None or estimate.standard_error is None:
        return "none"
    return f"{estimate.value:.3f} ± {estimate.standard_error:.3f}"
