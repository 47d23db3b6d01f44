"""The measurements as Markdown tables. A cell that was not measured stays empty."""

from collections.abc import Callable, Iterable, Iterator, Sequence

from benchmarks.router_accuracy.agreement import agreement, length_group, shares_by
from benchmarks.router_accuracy.cases import CURVE, EXTRA, NUM_FOLDS, Case
from benchmarks.router_accuracy.intervals import accuracy_difference, macro_f1_bounds
from benchmarks.router_accuracy.records import Measurements, RunRecord, Share, key_of
from benchmarks.router_accuracy.routers import ROUTERS
from benchmarks.router_accuracy.sources import OWN_SOURCES
from moe_ray.routing.files import RouterTestResults

TARGET_OWN_ACCURACY = 0.99
NUM_SOURCES_SHOWN = 12

Cell = Callable[[RunRecord], str]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; rows of empty cells beside their name are left out."""
    lines = [f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    lines += [f"| {' | '.join(row)} |" for row in rows if any(row[1:])]
    return "\n".join([*lines, ""])


def all_tables(measured: Measurements) -> Iterator[str]:
    """Yield the tables of what routers get right, each under its title."""
    yield from _data(measured)
    yield "Own questions: accuracy on held-out questions\n"
    yield _grid(measured, "own", {"all sources": "pooled", "style alone": "masked"}, accuracy)
    yield "Own questions, trained on one source of each domain and tested on the other: accuracy by source\n"
    yield _across_sources(measured)
    yield "Routers of own questions on the domains' noisy prompts: accuracy by label\n"
    yield _extra(measured)
    yield "Noisy prompts, four labels\n"
    yield _noisy(measured)
    yield "Noisy prompts: macro-F1 by number of training texts\n"
    yield _grid(measured, "noisy", {**{str(num): str(num) for num in CURVE}, "all": "all"}, macro_f1)
    yield "Noisy prompts, whole subreddits held out: accuracy, macro-F1\n"
    folds = {f"fold {fold}": f"held out {fold}" for fold in range(1, NUM_FOLDS + 1)}
    yield _grid(measured, "noisy", folds, lambda run: f"{accuracy(run)}, {run.results.macro_f1:.3f}")
    yield from _verdicts(measured)
    yield from _trials(measured)


def accuracy(run: RunRecord) -> str:
    """Accuracy with its interval."""
    results = run.results
    return f"{results.accuracy:.3f} [{results.accuracy_low:.3f}, {results.accuracy_high:.3f}]"


def macro_f1(run: RunRecord) -> str:
    """Macro-F1 with its interval."""
    low, high, _ = macro_f1_bounds(run.results)
    return f"{run.results.macro_f1:.3f} [{low:.3f}, {high:.3f}]"


def run_of(measured: Measurements, part: str, case: str, router: str) -> RunRecord | None:
    """Return a run; None when it was not done."""
    return measured.runs.get(key_of(part, case, router))


def missing_runs(measured: Measurements, cases: Iterable[Case], routers: Sequence[str]) -> list[str]:
    """Return the keys of the runs of `cases` by `routers` that were not done."""
    keys = [key_of(case.part, case.name, router) for case in cases for router in case.routers if router in routers]
    return [key for key in keys if key not in measured.runs]


def failures(measured: Measurements) -> list[str]:
    """Say which routers miss the accuracy that own questions are held to; the best of them has to meet it."""
    runs = [run for run in measured.runs.values() if (run.part, run.case) == ("own", "pooled")]
    best = max((run.results.accuracy for run in runs), default=None)
    if best is None or best >= TARGET_OWN_ACCURACY:
        return []
    return [f"own questions: the best accuracy is {best:.4f}, below {TARGET_OWN_ACCURACY}"]


def _data(measured: Measurements) -> Iterator[str]:
    for name, sources in measured.corpora.items():
        yield f"Texts of the corpus {name!r}\n"
        rows = (
            [source.name, source.label, str(source.num_records), str(source.num_kept), _dropped(source.dropped)]
            for source in sources
        )
        yield table(["source", "label", "records", "used", "left out"], rows)


def _dropped(dropped: dict[str, int]) -> str:
    return ", ".join(f"{reason} {num}" for reason, num in sorted(dropped.items()))


def _grid(measured: Measurements, part: str, cases: dict[str, str], cell: Cell) -> str:
    """One row for each router, one column for each case."""
    rows = []
    for router in ROUTERS:
        runs = [run_of(measured, part, case, router) for case in cases.values()]
        rows.append([router, *(cell(run) if run else "" for run in runs)])
    return table(["router", *cases], rows)


def _across_sources(measured: Measurements) -> str:
    unseen = {
        source: "second to first" if at == 0 else "first to second"
        for sources in OWN_SOURCES.values()
        for at, source in enumerate(sources)
    }
    rows = []
    for router in ROUTERS:
        runs = {case: run_of(measured, "own", case, router) for case in set(unseen.values())}
        rows.append([router, *(_share_in(runs[case], source) for source, case in unseen.items())])
    return table(["router", *unseen], rows)


def _share_in(run: RunRecord | None, source: str) -> str:
    return _shown(run.by_source[source]) if run and source in run.by_source else ""


def _shown(share: Share) -> str:
    return f"{share.num_right / share.n:.3f} of {share.n}"


def _extra(measured: Measurements) -> str:
    rows = []
    for router in ROUTERS:
        run = run_of(measured, "own", "pooled", router)
        rows.append(
            [router, *(_shown(run.extra[label]) if run and label in run.extra else "" for label in OWN_SOURCES)]
        )
    return table([f"router / {EXTRA}", *OWN_SOURCES], rows)


def _noisy(measured: Measurements) -> str:
    runs = [(router, run_of(measured, "noisy", "all", router)) for router in ROUTERS]
    labels = next((run.results.labels for _, run in runs if run), [])
    rows = [
        [router, accuracy(run), macro_f1(run), *_f1_by_label(run.results), *_times(run.results)]
        for router, run in runs
        if run
    ]
    return table(["router", "accuracy", "macro-F1", *(f"F1 {label}" for label in labels), "training", "a text"], rows)


def _f1_by_label(results: RouterTestResults) -> list[str]:
    return [f"{label.f1:.3f}" if label.f1 is not None else "none" for label in results.per_label]


def _times(results: RouterTestResults) -> tuple[str, str]:
    return f"{results.train_s:.0f} s", f"{1000 * results.seconds_per_text:.2f} ms"


def _verdicts(measured: Measurements) -> Iterator[str]:
    """What the verdicts on each noisy prompt tell, of the best router and of all together."""
    runs = {run.router: run for run in measured.runs.values() if run.verdicts}
    if not runs:
        return
    best = max(runs.values(), key=lambda run: run.results.macro_f1)
    yield f"Noisy prompts, {best.router}: true label, and what was said\n"
    labels = best.results.labels
    counts = zip(labels, best.results.confusion, strict=True)
    yield table(["label", *labels], ([label, *map(str, row)] for label, row in counts))
    yield f"Noisy prompts, {best.router}: accuracy by length\n"
    yield _shares(shares_by(best.verdicts, length_group))
    yield f"Noisy prompts, {best.router}: the subreddits that are told worst\n"
    by_subreddit = shares_by(best.verdicts, lambda verdict: f"{verdict.source} ({verdict.label})")
    worst = sorted(by_subreddit.items(), key=lambda item: item[1].num_right / item[1].n)
    yield _shares(dict(worst[:NUM_SOURCES_SHOWN]))
    yield f"Noisy prompts: accuracy of {best.router} less that of another router, on the same texts\n"
    yield table(["router", "difference"], ([name, _difference(best, run)] for name, run in runs.items() if run != best))
    if len(runs) > 1:
        yield _agreement(runs)


def _trials(measured: Measurements) -> Iterator[str]:
    runs = [run for run in measured.runs.values() if run.part == "tuning"]
    if runs:
        yield "Settings of the encoder, trained on few of the noisy prompts, on half of the validation texts\n"
        rows = ([run.router, accuracy(run), macro_f1(run), *_times(run.results)] for run in runs)
        yield table(["settings", "accuracy", "macro-F1", "training", "a text"], rows)


def _shares(shares: dict[str, Share]) -> str:
    return table(["", "accuracy"], ([name, _shown(share)] for name, share in shares.items()))


def _difference(best: RunRecord, other: RunRecord) -> str:
    value, (low, high, _) = accuracy_difference(best.verdicts, other.verdicts)
    return f"{value:+.3f} [{low:+.3f}, {high:+.3f}]"


def _agreement(runs: dict[str, RunRecord]) -> str:
    found = agreement({name: run.verdicts for name, run in runs.items()})
    return (
        f"Of {found.n} test prompts, one at least of {len(runs)} routers is right in "
        f"{found.num_any_right / found.n:.3f}; none is in {found.num_none_right}, "
        f"of which all name the same other label in {found.num_one_other_label}.\n"
    )
