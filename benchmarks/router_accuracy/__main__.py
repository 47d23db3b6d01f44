"""How good routers are: on the domains' own questions, on noisy prompts, and on queries of no domain.

    python -m benchmarks.router_accuracy --data DATA [--only own] [--routers tfidf minilm] [--minutes N]

DATA is a folder with the public data sets (named by `sources.py` and `out_of_domain_sets.py`). Every router is trained
and tested by the code that `moe-ray router train` runs. Runs that the results file holds already are not done again, so
that a long measurement can be done part by part; with --minutes no further run is begun when the time is over.
--report-only prints the tables of a file. --only tuning compares settings of the encoder on validation texts. Exits
with 1 when the best router misses 0.99 on own questions.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.machine import machine_line
from benchmarks.router_accuracy.cases import CASES, Case, Corpora
from benchmarks.router_accuracy.measuring import measure
from benchmarks.router_accuracy.mistakes import mistakes
from benchmarks.router_accuracy.out_of_domain_tables import out_of_domain_tables
from benchmarks.router_accuracy.records import (
    Measurements,
    cleaned_sources,
    key_of,
    read_measurements,
    write_measurements,
)
from benchmarks.router_accuracy.routers import ROUTERS, TRIALS, Recipes
from benchmarks.router_accuracy.tables import all_tables, failures, missing_runs


def main() -> int:
    """Do the runs that are missing, print the tables; return the exit status."""
    arguments = _arguments()
    known = {**ROUTERS, **TRIALS}
    unknown = sorted(set(arguments.routers) - set(known))
    if unknown:
        raise SystemExit(f"no router is named {', '.join(unknown)}; there are {', '.join(known)}")
    cases = [case for case in CASES if case.part in arguments.only and arguments.case in (None, case.name)]
    limits = {
        "own": arguments.own_limit,
        "prompts": arguments.prompts_limit,
        "out_of_domain": arguments.out_of_domain_limit,
    }
    measured = read_measurements(arguments.out) or Measurements(machine=_machine(), limits=limits, corpora={}, runs={})
    if not arguments.report_only and measured.limits != limits:
        raise SystemExit(f"{arguments.out} was measured with limits {measured.limits}: give these, or another --out")
    if not arguments.report_only:
        _do_runs(arguments, cases, measured)
    print(measured.machine, "\n")
    print(
        "\n".join(
            [
                *all_tables(measured),
                *out_of_domain_tables(measured),
                *mistakes(measured, arguments.data, arguments.mistakes),
            ]
        )
    )
    broken, missing = failures(measured), missing_runs(measured, cases, arguments.routers)
    print("\n".join([*(f"not measured: {key}" for key in missing), *broken, f"{len(broken)} claims failed"]))
    return 1 if broken else 0


def _do_runs(arguments: argparse.Namespace, cases: Sequence[Case], measured: Measurements) -> None:
    """Do the runs that `measured` lacks, in their order, and write the results file after each."""
    corpora = Corpora(arguments.data, measured.limits)
    ends_at = time.monotonic() + 60 * arguments.minutes
    with tempfile.TemporaryDirectory(prefix="router-accuracy-") as folder:
        recipes = Recipes(arguments.data, Path(folder))
        for case in cases:
            wanted = [router for router in case.routers if router in arguments.routers]
            for router in missing_routers(measured, case, wanted):
                if time.monotonic() > ends_at:
                    return
                _do_run(case, router, corpora, recipes, measured)
                write_measurements(arguments.out, measured)


def missing_routers(measured: Measurements, case: Case, routers: Sequence[str]) -> list[str]:
    """Return those of `routers` that `case` was not done for."""
    return [router for router in routers if key_of(case.part, case.name, router) not in measured.runs]


def _do_run(case: Case, router: str, corpora: Corpora, recipes: Recipes, measured: Measurements) -> None:
    key = key_of(case.part, case.name, router)
    _say(key)
    record = measure(case, case.build(corpora), router, recipes.config(router), _say)
    measured.runs[key] = record
    measured.corpora.update({name: cleaned_sources(corpus.reports) for name, corpus in corpora.made.items()})
    _say(f"  accuracy {record.results.accuracy:.4f} of {record.results.n}, {record.wall_s:.0f} s")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _machine() -> str:
    return machine_line("torch", "transformers", "scikit-learn")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("results/router-accuracy.json"))
    parser.add_argument("--only", nargs="+", choices=("own", "noisy", "tuning"), default=("own", "noisy"))
    parser.add_argument("--case", help="one case, such as pooled or all")
    parser.add_argument("--routers", nargs="+", default=[*ROUTERS, *TRIALS])
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no run after these")
    parser.add_argument("--own-limit", type=int, default=500, help="questions of a source of own questions")
    parser.add_argument("--prompts-limit", type=int, help="noisy prompts of a label")
    parser.add_argument("--out-of-domain-limit", type=int, default=300, help="queries of an out-of-domain set")
    parser.add_argument("--mistakes", type=int, default=0, help="print that many of the surest mistakes")
    parser.add_argument("--report-only", action="store_true", help="print what the results file holds")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
