"""Tables for the terminal: the summary of a run, and comparisons of runs and of systems."""

from collections.abc import Iterator, Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.text import Text

from moe_ray.characters import one_line
from moe_ray.comparison.differences import SIGNIFICANCE
from moe_ray.comparison.records import MetricValue, ModelResources, PairedComparison, Summary, Verdict
from moe_ray.comparison.routing_records import RoutingSummary
from moe_ray.comparison.runs import RunComparison, SystemComparison, ValuePair
from moe_ray.formatting import NONE, interval, joules, number, probability, seconds, signed, significant, size, words
from moe_ray.report.cautions import cautions
from moe_ray.report.conclusions import DomainVerdict
from moe_ray.report.export import verdict_text
from moe_ray.report.routing import accuracy_table, routing_sentence
from moe_ray.report.text_table import TextTable
from moe_ray.report.verdict import Contest, headline, lead, pair_verdicts
from moe_ray.report.views import DomainView, MetricView, domain_views, winner_of

MAX_CHANGE_CHARS = 60
MAX_CHANGES = 20


def summary_tables(summary: Summary) -> Group:
    """Everything that `moe-ray report` prints."""
    parts: list[RenderableType] = [Text(summary.run.description)] if summary.run.description else []
    parts.extend(quality_table(view) for view in domain_views(summary))
    if summary.comparisons:
        parts.append(comparison_table(summary))
    if summary.routing is not None:
        parts.append(routing_table(summary, summary.routing))
    if summary.models:
        parts.append(resources_table(summary))
    return Group(*parts, verdict_lines(summary))


def verdict_lines(summary: Summary) -> Group:
    """What to know before believing a number, then the verdict: the last lines on the screen."""
    parts: list[RenderableType] = []
    for caution in cautions(summary):
        style = "yellow" if caution.level == "warning" else "dim"
        parts.append(Text(f"{caution.level}: {caution.line}", style=style))
    sentence, *rest = verdict_text(headline(summary))
    return Group(*parts, Text(f"\n{sentence}", style="bold"), *map(Text, rest))


def print_summary(console: Console, summary: Summary, *, brief: bool = False) -> None:
    """Print all tables of a summary, the verdict last; or the verdict alone."""
    console.print(verdict_lines(summary) if brief else summary_tables(summary))


def plain_table(name: str, rest: str = "", caption: str | None = None) -> TextTable:
    """An empty table in the common style, its `name` in bold."""
    return TextTable(
        title=Text.assemble((one_line(name), "bold"), one_line(rest)),
        caption=caption,
        box=SIMPLE_HEAD,
        title_justify="left",
        caption_justify="left",
        pad_edge=False,
        collapse_padding=True,
    )


def quality_table(view: DomainView) -> TextTable:
    """One domain: every metric of every system, with interval, n, and what failed or was left out."""
    has_failures = any(value.n_failed for metric in view.metrics for _, value in metric.values)
    table = plain_table(view.name)
    table.add_column("metric / system", overflow="fold", ratio=1)
    for title in ("value", "95 % interval", "n", *(("failed", "answered") if has_failures else ()), "unscored"):
        table.add_column(title, justify="right", no_wrap=True)
    for metric in view.metrics:
        unit = f"{metric.unit}, " if metric.unit else ""
        table.add_row(Text(f"{metric.title} ({unit}{metric.better})", style="bold"))
        for row, value in metric.values:
            bounds = interval(value.low, value.high)
            cells = [number(value.value), bounds, str(value.n), *(_failure_cells(value) if has_failures else ())]
            table.add_row(Text(f"  {row.label}"), *cells, _flagged(value.n_unscored))
        table.add_section()
    if has_failures:
        table.caption = (
            "failed: counted as the metric's worst value; answered: the value over the answered examples alone"
        )
    return table


def _failure_cells(value: MetricValue) -> tuple[Text, str]:
    return _flagged(value.n_failed), number(value.answered.value if value.answered else value.value)


def _flagged(num: int) -> Text:
    return Text(str(num), style="yellow" if num else "dim")


