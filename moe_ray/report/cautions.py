"""What a reader must know before believing a number."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from moe_ray.comparison.records import Summary
from moe_ray.report.format import plural

Level = Literal["warning", "note"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Caution:
    """A warning changes what a number means; a note is background."""

    level: Level
    title: str
    text: str


def cautions(summary: Summary) -> list[Caution]:
    """Everything to be said first, warnings before notes."""
    found = [*_synthetic(summary), *_incomplete(summary), *_unscored(summary), *_sandbox(summary), *_notes(summary)]
    return sorted(found, key=lambda caution: caution.level == "note")


def _synthetic(summary: Summary) -> Iterator[Caution]:
    notes = [text for _, text in _all_notes(summary) if "synthetic" in text.lower()]
    if notes:
        yield Caution(level="warning", title="Synthetic data", text=" ".join(dict.fromkeys(notes)))


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
    """One caution for each reason, with the models that met it."""
    found: dict[str, dict[str, dict[str, int]]] = defaultdict(lambda: defaultdict(dict))
    alone = {system.name for system in summary.systems if system.kind == "model"}
    for item in summary.values:
        for reason, num in item.unscored_reasons.items() if item.system in alone else ():
            places = found[reason][item.system]
            places[item.domain] = max(num, places.get(item.domain, 0))
    for reason, models in found.items():
        counts = {model: sum(places.values()) for model, places in models.items()}
        who = ", ".join(f"{model} {num}" for model, num in counts.items())
        text = f"{reason}: {plural(sum(counts.values()), 'answer')} ({who}). Left out, not counted as zero."
        yield Caution(level="warning", title="Unscored", text=text)


def _sandbox(summary: Summary) -> Iterator[Caution]:
    sandbox = summary.run.sandbox or {}
    missing = [str(item) for item in sandbox.get("missing", [])]
    if sandbox.get("weak") or missing:
        lacking = f" Missing: {', '.join(missing)}." if missing else ""
        text = f"Generated code ran without some of the protections.{lacking}"
        yield Caution(level="warning", title="Weak sandbox", text=text)


def _notes(summary: Summary) -> Iterator[Caution]:
    for title, text in _all_notes(summary):
        if "synthetic" not in text.lower():
            yield Caution(level="note", title=title, text=text)


def _all_notes(summary: Summary) -> list[tuple[str, str]]:
    """Each text once, with where it comes from: a model or domain that has it, else the run."""
    sections = [("domain", summary.run.domains), ("model", summary.run.models)]
    owners: dict[str, list[str]] = {note: [] for note in summary.run.notes}
    for kind, named in sections:
        for name, section in named.items():
            for note in section.get("notes") or ():
                owners.setdefault(str(note), []).append(f"{kind} {name}")
    return [(f"Note on {', '.join(names)}" if names else "Note", note) for note, names in owners.items()]
