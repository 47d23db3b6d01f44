"""`moe-ray moe train-gate`: the gate of a mixture of fine-tunes."""

from pathlib import Path

from moe_ray.cli.terminal import Terminal, output_console
from moe_ray.config.schema import RuntimeConfig
from moe_ray.errors import DataError
from moe_ray.moe.merged.gate_config import load_gate_config
from moe_ray.moe.merged.gate_records import GateResult, GateTrainingInfo
from moe_ray.report.format import number
from moe_ray.report.text_table import TextTable
from moe_ray.routing.classifier import TrainingProgress
from moe_ray.routing.device import choose_device


def train_gate_of_file(file: Path, out: Path) -> None:
    """Train the gate that `file` describes, write it to `out`, and say how good it is.

    Raises what `train_gate` raises, and `ModelError` when `out` holds something else than a gate.
    """
    config = load_gate_config(file)
    from moe_ray.moe.merged.gate_training import require_gate_or_nothing, train_gate

    require_gate_or_nothing(out)
    console = output_console()
    device = choose_device(RuntimeConfig().cpu_threads)
    gate = train_gate(config, file.absolute().parent, device=device, report=_Teller(console))
    try:
        gate.save(out)
    except OSError as error:
        raise DataError(
            f"cannot be written: {error.strerror or error}", where=str(out), remedy="choose another folder"
        ) from error
    console.print(_table(gate.info))
    if gate.info.best_epoch is not None:
        console.print(f"Best epoch {gate.info.best_epoch} of {len(gate.info.history)}, by validation macro-F1.")
    console.print(f"\nGate: {out}", soft_wrap=True)


class _Teller:
    """Prints a line for each epoch."""

    def __init__(self, console: Terminal) -> None:
        self._console = console

    def __call__(self, progress: TrainingProgress) -> None:
        self._console.print(
            f"epoch {progress.epoch:.0f}: loss {number(progress.loss)}, validation macro-F1 {number(progress.macro_f1)}"
        )


def _table(info: GateTrainingInfo) -> TextTable:
    """How good the gate is on each part, one a row."""
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
