"""Read the command that a job runs, `-- COMMAND ...`, with the parser of that command itself."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from moe_ray.cli.options import Changes, load
from moe_ray.clusters.job_commands import JOB_COMMANDS, RUN_WORD, CommandWord, JobCommand, WordRole
from moe_ray.clusters.submission import SUBMISSION_FILE
from moe_ray.errors import RunDirectoryError, UserError
from moe_ray.store.run_directory import RunDirectory
from moe_ray.suggestions import suggestion

WHERE = "-- COMMAND"
# Options of commands on an experiment that override its keys.
OVERRIDING = frozenset({"set_", "model", "results_dir", "max_new_tokens", "max_examples", "allow_weak_sandbox"})
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def job_command(app: Any, words: Sequence[str]) -> JobCommand:
    """Parse and check the words of a command; `app` is the whole command line.

    Raises `UserError` for a command that does not run as a job, and for a run directory that cannot be one; typer's
    exceptions for what the command itself would refuse.
    """
    name, command = _found(app, words)
    if name not in JOB_COMMANDS:
        listed = ", ".join(" ".join(one) for one in JOB_COMMANDS)
        raise UserError(f"`{' '.join(name)}` does not run as a job", where=WHERE, remedy=f"commands that do: {listed}")
    context = command.make_context(" ".join(name), list(words[len(name) :]))
    roles = JOB_COMMANDS[name]
    given = tuple(_words(command, context, roles))
    _require_unambiguous(given)
    if "experiment" in roles.values():
        return _on_experiment(name, given, context.params)
    return JobCommand(name=name, words=given, run=_run_directory(given))


def _found(app: Any, words: Sequence[str]) -> tuple[tuple[str, ...], Any]:
    """Return the full name of the command that the words begin with, and the command."""
    name: tuple[str, ...] = ()
    for word in words:
        commands = getattr(app, "commands", None)
        if commands is None:
            break
        if word not in commands:
            group = " ".join(("moe-ray", *name))
            raise UserError(
                f"{word!r} is not a command of {group}{suggestion(word, commands)}",
                where=WHERE,
                remedy=f"{group} --help lists them; options of the job go before --",
            )
        name, app = (*name, word), commands[word]
    return name, app


def _words(command: Any, context: Any, roles: Mapping[str, WordRole]) -> Iterator[CommandWord]:
    """Yield what was given: arguments first, whatever their order was."""
    given = [one for one in command.params if context.get_parameter_source(one.name).name == "COMMANDLINE"]
    for parameter in sorted(given, key=_is_option):
        value, role = context.params[parameter.name], roles.get(parameter.name)
        option = parameter.opts[0] if _is_option(parameter) else None
        if isinstance(value, bool):
            yield CommandWord(parameter.name, option if value else parameter.secondary_opts[0], None)
            continue
        for one in value if isinstance(value, list) else [value]:
            yield CommandWord(parameter.name, option, str(one), role)


def _is_option(parameter: Any) -> bool:
    return bool(parameter.opts[0].startswith("-"))


def _require_unambiguous(words: Sequence[CommandWord]) -> None:
    """Refuse arguments that the job's own command line would read as something else."""
    for word in words:
        value = word.value or ""
        if word.option is None and value.startswith(("-", RUN_WORD)):
            raise UserError(f"an argument begins with {value[0]}: {value}", where=WHERE, remedy=f"write ./{value}")


def _on_experiment(name: tuple[str, ...], words: tuple[CommandWord, ...], values: Mapping[str, Any]) -> JobCommand:
    weak = ["runtime.sandbox.allow_weak=true"] if values.get("allow_weak_sandbox") else []
    changes = Changes(
        [*(values["set_"] or []), *weak],
        values.get("model"),
        values["results_dir"],
        values.get("max_new_tokens"),
        values.get("max_examples"),
    )
    if values.get("out") is not None:
        raise UserError(
            "a job keeps the router in its run directory", where="--out", remedy="leave --out out and copy the router"
        )
    experiment = load(values["file"], changes)
    run = experiment.config.output.results_dir / experiment.config.name
    return JobCommand(name=name, words=words, run=run, experiment=experiment, overriding=OVERRIDING)


def _run_directory(words: Sequence[CommandWord]) -> Path:
    """Return the run directory: the one that is named, or the folder above --out."""
    (word,) = (one for one in words if one.role in ("out", "run"))
    path = Path(os.path.normpath(Path(word.value or "").expanduser()))
    run = path if word.role == "run" else path.parent
    if not (_NAME.fullmatch(run.name) and _NAME.fullmatch(path.name)):
        raise UserError(
            f"{word.value} does not name a run directory",
            where=word.option or WHERE,
            remedy="write --out results/NAME/PART: results/NAME becomes the job's run directory",
        )
    if word.role == "out" and not _is_free(run):
        raise RunDirectoryError(
            "is not a run directory, and the job would work in it",
            where=str(run),
            remedy=f"put a new folder between them: {word.option} {run}/NAME/{path.name}",
        )
    return run


def _is_free(run: Path) -> bool:
    """Say whether a job may work in a folder: it is a run directory, or holds nothing."""
    if (run / SUBMISSION_FILE).is_file() or RunDirectory(run).exists:
        return True
    return not run.exists() or (run.is_dir() and not any(run.iterdir()))
