"""The commands of `moe-ray` that run as jobs, and what their arguments and options name.

A job works in a run directory. Commands on an experiment have one, `output.results_dir`/`name`. Others write a folder
of their own, `--out RUN/NAME`: the folder above it is the run directory. `score` works on a run directory itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from moe_ray.config.load import LoadedExperiment

# experiment: the file that the command is about; its run directory is the job's.
# graders: an experiment file whose graders and data are used, not its models.
# pretraining, gate: YAML or JSON files of `moe pretrain`, `moe finetune` and `moe train-gate`.
# texts: a file of texts, or an experiment file.
# path: a file or folder. named: NAME=FOLDER, or FOLDER. model: a folder or a hub id.
# earlier: a run directory on the cluster's disks, never sent.
# out: the folder that the command writes. run: the run directory that the command changes.
WordRole = Literal[
    "experiment", "graders", "pretraining", "gate", "texts", "path", "named", "model", "earlier", "out", "run"
]

RUN_WORD = "@run"  # in a Ray job's command: the run directory, which only the driver knows
JOB_COMMANDS: Mapping[tuple[str, ...], Mapping[str, WordRole]] = {
    ("evaluate",): {"file": "experiment", "reuse": "earlier"},
    ("router", "train"): {"file": "experiment"},
    ("score",): {"run": "run", "experiment": "graders"},
    ("moe", "train-gate"): {"file": "gate", "out": "out"},
    ("moe", "upcycle"): {"model": "path", "out": "out", "fine_tune": "path", "texts": "path"},
    ("moe", "merge"): {"models": "named", "gate": "path", "out": "out"},
    ("moe", "pretrain"): {"file": "pretraining", "out": "out"},
    ("moe", "finetune"): {"file": "pretraining", "mixture": "path", "out": "out"},
    ("specialise", "trace"): {"model": "model", "texts": "texts", "out": "out"},
    ("specialise", "ablate"): {"model": "model", "texts": "texts", "out": "out"},
    ("specialise", "prune"): {"model": "model", "out": "out"},
}
# The others compute in the process of the command itself, on one node.
ON_RAY = frozenset({("evaluate",), ("router", "train"), ("moe", "pretrain"), ("moe", "finetune")})


class CommandWord(NamedTuple):
    """One argument, or one option with its value, as it was given. `value` is None for a flag."""

    parameter: str
    option: str | None
    value: str | None
    role: WordRole | None = None

    def spelled(self, value: str) -> list[str]:
        """Return the word with another value. An option holds its value with =, so that it may begin with a dash."""
        return [value] if self.option is None else [f"{self.option}={value}"]

    @property
    def named(self) -> tuple[str, str]:
        """Return the value's NAME=, which may be absent, and its path."""
        name, equals, path = (self.value or "").partition("=")
        return (f"{name}=", path) if self.role == "named" and equals else ("", self.value or "")

    @property
    def plain(self) -> list[str]:
        return [self.option or ""] if self.value is None else self.spelled(self.value)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobCommand:
    """A command to run as a job. `run` is its run directory on this machine, whose name is the job's name.

    `experiment` is what the file of role "experiment" says, with the options applied that override its keys: those of
    `overriding`, by parameter.
    """

    name: tuple[str, ...]
    words: tuple[CommandWord, ...]
    run: Path
    experiment: LoadedExperiment | None = None
    overriding: frozenset[str] = frozenset()

    @property
    def is_on_ray(self) -> bool:
        """True if the command spreads its work over the cluster."""
        return self.name in ON_RAY


def is_on_experiment(command: Sequence[str]) -> bool:
    """Say whether a command line takes an experiment's own options: --set and --results-dir."""
    return any("experiment" in roles.values() for name, roles in JOB_COMMANDS.items() if _begins(command, name))


def _begins(command: Sequence[str], name: Sequence[str]) -> bool:
    return tuple(command[: len(name)]) == tuple(name)
