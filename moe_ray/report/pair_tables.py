"""Tables of `moe-ray compare` for two systems of one run: every metric's difference, then the conclusion."""

from collections.abc import Iterator, Mapping, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from moe_ray.comparison.records import PairedComparison, Verdict
from moe_ray.comparison.runs import SystemComparison
from moe_ray.formatting import interval, number, probability, signed, words
from moe_ray.report.conclusions import DomainVerdict
from moe_ray.report.tables import plain_table
from moe_ray.report.text_table import TextTable
from moe_ray.report.verdict import Contest, lead, pair_verdicts
from moe_ray.report.views import DomainView, MetricView

BETTER: Mapping[Verdict, str] = {
    "a_better": "first",
    "b_better": "second",
    "no_difference_shown": "not shown",
    "not_concluded": "open",
    "not_tested": "none",
}


def system_comparison_tables(found: SystemComparison) -> Group:
    """The differences of all metrics, then each domain's verdict and the conclusion."""
    contest = Contest(found.system_a, found.system_b)
    verdicts = system_verdicts(found)
    parts: list[RenderableType] = [Text(f"{name}: {text}") for name, text in found.definitions.items()]
    parts += [_table(found), *(Text(line) for line in _lines(found, verdicts))]
    return Group(*parts, Text(f"\n{lead(verdicts, contest)}", style="bold"))


def system_verdicts(found: SystemComparison) -> tuple[DomainVerdict, ...]:
    """A verdict for each domain, by its first metric."""
    views = [_view(found, domain) for domain in found.headlines]
    compared = [(view, view.metrics[0].comparisons[0]) for view in views]
    return pair_verdicts(None, compared, Contest(found.system_a, found.system_b))


def _view(found: SystemComparison, domain: str) -> DomainView:
    items = [item for item in found.comparisons if item.domain == domain]
    return DomainView(name=domain, expert=None, rows=(), metrics=tuple(_metric(found, item) for item in items))


def _metric(found: SystemComparison, item: PairedComparison) -> MetricView:
    info = found.metrics[item.metric]
    return MetricView(
        name=item.metric,
        title=words(item.metric),
        definition=info.definition,
        unit=info.unit,
        higher_is_better=info.higher_is_better,
        worst=info.worst,
        values=(),
        comparisons=(item,),
    )


def _table(found: SystemComparison) -> TextTable:
    caption = f"failures counted; p: Benjamini-Hochberg over {len(found.comparisons)}"
    table = plain_table("Paired differences", f" in {found.run}, first minus second", caption)
    table.add_column("domain / metric", overflow="fold", ratio=1)
    for title in ("first", "second", "diff.", "95 % interval", "p", "n", "better"):
        table.add_column(title, justify="right", no_wrap=True)
    shown = ""
    for item in found.comparisons:
        if item.domain != shown:
            table.add_row(Text(item.domain, style="bold"))
            shown = item.domain
        table.add_row(Text(f"  {words(item.metric)}"), *_cells(item))
    return table


def _cells(item: PairedComparison) -> Iterator[str]:
    yield from (number(item.value_a), number(item.value_b), signed(item.difference))
    yield from (interval(item.low, item.high), probability(item.p_adjusted), str(item.n_pairs))
    yield BETTER[item.verdict]


def _lines(found: SystemComparison, verdicts: Sequence[DomainVerdict]) -> Iterator[str]:
    """Each domain's verdict, and where none was shown what could have been."""
    first = {item.domain: item for item in reversed(found.comparisons) if item.metric == found.headlines[item.domain]}
    for verdict in verdicts:
        item = first[verdict.domain]
        said = [verdict.sentence, f"({verdict.figures})" if verdict.figures else "", verdict.failures, verdict.others]
        if item.verdict == "no_difference_shown" and item.detectable is not None:
            said.append(
                f"These {item.n_pairs} examples would have shown a difference of {number(item.detectable)} with a "
                "probability of 80 %."
            )
        yield f"{verdict.domain}: {' '.join(part for part in said if part)}"
