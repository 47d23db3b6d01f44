"""`moe-ray moe upcycle`: a dense checkpoint into a mixture, with what will be done before and the verdicts after."""

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from moe_ray.cli.terminal import Terminal, output_console
from moe_ray.errors import ConfigError
from moe_ray.moe.records import Certificate, ExactnessRecord
from moe_ray.moe.upcycle.build import upcycle_model
from moe_ray.moe.upcycle.plan import UpcyclePlan
from moe_ray.moe.upcycle.request import UpcycleRequest
from moe_ray.report.format import NONE, count, listed, plural, size
from moe_ray.report.text_table import TextTable

NUM_NAMED = 5
COLUMNS = (
    ("output", "exact_layer_difference"),
    ("logits", "exact_logit_difference"),
    ("KL", "kl"),
    ("perplexity", "perplexity_ratio"),
    ("same next", "agreement"),
)


def upcycle_checkpoint(model: Path, out: Path, values: dict[str, Any]) -> None:
    """Make the mixture that `values` (of an `UpcycleRequest`; None stands for its default) ask for, and say how."""
    console = output_console()
    request = request_of(values)

    def told(text: str) -> None:
        console.print(text, soft_wrap=True)

    certificate = upcycle_model(
        model, out, request, told=told, planned=lambda plan: _show_plan(console, plan, request, out)
    )
    if request.check:
        console.print(verdicts_table(certificate))
    for line in _outcome(certificate):
        console.print(line, soft_wrap=True)
    console.print(f"\nMixture: {out}", soft_wrap=True)


def request_of(values: dict[str, Any]) -> UpcycleRequest:
    """Return the request; raises `ConfigError` for a value that is out of its range."""
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
            f"{key} is {first['input']!r}: {first['msg']}", where=key, remedy="moe-ray moe upcycle --help tells what is"
        ) from error


def layer_numbers(text: str | None) -> list[int] | None:
    """Return the numbers in "3,7". Raises `ConfigError` for what is none."""
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
        told = f"the networks of {listed([Path(path).name for path in request.fine_tunes])}"
    elif request.experts == "noise":
        told = (
            f"copies with noise of {request.noise:g} and {request.reinitialised_share:.0%} of their units drawn again"
        )
    else:
        told = "copies"
    return told if request.groups == 1 else f"{told}, each cut into {request.groups}"


def _tests(request: UpcycleRequest) -> str:
    return f"tests on {request.texts or 'built-in texts'}" if request.check else "no tests"


def verdicts_table(certificate: Certificate) -> TextTable:
    """The layers that were to be converted, one a row, with what was measured of each."""
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
