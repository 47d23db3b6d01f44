"""A summary as Markdown, to paste, and as CSV, to compute with. Both hold the numbers that the tables show."""

import csv
import io
from collections.abc import Iterator, Sequence

from moe_ray.comparison.records import MetricValue, PairedComparison, Summary
from moe_ray.formatting import interval, number, probability, signed
from moe_ray.report.cautions import cautions
from moe_ray.report.conclusions import Headline
from moe_ray.report.verdict import headline
from moe_ray.report.views import DomainView, domain_views, winner_of

CSV_COLUMNS = (
    "kind", "domain", "metric", "system", "minus", "value", "low", "high", "n", "num_failed", "num_unscored",
    "value_of_answered", "p_adjusted", "verdict",
)  # fmt: skip
VALUE_TITLES = ("system", "value", "95 % interval", "n", "failed", "answered alone", "unscored")
DIFFERENCE_TITLES = ("metric", "difference", "95 % interval", "p", "n", "better")


def verdict_text(found: Headline) -> list[str]:
    """The headline and each domain's verdict, one line each."""
    lines = [found.sentence, *(line for line in (found.also, found.cost) if line)]
    for verdict in found.domains:
        said = [verdict.sentence, f"({verdict.figures})" if verdict.figures else "", verdict.failures, verdict.others]
        lines.append(f"{verdict.domain}: {' '.join(part for part in said if part)}")
    return lines


def markdown(summary: Summary, *, brief: bool = False) -> str:
    """The verdict, and unless `brief` what to know before believing it, every value and every difference."""
    first, *rest = verdict_text(headline(summary))
    lines = [f"# {_escaped(summary.run.name)}", "", f"**{_escaped(first)}**", ""]
    lines += [_escaped(summary.run.description), ""] if summary.run.description else []
    lines += [f"- {_escaped(line)}" for line in rest]
    if brief:
        return "\n".join(lines).rstrip() + "\n"
    found = [caution for caution in cautions(summary) if caution.level == "warning"]
    lines += ["", *(f"> {_escaped(caution.line)}" for caution in found)]
    for view in domain_views(summary):
        lines += ["", f"## {_escaped(view.name)}", *_domain_tables(view)]
    return "\n".join(lines).rstrip() + "\n"


def _domain_tables(view: DomainView) -> Iterator[str]:
    for metric in view.metrics:
        unit = f"{metric.unit}, " if metric.unit else ""
        yield from ("", f"{_escaped(metric.title)} ({unit}{metric.better})", "")
        yield from _table(VALUE_TITLES, [(row.label, *_value_cells(value)) for row, value in metric.values])
    pairs = [(metric, item) for metric in view.metrics for item in metric.comparisons]
    for title in dict.fromkeys(f"{item.system_a} minus {item.system_b}" for _, item in pairs):
        yield from ("", _escaped(title), "")
        rows = [
            (metric.title, *_difference_cells(item))
            for metric, item in pairs
            if title == f"{item.system_a} minus {item.system_b}"
        ]
        yield from _table(DIFFERENCE_TITLES, rows)


def _value_cells(value: MetricValue) -> tuple[str, ...]:
    answered = number(value.answered.value if value.answered else value.value)
    bounds = interval(value.low, value.high)
    return number(value.value), bounds, str(value.n), str(value.n_failed), answered, str(value.n_unscored)


def _difference_cells(item: PairedComparison) -> tuple[str, ...]:
    p_value = probability(item.p_adjusted)
    return signed(item.difference), interval(item.low, item.high), p_value, str(item.n_pairs), winner_of(item)


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield _row(titles)
    yield _row(["---", *(["---:"] * (len(titles) - 1))])
    yield from (_row([_escaped(cell) for cell in row]) for row in rows)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _escaped(text: str) -> str:
    """Text of others as text: it ends no cell and no line, and opens no tag and no link."""
    for sign in "\\`*[]|<>#":
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.split(" ")).replace("\n", " ").replace("\r", " ")


def as_csv(summary: Summary) -> str:
    """One row for each value and one for each paired difference; numbers in full, empty where there is none."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for value in summary.values:
        answered = value.answered.value if value.answered else value.value
        verdict = "not_concluded" if value.not_concluded else None
        figures = (value.value, value.low, value.high, value.n, value.n_failed, value.n_unscored, answered)
        writer.writerow(("value", value.domain, value.metric, value.system, None, *figures, None, verdict))
    for item in summary.comparisons:
        answered = item.answered.difference if item.answered else item.difference
        num_failed = item.n_failed_a + item.n_failed_b
        figures = (item.difference, item.low, item.high, item.n_pairs, num_failed, item.n_dropped, answered)
        place = ("difference", item.domain, item.metric, item.system_a, item.system_b)
        writer.writerow((*place, *figures, item.p_adjusted, item.verdict))
    return stream.getvalue()
