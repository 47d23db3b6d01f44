"""Commands that train experts and gates."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from moe_ray.cli.progress import ProgressDisplay
from moe_ray.cli.terminal import Terminal, output_console
from moe_ray.errors import DataError
from moe_ray.formatting import NONE, number, plural
from moe_ray.moe.btx.finetune import FinetuneRecord, work_folder
from moe_ray.moe.btx.pretrain import MIXTURE, PretrainRecord
from moe_ray.moe.btx.state import HistoryPoint
from moe_ray.moe.merge.gate import GateResult, GateTrainingInfo
from moe_ray.progress import TrainingProgress
from moe_ray.report.text_table import TextTable
from moe_ray.runs.mixtures import finetune_on_ray, pretrain_on_ray, train_gate_of_file


def pretrain_experts(file: Path, out: Path) -> None:
    """Train the experts of `file` separately, mix them, and print bits per byte on held-out texts."""
    console = output_console(soft_wrap=True)
    with _resumable(console, out), ProgressDisplay(console) as display:
        record = pretrain_on_ray(
            file,
            out,
            on_progress=display.stage,
            on_notice=display.notice,
            on_step=lambda step: _show(display, step),
        )
    console.print(_texts_table(record))
    console.print(_bits_table(record.bits_per_byte))
    console.print(f"\nMixture: {out / MIXTURE}")


def finetune_mixture(file: Path, mixture: Path, out: Path) -> None:
    """Train the gates of `mixture` on the texts of `file`, and print bits per byte before and after."""
    console = output_console(soft_wrap=True)
    with _resumable(console, work_folder(out)), ProgressDisplay(console) as display:
        record = finetune_on_ray(
            file, mixture, out, on_notice=display.notice, on_step=lambda step: _show(display, step)
        )
    console.print(_bits_table(record.bits_per_byte))
    for line in _gates(record):
        console.print(line)
    console.print(f"\nMixture: {out}")


@contextmanager
def _resumable(console: Terminal, out: Path) -> Iterator[None]:
    """Explain how to continue after Ctrl-C or an `OSError`."""
    try:
        yield
    except KeyboardInterrupt:
        console.print(f"\nInterrupted. What was trained is kept in {out}; the same command resumes.")
        raise
    except OSError as error:
        raise DataError(
            f"cannot be written: {error.strerror or error}",
            where=str(error.filename or out),
            remedy="free space or fix the permissions and run the same command again, or choose another --out",
        ) from error


def _show(display: ProgressDisplay, step: TrainingProgress) -> None:
    display.training(step.step, step.num_steps, f"loss {number(step.loss)}", step.name)


def _texts_table(record: PretrainRecord) -> TextTable:
    table = TextTable(title="Texts, without duplicates", title_justify="left")
    table.add_column("expert")
    for heading in ("learned from", "held out"):
        table.add_column(heading, justify="right")
    for expert, counts in record.num_texts.items():
        table.add_row(expert, f"{counts['train']:,}", f"{counts['held_out']:,}")
    return table


def _bits_table(bits_per_byte: Mapping[str, Mapping[str, float]]) -> TextTable:
    """Return bits per byte, a row for each model and a column for each expert's held-out texts."""
    table = TextTable(title="Bits per byte of held-out texts (less is better)", title_justify="left")
    table.add_column("model")
    for expert in next(iter(bits_per_byte.values())):
        table.add_column(expert, justify="right")
    table.add_column("mean", justify="right")
    for model, bits in bits_per_byte.items():
        table.add_row(model, *map(number, bits.values()), number(sum(bits.values()) / len(bits)))
    return table


def _gates(record: FinetuneRecord) -> Iterator[str]:
    """Yield lines on the load entropy of each layer's gate after the last step."""
    yield f"{plural(record.history[-1].step, 'step')}. Load entropy of each layer at the end (1 is an even load):"
    yield f"  {_load(record.history[-1])}"


def _load(point: HistoryPoint) -> str:
    shares = point.load_entropy or {}
    return ", ".join(f"layer {layer} {number(share)}" for layer, share in shares.items()) or NONE


def train_mixture_gate(file: Path, out: Path) -> None:
    """Train the gate that `file` describes, write it to `out`, and print its test results."""
    console = output_console()
    gate = train_gate_of_file(file, out, on_epoch=lambda progress: _show_epoch(console, progress))
    console.print(_table(gate.info))
    if gate.info.best_epoch is not None:
        console.print(f"Best epoch {gate.info.best_epoch} of {len(gate.info.history)}, by validation macro-F1.")
    console.print(f"\nGate: {out}", soft_wrap=True)


def _show_epoch(console: Terminal, progress: TrainingProgress) -> None:
    console.print(
        f"epoch {progress.epoch:.0f}: loss {number(progress.loss)}, validation macro-F1 {number(progress.macro_f1)}"
    )


def _table(info: GateTrainingInfo) -> TextTable:
    """Return the gate's results, a row for each part of the texts."""
    table = TextTable(title="The gate on texts that it did not learn from", title_justify="left")
    table.add_column("texts")
    for heading in ("number", "accuracy", "macro-F1", "mean confidence"):
        table.add_column(heading, justify="right")
    _add_row(table, "validation", info.validation)
    _add_row(table, "test", info.test)
    if info.held_out is not None:
        _add_row(table, "held-out sources", info.held_out)
    for name, accuracy in info.held_out_accuracy.items():
        table.add_row(f"  {name}", "", number(accuracy), "", "")
    return table


def _add_row(table: TextTable, name: str, result: GateResult) -> None:
    table.add_row(
        name, f"{result.n:,}", number(result.accuracy), number(result.macro_f1), number(result.mean_confidence)
    )