def comparison_table(summary: Summary) -> TextTable:
    """Paired differences, each with its interval, adjusted p-value and a verdict."""
    tests = f"exact McNemar or paired permutation, Benjamini-Hochberg over {len(summary.comparisons)}"
    caption = f"better: at adjusted p < {SIGNIFICANCE}; p: {tests}"
    others = {item.system_b for item in summary.comparisons}
    source = f" from {others.pop()}" if len(others) == 1 else ""
    table = plain_table("Paired differences", f"{source} on the same examples", caption)
    table.add_column("domain / metric", overflow="fold", ratio=1)
    for title in ("difference", "95 % interval", "p", "n"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("better", overflow="fold")
    shown = ""
    for item in summary.comparisons:
        heading = f"{item.domain}: {item.system_a}" + ("" if source else f" minus {item.system_b}")
        if heading != shown:
            table.add_row(Text(heading, style="bold"))
            shown = heading
        table.add_row(Text(f"  {words(item.metric)}"), *_difference_cells(item))
    return table


def _difference_cells(item: PairedComparison) -> Iterator[Text]:
    style = "green" if item.verdict in ("a_better", "b_better") else "dim"
    yield Text(signed(item.difference))
    yield Text(interval(item.low, item.high))
    yield Text(probability(item.p_adjusted))
    yield Text(str(item.n_pairs))
    yield Text(winner_of(item), style=style)


def routing_table(summary: Summary, routing: RoutingSummary) -> TextTable:
    """How often the router was right, by domain, and what its mistakes cost there."""
    found = accuracy_table(routing)
    table = plain_table("Routing", caption=routing_sentence(summary, routing))
    table.add_column(found.row_title, overflow="fold", ratio=1)
    for column in found.columns:
        table.add_column(column.title, justify="right")
    for at, name in enumerate(found.names):
        table.add_row(Text(name), *(Text(column.cells[at]) for column in found.columns))
    return table


def resources_table(summary: Summary) -> TextTable:
    """What each model cost."""
    caption = "p50 and p99: whole answers inside their batches; alone: one request at a time"
    table = plain_table("Resources", " by model", caption)
    table.add_column("model", overflow="fold", ratio=1)
    has_energy = any(model.gpu_energy_j is not None for model in summary.models.values())
    for title in ("load", "memory", "tokens/s", "p50", "p99", "alone", *(["energy"] if has_energy else [])):
        table.add_column(title, justify="right", no_wrap=True)
    for name, model in summary.models.items():
        table.add_row(Text(name), *_resource_cells(model), *([joules(model.gpu_energy_j)] if has_energy else []))
    return table


def _resource_cells(model: ModelResources) -> Iterator[str]:
    whole = next((item for item in model.latency if item.quantity == "total_s"), None)
    memory = model.peak_memory
    yield seconds(model.load_s.median if model.load_s else None)
    yield size(memory.gpu_process_bytes or memory.torch_bytes or memory.resident_bytes)
    yield significant(model.completion_tokens_per_busy_s)
    yield seconds(whole.p50_s if whole else None)
    yield seconds(whole.p99_s if whole else None)
    yield seconds(model.probe.total_s.median if model.probe else None)


def run_comparison_tables(comparison: RunComparison) -> Group:
    """Everything that `moe-ray compare` prints."""
    parts: list[RenderableType] = [_changes_table(comparison), *_example_lines(comparison), _pairs_table(comparison)]
    for name in comparison.redefined_metrics:
        parts.append(Text(f"{name} is defined differently in the two runs and was not tested", style="yellow"))
    for run, places in ((comparison.first, comparison.only_first), (comparison.second, comparison.only_second)):
        if places:
            parts.append(Text(f"only in {run}: {', '.join(places)}", style="dim"))
    return Group(*parts)


def _example_lines(comparison: RunComparison) -> Iterator[Text]:
    """Where the runs do not have the same examples."""
    for domain, counts in comparison.examples.items():
        if counts.only_first or counts.only_second:
            alone = f"{counts.only_first} only in the first run, {counts.only_second} only in the second"
            yield Text(f"{domain}: compared on the {counts.shared} examples of both runs; {alone}")


def _changes_table(comparison: RunComparison) -> TextTable:
    num_more = len(comparison.changes) - MAX_CHANGES
    caption = f"and {num_more} more; --json prints all" if num_more > 0 else None
    table = plain_table("What differs in the runs", caption=caption if comparison.changes else "nothing")
    for title in ("setting", f"first: {comparison.first}", f"second: {comparison.second}"):
        table.add_column(title, overflow="fold")
    for change in comparison.changes[:MAX_CHANGES]:
        key = f"{change.key} (and {len(change.also)} more)" if change.also else change.key
        table.add_row(*(Text(_shorten(text)) for text in (key, change.first, change.second)))
    return table


def _shorten(text: str) -> str:
    return text if len(text) <= MAX_CHANGE_CHARS else f"{text[: MAX_CHANGE_CHARS - 1]}…"


def _pairs_table(comparison: RunComparison) -> TextTable:
    caption = "change: second minus first on the examples of both, failures counted; p adjusted over all rows"
    table = plain_table(f"{comparison.second} against {comparison.first}", caption=caption)
    table.add_column("domain / metric / system", overflow="fold", ratio=1)
    for title in ("first", "second", "change", "95 % interval", "p", "n"):
        table.add_column(title, justify="right", no_wrap=True)
    shown = ""
    for pair in comparison.pairs:
        heading = f"{pair.first.domain}: {words(pair.first.metric)}"
        if heading != shown:
            table.add_row(Text(heading, style="bold"))
            shown = heading
        table.add_row(Text(f"  {pair.first.system}"), *_pair_cells(pair))
    return table


def _pair_cells(pair: ValuePair) -> Iterator[str]:
    yield number(pair.first.value)
    yield number(pair.second.value)
    change = pair.change
    yield signed(change.difference) if change else NONE
    yield interval(change.low, change.high) if change else NONE
    yield probability(change.p_adjusted) if change else NONE
    yield str(change.n_pairs) if change else NONE


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
