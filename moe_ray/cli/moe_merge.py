"""`moe-ray moe merge`: fine-tunes of one model behind a gate."""

from collections.abc import Sequence
from pathlib import Path

from rich.progress import BarColumn, DownloadColumn, Progress

from moe_ray.cli.terminal import LineColumn, Terminal, output_console
from moe_ray.errors import ConfigError, DataError
from moe_ray.moe.merged.gate import read_gate
from moe_ray.moe.merged.merge import MergePlan, MixtureMode, merge, plan_merge
from moe_ray.moe.places import require_free
from moe_ray.moe.records import Certificate
from moe_ray.printable import one_line
from moe_ray.report.format import plural, size
from moe_ray.report.text_table import TextTable


def merge_models(
    models: Sequence[str], gate: Path, out: Path, *, mode: MixtureMode, take_first: bool, check: bool
) -> None:
    """Merge `models` (NAME=PATH, or paths in the order of the gate's experts) and say how exact the mixture is.

    Raises `ConfigError` for names that no expert has, and what `plan_merge` and `merge` raise.
    """
    require_free(out)
    console = output_console(soft_wrap=True)
    named = _named(models, read_gate(gate).record.experts)
    plan = plan_merge(named, gate, mode=mode, take_first=take_first)
    _tell_plan(console, plan)
    columns = (LineColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True))
    try:
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task("writing", total=plan.num_bytes)
            certificate = merge(plan, out, check=check, told=lambda done: progress.advance(task, done))
    except OSError as error:
        raise DataError(
            f"cannot be written: {error.strerror or error}", where=str(out), remedy="choose another folder"
        ) from error
    if certificate.exactness:
        console.print(_table(certificate))
    console.print(f"\nMixture: {out}")


def _named(models: Sequence[str], experts: Sequence[str]) -> dict[str, Path]:
    """Return the models by expert's name. A path may hold an equals sign, so only an expert's name counts as one."""
    parts = [model.partition("=") for model in models]
    pairs = [(name, path) for name, equals, path in parts if equals and name in experts]
    if pairs and len(pairs) == len(models):
        _require_once([name for name, _ in pairs])
        return {name: Path(path).expanduser() for name, path in pairs}
    if pairs:
        unnamed = next("".join(part) for part in parts if not part[1] or part[0] not in experts)
        raise ConfigError(
            f"{unnamed} bears no expert's name", where="MODEL", remedy=f"write NAME={unnamed}, of {', '.join(experts)}"
        )
    if len(models) != len(experts):
        raise ConfigError(
            f"{plural(len(models), 'model')} for {len(experts)} experts: {', '.join(experts)}",
            where="MODEL",
            remedy="give one model for each, in this order, or as NAME=MODEL",
        )
    return {name: Path(path).expanduser() for name, path in zip(experts, models, strict=True)}


def _require_once(names: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"two models for expert {name}", where="MODEL", remedy="give one of them")


def _tell_plan(console: Terminal, plan: MergePlan) -> None:
    for source in plan.sources:
        console.print(one_line(f"{source.name}: {source.directory}"))
    for line in plan.differences:
        console.print(one_line(f"taken from {plan.sources[0].name}, though {line}"))
    what = f"{len(plan.sources)} experts in {plural(len(plan.naming.verdicts()), 'layer')}, {plan.config.mixture_mode}"
    console.print(f"{what}; {size(plan.num_bytes)} to write")


def _table(certificate: Certificate) -> TextTable:
    """Each expert alone against its source, one a row."""
    table = TextTable(title="Each expert alone, against its source in float32", title_justify="left")
    table.add_column("expert")
    for heading in ("tokens", "largest logit difference", "same greedy token", "reload"):
        table.add_column(heading, justify="right")
    for one in certificate.exactness:
        reload = "bit-equal" if one.reload_equal else "differs"
        difference = f"{one.max_logit_difference:.3g}"
        table.add_row(one.against, f"{one.num_tokens:,}", difference, f"{one.greedy_agreement:.2%}", reload)
    return table
