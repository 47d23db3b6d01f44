"""Warnings and notes that come before the numbers of a report."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from moe_ray.comparison.records import MetricValue, Summary
from moe_ray.comparison.routing_records import RoutingSummary
from moe_ray.formatting import count, interval, listed, number, plural, words
from moe_ray.gating.calibration import Calibration
from moe_ray.proportions import wilson_bounds
from moe_ray.report.routing import overall
from moe_ray.routing.files import RouterTestResults

Level = Literal["warning", "note"]
FEW_EXAMPLES = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Caution:
    """A warning changes what a number means; a note is background. A note's title is what it is about, or empty."""

    level: Level
    title: str
    text: str

    @property
    def line(self) -> str:
        """Title and text."""
        return f"{self.title}: {self.text}" if self.title else self.text


LARGE_ECE = 0.05
MOST = 0.5


def routing_cautions(summary: Summary) -> Iterator[Caution]:
    """Warnings about the router, its test and the oracle; none for a run without a router."""
    routing = summary.routing
    if routing is None:
        return
    found = (
        ("Partial oracle", _partial_oracle(routing)),
        ("Routing drift", _drift(routing)),
        ("Confidence", _miscalibrated(routing)),
        ("Few test texts", _few_texts(routing.test_results)),
        ("Threshold", _mostly_out_of_domain(summary, routing)),
    )
    for title, text in found:
        if text:
            yield Caution(level="warning", title=title, text=text)


def _partial_oracle(routing: RoutingSummary) -> str:
    if routing.oracle_is_whole:
        return ""
    return (
        "not every model has a scored answer to every example, so the oracle picks among the existing ones: it could "
        "be higher, and so could every regret. “matrix: full” asks all models everything."
    )


def _drift(routing: RoutingSummary) -> str:
    """The run's accuracy against that of the router's own test, where their intervals do not meet."""
    whole, tested = overall(routing), routing.test_results
    if whole is None or tested is None or whole.high >= tested.accuracy_low:
        return ""
    here = f"{number(whole.accuracy)} {interval(whole.low, whole.high)}"
    there = f"{number(tested.accuracy)} {interval(tested.accuracy_low, tested.accuracy_high)}"
    return f"the router is right less often on this run, {here}, than on its own test texts, {there}."


def _miscalibrated(routing: RoutingSummary) -> str:
    """A large calibration error that chance alone does not explain."""
    found = routing.calibration
    if found.ece <= LARGE_ECE or not _is_off(found):
        return ""
    return f"on this run the router's probabilities are off by {number(found.ece)} on average (calibration error)."


def _is_off(calibration: Calibration) -> bool:
    """Some bin's confidence lies outside of the interval of how often it was right."""
    for item in calibration.bins:
        if item.n and item.mean_confidence is not None and item.accuracy is not None:
            low, high = wilson_bounds(round(item.accuracy * item.n), item.n)
            if not low <= item.mean_confidence <= high:
                return True
    return False


def _few_texts(tested: RouterTestResults | None) -> str:
    few = [f"{words(item.label)} {item.n}" for item in (tested.per_label if tested else ()) if item.n < FEW_EXAMPLES]
    return f"the router was tested on fewer than {FEW_EXAMPLES} texts of a label ({listed(few)})." if few else ""


def _mostly_out_of_domain(summary: Summary, routing: RoutingSummary) -> str:
    whole = overall(routing)
    if whole is None or whole.num_out_of_domain <= MOST * whole.n:
        return ""
    so = ": the cascade is mostly the baseline" if summary.run.baseline else ""
    return f"the router classified {count(whole.num_out_of_domain)} of {count(whole.n)} examples as out-of-domain{so}."


ModelDomain = tuple[str, str]  # model, domain
SYNTHETIC = "Synthetic data"
MAX_PLACES = 12
MANY_CUT = 0.05
DIGITS = re.compile(r"\d+")


class Unscored(NamedTuple):
    """One reason why examples of one metric have no score, and how many."""

    reason: str
    place: ModelDomain
    metric: str
    num: int


def cautions(summary: Summary) -> list[Caution]:
    """Everything to be said first, warnings before notes."""
    found = [*_synthetic(summary), *_incomplete(summary), *_failed(summary), *_unscored(summary)]
    found += [*_truncated(summary), *_cut(summary), *_few_examples(summary), *_sandbox(summary)]
    found += [*routing_cautions(summary), *_shared_checkpoints(summary), *_notes(summary)]
    return sorted(found, key=lambda caution: caution.level == "note")


