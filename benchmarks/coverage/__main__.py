"""Do the 95 % intervals cover the truth, and do the tests call equal systems different in at most 5 of 100 runs?

    python -m benchmarks.coverage [--trials 1000] [--only macro-F1] [--workers 2]

Scores are drawn from populations whose true value is known, and go through the functions that make summary.json. Every
figure stands with its Monte-Carlo standard error. Accuracy's coverage is also summed exactly over the binomial.
Exits with 1 when a claim fails by more than 4 standard errors: coverage at least 0.90 from 20 examples on, systems of
one population called different in at most 5 %, false discoveries at most 5 %, accuracy's coverage as computed exactly.
"""

import argparse
import math
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator, Sequence

from benchmarks.coverage.cases import Case, ManyCase, PairCase, ValueCase, all_cases
from benchmarks.coverage.tables import exact_coverage, print_tables
from benchmarks.coverage.trials import Estimate, Outcome, run_case
from benchmarks.machine import machine_line

LEAST_COVERAGE = 0.90
FEW_EXAMPLES = 20
MOST_REJECTED = 0.05
NUM_ERRORS = 4.0


def failures(case: Case, outcome: Outcome) -> Iterator[str]:
    """The claims that this case breaks."""
    match case:
        case ValueCase(family="accuracy"):
            yield from _differs(outcome.coverage, exact_coverage(case))
        case PairCase() if case.a is case.b:
            yield from _above("equal systems called different", outcome.rejected)
        case ManyCase():
            yield from _above("false discoveries", outcome.false_discovery_rate)
    if case.num_examples >= FEW_EXAMPLES and not isinstance(case, ManyCase):
        value, error = _known(outcome.coverage)
        if not value + NUM_ERRORS * error >= LEAST_COVERAGE:
            yield f"coverage {value:.3f} is below {LEAST_COVERAGE}"


def _differs(covered: Estimate, exact: float) -> Iterator[str]:
    value, error = _known(covered)
    if not abs(value - exact) <= NUM_ERRORS * error:
        yield f"coverage {value:.3f} is not the exact {exact:.3f}"


def _above(what: str, share: Estimate) -> Iterator[str]:
    value, error = _known(share)
    if not value <= MOST_REJECTED + NUM_ERRORS * error:
        yield f"{what}: {value:.3f} is above {MOST_REJECTED}"


def _known(estimate: Estimate) -> tuple[float, float]:
    """The estimate and its error; a figure that no trial gave fails every claim."""
    if estimate.value is None or estimate.standard_error is None:
        return math.nan, math.nan
    return estimate.value, estimate.standard_error


def simulate(indices: Sequence[int], num_trials: int, num_workers: int) -> list[Outcome]:
    """Run the cases, the largest first, and return their outcomes in the order of `indices`."""
    cases = all_cases()
    order = sorted(indices, key=lambda index: -cases[index].num_examples)
    os.environ["OMP_NUM_THREADS"] = "1"  # read by the workers, which begin anew
    with multiprocessing.get_context("spawn").Pool(num_workers) as pool:
        outcomes = dict(zip(order, pool.starmap(run_case, [(index, num_trials) for index in order], 1), strict=True))
    return [outcomes[index] for index in indices]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=min(2, len(os.sched_getaffinity(0))))
    parser.add_argument("--only", help="cases of one family, such as macro-F1")
    arguments = parser.parse_args()
    cases = all_cases()
    indices = [index for index, case in enumerate(cases) if arguments.only in (None, case.family)]
    started = time.perf_counter()
    outcomes = simulate(indices, arguments.trials, arguments.workers)
    chosen = [cases[index] for index in indices]
    print(machine_line("numpy", "scipy"))
    print(f"{arguments.trials} trials of each case, {time.perf_counter() - started:.0f} s\n")
    print_tables(list(zip(chosen, outcomes, strict=True)))
    broken = [
        f"{case.family}, {case.setting}, n = {case.num_examples}: {text}"
        for case, outcome in zip(chosen, outcomes, strict=True)
        for text in failures(case, outcome)
    ]
    print("\n".join(["", *broken, f"{len(broken)} claims failed"]))
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
