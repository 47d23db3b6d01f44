"""Options that several commands share, and the experiment that they make."""

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
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
JobWords = Annotated[
    list[str],
    typer.Argument(
        metavar="FILE|-- COMMAND...",
        help="The experiment's YAML file; or, after all options and --, another command with its own options.",
        show_default=False,
    ),
]
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


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateOptions:
    """The options of `evaluate` that `submit` and `slurm` take too."""

    set_: Set = None
    model: Baseline = None
    max_new_tokens: MaxNewTokens = None
    max_examples: MaxExamples = None
    only: Only = None
    reuse: Reuse = None
    allow_weak_sandbox: AllowWeakSandbox = False
    brief: Brief = False

    def changes(self, results_dir: Path | None) -> "Changes":
        """Return what the options change in an experiment file."""
        weak = ["runtime.sandbox.allow_weak=true"] if self.allow_weak_sandbox else []
        overrides = [*(self.set_ or []), *weak]
        return Changes(overrides, self.model, results_dir, self.max_new_tokens, self.max_examples)

    def words(self) -> list[str]:
        """Return the options as they are written in a command, without those that were not given."""
        values = {"model": self.model, "max-new-tokens": self.max_new_tokens, "max-examples": self.max_examples}
        one = [f"--{name}={value}" for name, value in {**values, "only": self.only}.items() if value is not None]
        many = [*(f"--set={text}" for text in self.set_ or ()), *(f"--reuse={run}" for run in self.reuse or ())]
        flags = {"--allow-weak-sandbox": self.allow_weak_sandbox, "--brief": self.brief}
        return [*many, *one, *(flag for flag, is_set in flags.items() if is_set)]


def command_words(
    app: Any, words: Sequence[str], evaluation: EvaluateOptions, results_dir: Path | None = None
) -> list[str]:
    """Return the command that a job runs: `evaluate` for one word, which is a file, else the words themselves."""
    options = [*evaluation.words(), *([f"--results-dir={results_dir}"] if results_dir is not None else [])]
    if len(words) == 1 and (words[0] not in app.commands or Path(words[0]).is_file()):
        return ["evaluate", words[0], *options]
    if options:
        from moe_ray.errors import UserError

        raise UserError(
            "options of the command stand before it",
            where=" ".join(options),
            remedy="write them after --, behind the command",
        )
    return [*words]


def takes_evaluate_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of `EvaluateOptions`, in place of its parameter `evaluation`."""
    shared = [
        inspect.Parameter(one.name, inspect.Parameter.KEYWORD_ONLY, default=one.default, annotation=one.type)
        for one in fields(EvaluateOptions)
    ]
    own = inspect.signature(command).parameters.values()
    parameters = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in own if one.name != "evaluation"]

    @functools.wraps(command)
    def run(**values: Any) -> None:
        given = {one.name: values.pop(one.name) for one in shared}
        command(**values, evaluation=EvaluateOptions(**given))

    run.__signature__ = inspect.Signature([*parameters, *shared])  # type: ignore[attr-defined]
    return run


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