def _synthetic(summary: Summary) -> Iterator[Caution]:
    notes = [
        f"{text.rstrip('.')} ({owners})." if owners else text
        for owners, text in _all_notes(summary)
        if "synthetic" in text.lower()
    ]
    if notes:
        yield Caution(level="warning", title=SYNTHETIC, text=" ".join(dict.fromkeys(notes)))


def _incomplete(summary: Summary) -> Iterator[Caution]:
    run = summary.run
    if not run.complete:
        status = run.sessions[-1].status if run.sessions else "never finished"
        text = (
            f"The last session ended as “{status}”; {plural(run.num_cells_done, 'cell')} done. Run it again to finish."
        )
        yield Caution(level="warning", title="Incomplete run", text=text)
    for item in run.given_up:
        what = f"shard {item.shard} of {item.model}" if item.shard else item.model
        yield Caution(
            level="warning",
            title="Given up",
            text=f"{what}: {plural(item.num_cells, 'cell')} without an answer; {item.reason}",
        )
    if run.num_answers_with_error:
        text = f"{plural(run.num_answers_with_error, 'answer')} ended in an error."
        yield Caution(level="warning", title="Errors", text=text)


def _unscored(summary: Summary) -> Iterator[Caution]:
    """One caution for each kind of reason, with the models and domains that met it; failures left aside."""
    found = []
    for item in _of_models(summary):
        reasons = {reason: num - item.failed_reasons.get(reason, 0) for reason, num in item.unscored_reasons.items()}
        found.append((item, {reason: num for reason, num in reasons.items() if num > 0}))
    for met in _by_kind(found).values():
        yield _reason_caution("Unscored", met, "left out, not counted as zero")


def _failed(summary: Summary) -> Iterator[Caution]:
    """One caution for each kind of failure."""
    for met in _by_kind((item, item.failed_reasons) for item in _of_models(summary)).values():
        metrics = dict.fromkeys(item.metric for item in met)
        uncounted = [words(name) for name in metrics if summary.metrics[name].worst is None]
        said = "counted as the worst value" if len(uncounted) < len(metrics) else "which cannot be counted"
        beside = f", but not in {listed(uncounted)}" if uncounted and len(uncounted) < len(metrics) else ""
        yield _reason_caution("Failed", met, f"failed, {said}{beside}")


def _reason_caution(title: str, met: Sequence[Unscored], said: str) -> Caution:
    reason, counts = met[0].reason, _counts(met)
    alike = ", and others that differ in numbers alone" if any(item.reason != reason for item in met) else ""
    text = f"{reason}{alike}: {plural(sum(counts.values()), 'answer')} {said}"
    return Caution(level="warning", title=title, text=f"{text} ({_tally(counts)}).")


def _by_kind(values: Iterable[tuple[MetricValue, Mapping[str, int]]]) -> dict[str, list[Unscored]]:
    """Reasons as written once, by what stays of them without their numbers."""
    found: dict[str, list[Unscored]] = defaultdict(list)
    for item, reasons in values:
        for reason, num in reasons.items():
            kind = DIGITS.sub("#", reason)
            found[kind].append(Unscored(reason, (item.system, item.domain), item.metric, num))
    return found


def _of_models(summary: Summary) -> list[MetricValue]:
    """The values of models alone: every answer is in one of them at most."""
    alone = {system.name for system in summary.systems if system.kind == "model"}
    return [item for item in summary.values if item.system in alone]


def _counts(met: Sequence[Unscored]) -> dict[ModelDomain, int]:
    """Answers by place: those of the metric that met most, since an answer is left out of several metrics at once."""
    by_metric: dict[ModelDomain, Counter[str]] = defaultdict(Counter)
    for item in met:
        by_metric[item.place][item.metric] += item.num
    return {place: max(metrics.values()) for place, metrics in by_metric.items()}


