"""What a reader must know before believing a number."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

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
            level="warning", title="Given up", text=f"{what}: {plural(item.num_cells, 'cell')}. {item.reason}"
        )
    if run.num_answers_with_error:
        text = f"{plural(run.num_answers_with_error, 'answer')} ended in an error."
        yield Caution(level="warning", title="Errors", text=text)


def _unscored(summary: Summary) -> Iterator[Caution]:
    """One caution for each model and reason, with the domains and metrics in which it is met."""
    found: dict[tuple[str, str], dict[str, int]] = defaultdict(dict)
    alone = {system.name for system in summary.systems if system.kind == "model"}
    for item in summary.values:
        for reason, num in item.unscored_reasons.items() if item.system in alone else ():
            places = found[item.system, reason]
            places[item.domain] = max(num, places.get(item.domain, 0))
    for (system, reason), places in found.items():
        where = ", ".join(f"{domain} {num}" for domain, num in places.items())
        text = f"{system} ({where}): {reason}. They are left out, not counted as zero."
        yield Caution(level="warning", title="Unscored answers", text=text)


def _sandbox(summary: Summary) -> Iterator[Caution]:
    sandbox = summary.run.sandbox or {}
    missing = [str(item) for item in sandbox.get("missing", [])]
    if sandbox.get("weak") or missing:
        lacking = f" Missing: {', '.join(missing)}." if missing else ""
        text = f"Generated code ran without some of the protections.{lacking}"
        yield Caution(level="warning", title="Weak sandbox", text=text)


def _notes(summary: Summary) -> Iterator[Caution]:
    for title, text in dict.fromkeys(_all_notes(summary)):
        if "synthetic" not in text.lower():
            yield Caution(level="note", title=title, text=text)


def _all_notes(summary: Summary) -> Iterator[tuple[str, str]]:
    yield from (("Run", note) for note in summary.run.notes)
    for kind, sections in (("Domain", summary.run.domains), ("Model", summary.run.models)):
        for name, section in sections.items():
            yield from ((f"{kind} {name}", note) for note in _notes_of(section))


def _notes_of(section: Mapping[str, Any]) -> list[str]:
    return [str(note) for note in section.get("notes") or ()]


def caution_counts(found: list[Caution]) -> Counter[Level]:
    """How many of each level."""
    return Counter(caution.level for caution in found)
