"""Commands on the specialisation of experts."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress

from moe_ray.cli.specialise_page import PageOutput, require_same_model
from moe_ray.cli.terminal import LineColumn, output_console
from moe_ray.errors import DataError, UserError
from moe_ray.formatting import count, plural
from moe_ray.specialisation.ablation.records import read_ablation
from moe_ray.specialisation.ablation.report import make_ablation_report
from moe_ray.specialisation.decisions import trace_routes
from moe_ray.specialisation.measures import Weight
from moe_ray.specialisation.records import TraceManifest, read_trace
from moe_ray.specialisation.report import make_report, sentence_of_all
from moe_ray.specialisation.tables import class_table, layer_table
from moe_ray.specialisation.texts import SourceTexts, limit_per_class, read_source_texts, take_shard
from moe_ray.specialisation.writing import merge, merge_traces


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceOptions:
    """The options of `trace`, as the command gives them."""

    label: str | None
    chat: bool
    max_tokens: int
    skip: int
    max_texts: int | None
    shard: str | None
    batch_size: int
    dtype: str
    tokens: bool
    norms: bool
    similarity: bool


def trace_mixture(model: str, texts: Path, out: Path, options: TraceOptions) -> None:
    """Trace the texts of a file or an experiment through a mixture, and print what was traced."""
    source = _chosen(read_source_texts(texts, label_key=options.label), options, texts)
    if options.similarity and options.batch_size > 1:
        raise UserError("--similarity reads one text at a time", where="--batch-size", remedy="leave --batch-size out")
    require_trace_or_nothing(out)
    # Imported here, so that a mistake in the texts is reported before torch is loaded.
    from moe_ray.specialisation.trace_model import TraceRequest, trace_model
    from moe_ray.specialisation.tracing import TracingOptions

    request = TraceRequest(
        model=model,
        out=out,
        texts=source,
        chat=options.chat,
        max_tokens=options.max_tokens,
        num_skipped=options.skip,
        dtype=options.dtype,
        options=TracingOptions(batch_size=options.batch_size, with_tokens=options.tokens, with_norms=options.norms),
        with_similarity=options.similarity,
    )
    console = output_console(soft_wrap=True)
    columns = (LineColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("tracing", total=len(source.texts))
        manifest = trace_model(request, on_text=lambda: progress.advance(task))
    for line in outcome(manifest, out):
        console.print(line)


def _chosen(source: SourceTexts, options: TraceOptions, path: Path) -> SourceTexts:
    texts = source.texts
    if options.max_texts is not None:
        texts = limit_per_class(texts, options.max_texts)
    if options.shard is not None:
        texts = take_shard(texts, options.shard)
    if not texts:
        raise DataError("no text is in this shard", where=str(path), remedy="use fewer shards")
    return SourceTexts(texts=texts, notes=source.notes)


def require_trace_or_nothing(out: Path) -> None:
    """Replace a trace, but no other folder."""
    if out.exists() and not (out.is_dir() and ((out / "trace.json").is_file() or not any(out.iterdir()))):
        raise UserError("exists and is not a trace", where=str(out), remedy="name a new folder, or remove this one")


def outcome(manifest: TraceManifest, out: Path) -> list[str]:
    """Return what a trace holds, in lines for the terminal."""
    layers = manifest.layers
    experts = sorted({f"{layer.top_k} of {layer.num_experts}" for layer in layers})
    yields = [f"{plural(manifest.num_texts, 'text')}, {plural(manifest.num_tokens, manifest.unit)} counted, "]
    yields[0] += (
        f"{count(manifest.num_masked)} masked; {plural(len(layers), 'layer')} with {', '.join(experts)} experts"
    )
    return [*yields, *manifest.notes, f"\nTrace: {out}"]


def trace_run_routes(run: Path, out: Path) -> None:
    """Write a run's routes as a trace, and print what it holds."""
    require_trace_or_nothing(out)
    console = output_console(soft_wrap=True)
    for line in outcome(trace_routes(run, out), out):
        console.print(line)


def merge_shards(traces: Sequence[Path], out: Path) -> None:
    """Merge traces and print what the merged one holds."""
    require_trace_or_nothing(out)
    console = output_console(soft_wrap=True)
    for line in outcome(merge_traces(traces, out), out):
        console.print(line)


def report_traces(
    paths: Sequence[Path],
    *,
    weight: Weight,
    top: int,
    as_json: bool,
    output: PageOutput | None = None,
    ablation: Path | None = None,
) -> None:
    """Print the measures of one trace, or of several traces of different texts together, and write their page.

    The page shows the effects of `ablation`, too.
    """
    output = output or PageOutput()
    output.require_writable()
    traces = [read_trace(path, with_tokens=True) for path in paths]
    trace = merge(traces, [str(path) for path in paths])
    removed = None if ablation is None else read_ablation(ablation)
    if removed is not None:
        require_same_model(trace.manifest, removed.plan, (str(paths[0]), str(ablation)))
    report = make_report(trace, weight=weight)
    written = output.write(report, trace, None if removed is None else make_ablation_report(removed))
    if as_json:
        output_console(soft_wrap=True).print(report.model_dump_json(indent=2))
        return
    console = output_console()
    console.print(layer_table(report))
    if report.classes:
        console.print(class_table(report))
    if report.sentences:
        console.print(sentence_of_all(report), soft_wrap=True)
    for sentence in report.sentences[:top]:
        console.print(f"- {sentence.text}", soft_wrap=True)
    if len(report.sentences) > top:
        console.print(f"... and {len(report.sentences) - top} more: --top, or --json", soft_wrap=True)
    for line in [*(f"Note: {note}" for note in report.notes), *written]:
        console.print(line, soft_wrap=True)