def _truncated(summary: Summary) -> Iterator[Caution]:
    cut = [item for item in summary.truncated_prompts if item.num_truncated]
    counts = {(item.model, item.domain): item.num_truncated for item in cut}
    if counts:
        total, longest = sum(counts.values()), max(item.max_truncated_tokens for item in cut)
        verb = "was" if total == 1 else "were"
        text = f"{plural(total, 'prompt')} {verb} cut from the left, by up to {plural(longest, 'token')}"
        yield Caution(level="warning", title="Truncated", text=f"{text} ({_tally(counts)}).")


def _cut(summary: Summary) -> Iterator[Caution]:
    """Answers that the token limit ended, where a model has many of them: it could not finish what is graded."""
    many = [item for item in summary.cut_answers if item.num_cut > MANY_CUT * item.num_answers]
    if many:
        counts = {(item.model, item.domain): item.num_cut for item in many}
        total, num = sum(counts.values()), sum(item.num_answers for item in many)
        text = (
            f"{count(total)} of {plural(num, 'answer')} ended at max_new_tokens, so that their models could not finish "
            f"({_tally(counts)}). Raise decoding.max_new_tokens, or the domain's, in a new run."
        )
        yield Caution(level="warning", title="Cut answers", text=text)


def _few_examples(summary: Summary) -> Iterator[Caution]:
    """Bootstrap intervals of few examples, which simulations found too narrow (docs/measurements/statistics.md)."""
    few = [item for item in summary.values if item.interval == "bootstrap" and item.n < FEW_EXAMPLES]
    if few:
        metrics = ", ".join(dict.fromkeys(f"{item.domain} {words(item.metric)}" for item in few))
        text = (
            f"intervals from fewer than {FEW_EXAMPLES} examples can be too narrow: they covered the truth in 85 to 95 %"
        )
        yield Caution(level="warning", title="Few examples", text=f"{text} of simulations, not in 95 % ({metrics}).")


def _tally(counts: Mapping[ModelDomain, int]) -> str:
    """ "medic: legal 3, code 1; coder: legal 2"; of many places, the models' sums: "medic 4, coder 2"."""
    models: dict[str, dict[str, int]] = defaultdict(dict)
    for (model, domain), num in counts.items():
        models[model][domain] = num
    if len(counts) > MAX_PLACES:
        return ", ".join(f"{model} {count(sum(places.values()))}" for model, places in models.items())
    return "; ".join(
        f"{model}: {', '.join(f'{domain} {count(num)}' for domain, num in places.items())}"
        for model, places in models.items()
    )


def _sandbox(summary: Summary) -> Iterator[Caution]:
    sandbox = summary.run.sandbox or {}
    missing = [str(item) for item in sandbox.get("missing", [])]
    if sandbox.get("weak") or missing:
        lacking = f" Missing: {', '.join(missing)}." if missing else ""
        gaps = [str(item) for item in sandbox.get("memory_gaps", [])]
        lacking += f" A program could hold memory beyond its limit: {', '.join(gaps)}." if gaps else ""
        text = f"Generated code ran without some of the protections.{lacking}"
        yield Caution(level="warning", title="Weak sandbox", text=text)


def _shared_checkpoints(summary: Summary) -> Iterator[Caution]:
    """Models that are one checkpoint under several names share their answers, and so their costs."""
    names: dict[tuple[object, object], list[str]] = {}
    for name, model in summary.run.models.items():
        if "fingerprint" in model:
            names.setdefault((model["fingerprint"], model.get("prompt_style")), []).append(name)
    for twins in names.values():
        if len(twins) > 1:
            text = (
                "They are the same checkpoint. Each answer was computed once and counts for all of them; so do costs."
            )
            yield Caution(level="note", title=f"One model, {len(twins)} names", text=f"{', '.join(twins)}: {text}")


def _notes(summary: Summary) -> Iterator[Caution]:
    for title, text in _all_notes(summary):
        if "synthetic" not in text.lower():
            yield Caution(level="note", title=title, text=text)


def _all_notes(summary: Summary) -> list[tuple[str, str]]:
    """Each text once, with what it is about: models and domains that have it, else nothing."""
    sections = [("domain", summary.run.domains), ("model", summary.run.models)]
    owners: dict[str, list[str]] = {note: [] for note in summary.run.notes}
    for kind, named in sections:
        for name, section in named.items():
            for note in section.get("notes") or ():
                owners.setdefault(str(note), []).append(f"{kind} {name}")
    return [(", ".join(names), note) for note, names in owners.items()]
