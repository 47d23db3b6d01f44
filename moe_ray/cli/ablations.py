"""Commands that remove experts: ablations, their effects, and pruned checkpoints."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress

from moe_ray.cli.terminal import LineColumn, output_console
from moe_ray.errors import UserError
from moe_ray.files import write_text_atomically
from moe_ray.mixtures.interventions import Operation
from moe_ray.specialisation.ablation.records import JOINT_FOLDER, Ablation, is_complete, read_ablation
from moe_ray.specialisation.ablation.report import AblationReport, make_ablation_report
from moe_ray.specialisation.ablation.tables import effects_table, interaction_table, summary_lines
from moe_ray.specialisation.causal import MIN_CONTROL_DRAWS
from moe_ray.specialisation.texts import SourceTexts, limit_per_class, read_source_texts

REPORT_FILE = "report.json"
EACH, WHOLE, ALL = "each", "whole", "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class AblateOptions:
    """The options of `ablate`, as the command gives them."""

    operation: Operation
    experts: str
    layers: str
    draws: int
    seed: int
    label: str | None
    chat: bool
    max_tokens: int
    max_texts: int | None
    batch_size: int
    dtype: str
    top: int
    joint: int
    choose: int | None
    zero_shot: str | None


def ablate_mixture(model: str, texts: Path, out: Path, options: AblateOptions) -> None:
    """Ablate a mixture on the texts of a file, write the report beside the table, and print it."""
    source = read_source_texts(texts, label_key=options.label)
    if options.max_texts is not None:
        source = SourceTexts(texts=limit_per_class(source.texts, options.max_texts), notes=source.notes)
    experts = () if options.experts == ALL else numbers_of(options.experts, "--experts")
    layers = () if options.layers in (EACH, WHOLE) else numbers_of(options.layers, "--layers")
    if options.draws < MIN_CONTROL_DRAWS:
        raise UserError(f"{options.draws} control draws", where="--draws", remedy=f"give at least {MIN_CONTROL_DRAWS}")
    if options.joint == 1:
        raise UserError("1 expert together with none", where="--joint", remedy="give 2 or more, or 0 for single ones")
    # Imported here, so that a mistake in the texts is reported before torch is loaded.
    from moe_ray.specialisation.ablation.joint import ablate_jointly
    from moe_ray.specialisation.ablation.measuring import AblationOptions
    from moe_ray.specialisation.ablation.run import AblationProgress, AblationRequest, ablate_model

    request = AblationRequest(
        model=model,
        out=out,
        texts=source,
        options=AblationOptions(
            operation=options.operation, num_draws=options.draws, seed=options.seed, batch_size=options.batch_size
        ),
        experts=experts,
        layers=layers,
        whole=options.layers == WHOLE,
        chat=options.chat,
        max_tokens=options.max_tokens,
        dtype=options.dtype,
        zero_shot=options.zero_shot,
    )
    columns = (LineColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=output_console(soft_wrap=True), transient=True) as progress:
        task = progress.add_task("ablating", total=None)
        shown = AblationProgress(
            on_start=lambda total, done: progress.update(task, total=total, completed=done),
            on_text=lambda: progress.advance(task),
        )
        ablate_model(request, shown)
        if options.joint:
            progress.update(task, description="ablating jointly")
            ablate_jointly(request, options.joint, shown)
    show_effects(out, top=options.top, as_json=False, margin=None, choose=options.choose)


def numbers_of(listing: str, option: str) -> tuple[int, ...]:
    """Return the numbers of "0,2,5", rising. Raises `UserError`."""
    parts = listing.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise UserError(f"{listing!r} is not a list of numbers", where=option, remedy="give numbers such as 0,2,5")
    return tuple(sorted({int(part) for part in parts}))


def show_effects(ablation: Path, *, top: int, as_json: bool, margin: float | None, choose: int | None = None) -> None:
    """Print the effects of a finished ablation and of its joint removals, and write them as JSON beside the tables."""
    singles = read_ablation(ablation)
    report = make_ablation_report(singles, margin=margin, choose=choose)
    written = report.model_dump_json(indent=2)
    write_text_atomically(ablation / REPORT_FILE, written + "\n")
    together = _joint_report(ablation, singles, margin)
    if as_json:
        output_console(soft_wrap=True).print(written)
        return
    _print_report(report, top)
    if together is not None:
        _print_report(together, top)
        output_console().print(interaction_table(together))
    output_console().print(f"\nAblation: {ablation}", soft_wrap=True)


def _joint_report(ablation: Path, singles: Ablation, margin: float | None) -> AblationReport | None:
    folder = ablation / JOINT_FOLDER
    if not is_complete(folder):
        return None
    report = make_ablation_report(read_ablation(folder), margin=margin, singles=singles)
    write_text_atomically(folder / REPORT_FILE, report.model_dump_json(indent=2) + "\n")
    return report


def _print_report(report: AblationReport, top: int) -> None:
    console = output_console()
    console.print(effects_table(report))
    ordered = sorted(report.units, key=lambda unit: 2.0 if unit.q_value is None else unit.q_value)
    for unit in ordered[:top]:
        console.print(f"- {unit.sentence}", soft_wrap=True)
    if len(ordered) > top:
        console.print(f"... and {len(ordered) - top} more: --top, or --json", soft_wrap=True)
    for line in [*summary_lines(report), *(f"Note: {note}" for note in report.notes)]:
        console.print(line, soft_wrap=True)


def prune_mixture(model: str, experts: str, out: Path, dtype: str) -> None:
    """Write a mixture without some experts, and print what was written."""
    removed: Sequence[int] = numbers_of(experts, "--experts")
    from moe_ray.specialisation.prune_model import prune_checkpoint

    pruned = prune_checkpoint(model, removed, out, dtype=dtype)
    console = output_console(soft_wrap=True)
    console.print(f"{pruned.num_kept} of {pruned.num_experts} experts kept in each of {pruned.num_layers} layers")
    console.print(f"\nCheckpoint: {out}")
