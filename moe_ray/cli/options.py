"""Options that several commands share, and the experiment that they make."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from moe_ray.config.load import LoadedExperiment

# Settings of every group of commands; commands inherit them.
GROUP: dict[str, Any] = {
    "no_args_is_help": True,
    "rich_markup_mode": None,
    "context_settings": {"help_option_names": ["-h", "--help"]},
}

ExperimentFile = Annotated[Path, typer.Argument(help="The experiment's YAML file.", show_default=False)]
RunPath = Annotated[Path, typer.Argument(help="A run directory: results/NAME.", show_default=False)]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override any key: models.base.dtype=float32.")
]
Baseline = Annotated[str | None, typer.Option("--model", help="Path or hub id of the baseline's checkpoint.")]
ResultsDir = Annotated[Path | None, typer.Option("--results-dir", help="Folder of run directories.")]
MaxNewTokens = Annotated[int | None, typer.Option(help="Maximum number of tokens per answer, in every domain.")]
MaxExamples = Annotated[
    int | None, typer.Option(help="Maximum number of examples per domain, drawn by a hash of the ids.")
]
AllowWeakSandbox = Annotated[bool, typer.Option(help="Run generated code even if this machine lacks a protection.")]
Brief = Annotated[bool, typer.Option("--brief", help="Print the conclusion alone, without the tables.")]
Only = Annotated[str | None, typer.Option(help="Compute a part of the matrix: baseline, experts or one domain.")]

Reuse = Annotated[
    list[Path] | None,
    typer.Option(metavar="RUN", help="Reuse answers to the same cells from another run directory; repeatable."),
]


@dataclass(frozen=True, slots=True)
class Changes:
    """What the options change in an experiment file."""

    overrides: Sequence[str]
    baseline_path: str | None = None
    results_dir: Path | None = None
    max_new_tokens: int | None = None
    max_examples: int | None = None


def load(file: Path, changes: Changes) -> "LoadedExperiment":
    """Load an experiment with the options' changes, and check all of it."""
    # Imported here, because pydantic would be most of the start time of --help.
    from moe_ray.config.load import load_experiment, override

    overrides = list(changes.overrides)
    if changes.results_dir is not None:
        overrides.append(override(("output", "results_dir"), str(changes.results_dir)))
    if changes.baseline_path is None and changes.max_new_tokens is None and changes.max_examples is None:
        return load_experiment(file, overrides)
    config = load_experiment(file, overrides).config
    if changes.baseline_path is not None:
        overrides.append(override(("models", config.baseline or "baseline", "path"), changes.baseline_path))
    if changes.max_new_tokens is not None:
        overrides.append(override(("decoding", "max_new_tokens"), changes.max_new_tokens))
    for name, domain in config.domains.items():
        if changes.max_examples is not None:
            overrides.append(override(("domains", name, "max_examples"), changes.max_examples))
        if changes.max_new_tokens is not None and domain.max_new_tokens is not None:
            overrides.append(override(("domains", name, "max_new_tokens"), changes.max_new_tokens))
    return load_experiment(file, overrides)
