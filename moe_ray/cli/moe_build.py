"""Commands that build and verify mixtures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer
from pydantic import ValidationError
from rich.progress import BarColumn, DownloadColumn, Progress

from moe_ray.architectures.gated_mixture import MixtureMode
from moe_ray.characters import one_line
from moe_ray.cli.terminal import EXIT_RUN_FAILED, EXIT_USAGE, LineColumn, Terminal, output_console
from moe_ray.errors import ConfigError, UserError
from moe_ray.files import require_free
from moe_ray.formatting import NONE, count, listed, plural, size
from moe_ray.moe.certificate import Certificate, ExactnessRecord
from moe_ray.moe.merge.build import build_merge
from moe_ray.moe.merge.gate import read_gate
from moe_ray.moe.merge.plan import MergePlan, plan_merge
from moe_ray.moe.upcycle.build import build_upcycle
from moe_ray.moe.upcycle.plan import UpcyclePlan
from moe_ray.moe.upcycle.request import UpcycleRequest
from moe_ray.moe.verify import verify
from moe_ray.report.text_table import TextTable
from moe_ray.runs.mixtures import write_errors

NUM_NAMED = 5
COLUMNS = (
    ("output", "exact_layer_difference"),
    ("logits", "exact_logit_difference"),
    ("KL", "kl"),
    ("perplexity", "perplexity_ratio"),
    ("same next", "agreement"),
)


def upcycle_checkpoint(model: Path, out: Path, values: dict[str, Any]) -> None:
    """Upcycle `model` with `values` of an `UpcycleRequest` (None: default), and print plan, verdicts and exactness."""
    console = output_console()
    request = request_of(values)

    certificate = build_upcycle(
        model,
        out,
        request,
        on_progress=lambda text: console.print(text, soft_wrap=True),
        on_plan=lambda plan: _show_plan(console, plan, request, out),
    )
    if request.check:
        console.print(verdicts_table(certificate))
    for line in _outcome(certificate):
        console.print(line, soft_wrap=True)
    console.print(f"\nMixture: {out}", soft_wrap=True)


def request_of(values: dict[str, Any]) -> UpcycleRequest:
    """Return the request. Raises `ConfigError` for a value out of range."""
    given = {
        key: {inner: value for inner, value in one.items() if value is not None} if isinstance(one, dict) else one
        for key, one in values.items()
        if one is not None
    }
    try:
        return UpcycleRequest.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ConfigError(
            f"{key} is {first['input']!r}: {first['msg']}",
            where=key,
            remedy="moe-ray moe upcycle --help lists the allowed values",
        ) from error


def layer_numbers(text: str | None) -> list[int] | None:
    """Return the numbers in "3,7". Raises `ConfigError` for anything else."""
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"{text!r} names no layers", where="--layers", remedy="write numbers: 3,7") from error


def _show_plan(console: Terminal, plan: UpcyclePlan, request: UpcycleRequest, out: Path) -> None:
    recipe = plan.recipe
    dense, shape = recipe.source, recipe.shape
    num_layers = f"{len(shape.layers)} of {plural(shape.num_layers, 'layer')}"
    lines = [
        f"{dense.directory}: {dense.config.model_type}, to {plan.config.model_type}",
        f"  {num_layers} ({_numbers(shape.layers)}), {shape.num_experts} experts each, {shape.top_k} answer a token",
        f"  experts: {_experts(request)}; gates: {request.gate.init}; {_tests(request)}",
        f"  {count(plan.num_parameters)} parameters, {size(plan.num_bytes)} at {out}",
        *(f"  take care: {caution}" for caution in plan.cautions),
        *(f"  lost: {one.source}'s {one.tensor}, which differs by {one.max_abs:.3g}" for one in plan.differences),
    ]
    for line in lines:
        console.print(line, soft_wrap=True)


def _numbers(layers: tuple[int, ...]) -> str:
    if len(layers) > NUM_NAMED:
        return f"{', '.join(map(str, layers[:NUM_NAMED]))}, ..., {layers[-1]}"
    return listed([str(layer) for layer in layers])


def _experts(request: UpcycleRequest) -> str:
    if request.experts == "models":
        source = f"the networks of {listed([Path(path).name for path in request.fine_tunes])}"
    elif request.experts == "noise":
        source = (
            f"copies with noise of {request.noise:g} and {request.reinitialised_share:.0%} of their units drawn again"
        )
    else:
        source = "copies"
    return source if request.groups == 1 else f"{source}, each cut into {request.groups}"


def _tests(request: UpcycleRequest) -> str:
    return f"tests on {request.texts or 'built-in texts'}" if request.check else "no tests"


def verdicts_table(certificate: Certificate) -> TextTable:
    """Return the layers selected for conversion, one a row, with their measurements."""
    table = TextTable(title="Layers, each alone against the dense model", title_justify="left")
    table.add_column("layer", justify="right")
    for heading, _ in COLUMNS:
        table.add_column(heading, justify="right")
    table.add_column("verdict")
    for verdict in certificate.layers:
        if verdict.state != "dense":
            cells = [f"{verdict.measured[name]:.3g}" if name in verdict.measured else NONE for _, name in COLUMNS]
            table.add_row(str(verdict.layer), *cells, verdict.state)
    return table


def _outcome(certificate: Certificate) -> list[str]:
    reverted = [f"layer {one.layer} was reverted: {one.reason}" for one in certificate.layers if one.reason]
    return [*reverted, *(_exact(record) for record in certificate.exactness)]


def _exact(record: ExactnessRecord) -> str:
    return (
        f"The mixture against {record.against} over {plural(record.num_tokens, 'token')}: largest logit difference "
        f"{record.max_logit_difference:.3g}, the same greedy token for {record.greedy_agreement:.2%}; loaded again, "
        f"its logits are {'bit-equal' if record.reload_equal else 'NOT bit-equal'}"
    )


def merge_models(
    models: Sequence[str], gate: Path, out: Path, *, mode: MixtureMode, take_first: bool, check: bool
) -> None:
    """Merge `models` (NAME=PATH, or paths in the order of the gate's experts), and print plan and exactness.

    Raises `ConfigError` for unknown experts, and what `plan_merge` and `build_merge` raise.
    """
    require_free(out)
    console = output_console(soft_wrap=True)
    named = _named(models, read_gate(gate).record.experts)
    plan = plan_merge(named, gate, mode=mode, take_first=take_first)
    _show_merge_plan(console, plan)
    columns = (LineColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True))
    with write_errors(out), Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("writing", total=plan.num_bytes)
        certificate = build_merge(plan, out, check=check, on_bytes=lambda done: progress.advance(task, done))
    if certificate.exactness:
        console.print(_table(certificate))
    console.print(f"\nMixture: {out}")


def _named(models: Sequence[str], experts: Sequence[str]) -> dict[str, Path]:
    """Return the models by expert name. Paths may contain "=", so only the name of an expert is taken as a prefix."""
    parts = [model.partition("=") for model in models]
    pairs = [(name, path) for name, equals, path in parts if equals and name in experts]
    if pairs and len(pairs) == len(models):
        _require_once([name for name, _ in pairs])
        return {name: Path(path).expanduser() for name, path in pairs}
    if pairs:
        unnamed = next("".join(part) for part in parts if not part[1] or part[0] not in experts)
        raise ConfigError(
            f"{unnamed} is not the name of an expert",
            where="MODEL",
            remedy=f"write NAME={unnamed}, of {', '.join(experts)}",
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


def _show_merge_plan(console: Terminal, plan: MergePlan) -> None:
    for source in plan.sources:
        console.print(one_line(f"{source.name}: {source.directory}"))
    for line in plan.differences:
        console.print(one_line(f"taken from {plan.sources[0].name}, though {line}"))
    what = f"{len(plan.sources)} experts in {plural(len(plan.naming.verdicts()), 'layer')}, {plan.config.mixture_mode}"
    console.print(f"{what}; {size(plan.num_bytes)} to write")


def _table(certificate: Certificate) -> TextTable:
    """Return the comparison of each expert with its source, one a row."""
    table = TextTable(title="Each expert alone, against its source in float32", title_justify="left")
    table.add_column("expert")
    for heading in ("tokens", "largest logit difference", "same greedy token", "reload"):
        table.add_column(heading, justify="right")
    for one in certificate.exactness:
        reload = "bit-equal" if one.reload_equal else "differs"
        difference = f"{one.max_logit_difference:.3g}"
        table.add_row(one.against, f"{one.num_tokens:,}", difference, f"{one.greedy_agreement:.2%}", reload)
    return table


SIGNS = {True: "holds", False: "DIFFERS", None: "not checked"}
WIDTH = max(map(len, SIGNS.values()))


def verify_mixture(directory: Path, sources: Sequence[str]) -> None:
    """Verify the mixture in `directory` and print the findings.

    Exits with 1 if a check fails, and with 2 if none fails but some could not be made.
    """
    console = output_console(soft_wrap=True)
    outcomes = set()
    for finding in verify(directory, _moved(sources)):
        console.print(one_line(f"{SIGNS[finding.holds]:{WIDTH}}  {finding.what}: {finding.detail}"))
        outcomes.add(finding.holds)
    if False in outcomes:
        raise typer.Exit(EXIT_RUN_FAILED)
    if None in outcomes:
        raise typer.Exit(EXIT_USAGE)


def _moved(sources: Sequence[str]) -> dict[str, Path]:
    pairs = [source.partition("=") for source in sources]
    wrong = next((source for source, (name, _, path) in zip(sources, pairs, strict=True) if not (name and path)), None)
    if wrong is not None:
        raise UserError(f"{wrong!r} names no source and its path", where="--source", remedy="write --source NAME=PATH")
    return {name: Path(path).expanduser() for name, _, path in pairs}
