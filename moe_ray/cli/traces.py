"""Commands on traces that need no mixture: traces of other software, saturation, agreement of gates and routers."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from moe_ray.cli.specialise import outcome, require_trace_or_nothing
from moe_ray.cli.terminal import output_console
from moe_ray.formatting import NONE, interval, number
from moe_ray.report.tables import plain_table
from moe_ray.report.text_table import TextTable
from moe_ray.specialisation.agreement import measure_agreement
from moe_ray.specialisation.measures import MeasuredValue
from moe_ray.specialisation.readers.megatron import import_megatron
from moe_ray.specialisation.readers.sglang import import_sglang
from moe_ray.specialisation.readers.vllm import import_vllm
from moe_ray.specialisation.records import TraceManifest, read_trace
from moe_ray.specialisation.saturation import CORRECTED, SATURATION, measure_saturation

DIGITS = 3


def import_megatron_traces(folder: Path, out: Path, *, num_experts: int) -> None:
    """Convert the traces in a folder, and print what the new one holds."""
    _import(out, lambda: import_megatron(folder, out, num_experts=num_experts))


def import_sglang_dumps(source: Path, out: Path, *, top_k: int | None) -> None:
    """Convert dumps, and print what the trace holds."""
    _import(out, lambda: import_sglang(source, out, top_k=top_k))


def import_vllm_responses(path: Path, out: Path, *, num_experts: int, label: str | None) -> None:
    """Convert responses, and print what the trace holds."""
    _import(out, lambda: import_vllm(path, out, num_experts=num_experts, label_key=label))


def _import(out: Path, convert: Callable[[], TraceManifest]) -> None:
    require_trace_or_nothing(out)
    manifest = convert()
    console = output_console(soft_wrap=True)
    for line in outcome(manifest, out):
        console.print(line)


def show_saturation(paths: Sequence[Path], *, as_json: bool) -> None:
    """Print how much of the last trace's routing each earlier trace already has."""
    traces = [read_trace(path, with_tokens=True) for path in paths]
    values = measure_saturation(traces, [str(path) for path in paths])
    if as_json:
        listed = json.dumps([value.model_dump() for value in values], indent=2)
        output_console(soft_wrap=True).print(listed)
        return
    output_console().print(_saturation_table(values, str(paths[-1])))


def _saturation_table(values: Sequence[MeasuredValue], last: str) -> TextTable:
    table = plain_table("Router saturation", f"  share of the experts of {last} that a token already selects")
    table.add_column("trace", overflow="fold")
    for title in ("layer", "share", "null", "null 95 %", "beyond chance", "95 % interval"):
        table.add_column(title, justify="right", no_wrap=True)
    corrected = {(value.other, value.layer): value for value in values if value.measure == CORRECTED}
    for value in values:
        if value.measure == SATURATION:
            table.add_row(*_cells(value, corrected[value.other, value.layer]))
    return table


def _cells(share: MeasuredValue, corrected: MeasuredValue) -> list[str]:
    return [
        share.other or NONE,
        str(share.layer),
        number(share.value, DIGITS),
        number(share.null_mean, DIGITS),
        interval(share.null_low, share.null_high, DIGITS),
        number(corrected.value, DIGITS),
        interval(corrected.low, corrected.high, DIGITS),
    ]


def show_agreement(paths: Sequence[Path], *, as_json: bool) -> None:
    """Print how far the decisions of gates and routers agree, with each other and with the classes."""
    found = measure_agreement([read_trace(path) for path in paths], [str(path) for path in paths])
    if as_json:
        output_console(soft_wrap=True).print(json.dumps([one.model_dump() for one in found], indent=2))
        return
    table = plain_table("Agreement", "  share of texts for which both name the same expert")
    for title in ("one", "other"):
        table.add_column(title, overflow="fold")
    for title in ("texts", "share", "by chance", "kappa", "95 % interval"):
        table.add_column(title, justify="right", no_wrap=True)
    for one in found:
        shares = (number(one.share, DIGITS), number(one.chance, DIGITS), number(one.kappa, DIGITS))
        table.add_row(one.one, one.other, str(one.num_texts), *shares, interval(one.low, one.high, DIGITS))
    output_console().print(table)
