"""`moe-ray plan` and `moe-ray prompts`: what a run would do and ask, as tables."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from moe_ray.characters import one_line, printable
from moe_ray.cli.terminal import output_console
from moe_ray.config.load import LoadedExperiment
from moe_ray.domains.loading import ASSUMED_CHARACTERS
from moe_ray.execution.gpus import fleet_of_this_machine
from moe_ray.formatting import plural
from moe_ray.planning.fleet import Fleet, simulated_fleet
from moe_ray.planning.memory import GIB
from moe_ray.planning.plan import Workload
from moe_ray.planning.simulate import Simulation
from moe_ray.report.text_table import TextTable
from moe_ray.runs.plan import PlannedRouter, RunPlan, plan
from moe_ray.runs.preview import Continuation, ShownPrompt, prompts_of
from moe_ray.store.run_directory import RunDirectory

MAX_STAYS_SHOWN = 40


def show_plan(
    experiment: LoadedExperiment,
    simulate: str | None,
    only: str | None,
    reuse: Sequence[Path] = (),
    *,
    sizes: Sequence[str] = (),
    speeds: Sequence[str] = (),
) -> None:
    """Print the plan of `experiment` for this machine, or for the hardware that `simulate` describes."""
    runtime = experiment.config.runtime
    fleet = simulated_fleet(simulate) if simulate else fleet_of_this_machine(runtime)
    planned = plan(
        experiment,
        fleet,
        only=only,
        is_here=simulate is None,
        sizes=sizes,
        speeds=speeds,
        reuse=[RunDirectory(path) for path in reuse],
    )
    console = output_console()
    console.print(_work_table(planned))
    for line in _remarks(experiment, planned):
        console.print(line, soft_wrap=True)
    if planned.router is not None:
        console.print(_router_line(planned.router, experiment.config.matrix), soft_wrap=True)
    if not planned.work.shards:
        console.print("Nothing is left to compute; moe-ray evaluate would grade and report.")
        return
    console.print(_memory_table(planned))
    console.print(_stays_table(planned.simulation, fleet))
    where = f"simulated {simulate}" if simulate else "this machine"
    console.print(
        f"{planned.work.num_to_do} answers in {len(planned.work.shards)} shards on {where}: "
        f"{planned.simulation.num_waves} wave(s), {planned.simulation.num_swaps} swap(s).",
        soft_wrap=True,
    )
    console.print(_time_line(planned), soft_wrap=True)


def _assumptions(experiment: LoadedExperiment, planned: RunPlan) -> Iterator[str]:
    """What this plan had to assume, because the hub cannot be reached."""
    for name, number in planned.assumed.items():
        source = experiment.config.domains[name].data.source
        yield (
            f"assumed: {name} has {number:,} examples of {ASSUMED_CHARACTERS:,} characters; "
            f"{source} is not in the cache, and the hub cannot be reached"
        )
    if experiment.config.router is not None and planned.router is None:
        yield "unknown: the router's texts cannot be reached; it is trained before the models answer"
    for model in planned.placement.estimates:
        checkpoint = planned.checkpoints[model]
        guessed, colon, reason = checkpoint.size_source.partition(":")
        if colon and checkpoint.num_parameters is not None:
            yield f"assumed: the size of {model} is {checkpoint.num_parameters:,}, from {guessed}:{reason}"
        elif checkpoint.num_parameters is None and planned.placement.demands[model].gpus:
            yield f"unknown: the size of {model}, which gets a whole GPU; set it with --size {model}=7B"


def _time_line(planned: RunPlan) -> str:
    """How long the run takes if every answer takes all tokens that it may."""
    unknown = [model for model in planned.placement.demands if model not in planned.speeds]
    if unknown:
        return (
            f"Time: unknown, because the speed of {', '.join(unknown)} is unknown. Give the new tokens per second of "
            "one copy with --speed 1500 or --speed NAME=1500. A resumed run uses its measured speed."
        )
    speeds = {model: planned.speeds[model] for model in planned.placement.demands}
    listed = ", ".join(f"{model} {speed.tokens_per_s:,.0f} ({speed.source})" for model, speed in speeds.items())
    assert planned.simulation.duration_s is not None
    loading = "" if any(speed.load_s for speed in speeds.values()) else ", without loading the models"
    return f"Time: at most {_duration(planned.simulation.duration_s)}{loading}; tokens a second of a copy: {listed}."


def _duration(duration_s: float) -> str:
    if duration_s < 120:
        return f"{duration_s:.0f} s"
    minutes = round(duration_s / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02} min"


def _router_line(router: PlannedRouter, matrix: str) -> str:
    wanted, texts = router.wanted, router.texts
    if texts is None:
        return f"Router: {wanted.config.kind}, trained already, in {wanted.directory}."
    more = "Each example that it sends to another domain's expert may need one more answer than is listed here."
    return (
        f"Router: {wanted.config.kind}, to be trained first, on up to {len(texts.train):,} texts "
        f"({', '.join(texts.labels)}; {len(texts.validation):,} for validation, {len(texts.test):,} for testing), "
        "less those that are nearly the same as others."
        f"{' ' + more if matrix == 'assigned' else ''}"
    )


def _work_table(planned: RunPlan) -> TextTable:
    table = TextTable(title="Answers to compute", title_justify="left")
    for heading in ("model", "domain", "kind"):
        table.add_column(heading)
    for heading in ("total", "done", "to do"):
        table.add_column(heading, justify="right")
    for (model, domain, kind), counts in planned.work.counts().items():
        table.add_row(model, domain, kind, str(counts.total), str(counts.done), str(counts.num_to_do))
    return table


def _remarks(experiment: LoadedExperiment, planned: RunPlan) -> Iterator[str]:
    """What the tables do not show: assumptions, changed data, answers that need no computing, notes."""
    yield from _assumptions(experiment, planned)
    yield from planned.changes
    yield from _shared_lines(planned.work)
    yield from (f"{number} answers would be taken from {path}." for path, number in planned.reused.items())
    yield from (f"note: {name}: {note}" for name, notes in planned.notes.items() for note in notes)


def _shared_lines(work: Workload) -> Iterator[str]:
    for (model, computing), number in work.shared().items():
        yield (
            f"{model} shares {number} cells with {computing} (the same checkpoint): each is computed once and counts "
            "for both."
        )


def _memory_table(planned: RunPlan) -> TextTable:
    table = TextTable(title="What a copy of each model takes (estimated)", title_justify="left")
    table.add_column("model")
    for heading in ("weights", "cache", "total"):
        table.add_column(heading, justify="right")
    table.add_column("slot")
    table.add_column("why")
    table.add_column("size from")
    for model, estimate in planned.placement.estimates.items():
        demand = planned.placement.demands[model]
        slot = f"{demand.gpus:g} GPU" if demand.gpus else "1 CPU slot"
        sizes = [_gib(estimate.weights_bytes), _gib(estimate.cache_bytes), _gib(estimate.total_bytes)]
        source = planned.checkpoints[model].size_source.partition(":")[0]
        table.add_row(model, *sizes, slot, demand.reason, source)
    return table


def _gib(num_bytes: int | None) -> str:
    if num_bytes is None:
        return "unknown"
    return f"{num_bytes / GIB:.1f} GiB" if num_bytes >= GIB / 10 else f"{num_bytes / (1 << 20):.1f} MiB"


def _stays_table(simulation: Simulation, fleet: Fleet) -> TextTable:
    table = TextTable(title="Where each model runs", title_justify="left")
    table.add_column("wave", justify="right")
    table.add_column("place")
    table.add_column("model")
    table.add_column("shards", justify="right")
    table.add_column("answers", justify="right")
    stays = sorted(simulation.stays, key=lambda stay: stay.wave)
    for stay in stays[:MAX_STAYS_SHOWN]:
        place = ", ".join(f"{name} of {fleet.nodes[node].name}" for node, name in stay.slot.places)
        share = f" ({stay.slot.share:.0%})" if 0 < stay.slot.share < 1 else ""
        table.add_row(str(stay.wave), place + share, stay.model, str(stay.num_shards), str(stay.num_cells))
    if len(stays) > MAX_STAYS_SHOWN:
        table.add_row("", f"and {len(stays) - MAX_STAYS_SHOWN} more", "", "", "")
    return table


MARGIN = "  | "


def show_prompts(
    experiment: LoadedExperiment, domain: str | None, model: str | None, number: int, *, as_json: bool
) -> None:
    """Print the prompts of `number` examples of each domain, or of one, for each model, or for one."""
    console = output_console(soft_wrap=True)
    for shown in prompts_of(experiment, domain=domain, model=model, number=number):
        for line in [json.dumps(asdict(shown))] if as_json else _lines(shown):
            console.print(line)


def _lines(shown: ShownPrompt) -> Iterator[str]:
    yield one_line(f"{shown.domain} / {shown.model} / {shown.example}: {_counts(shown)}")
    if shown.text is not None:
        yield _quoted(shown.text)
    else:
        yield f"  the messages as engine {one_line(shown.engine)} receives them; it applies its own chat template:"
        for message in shown.messages:
            yield _quoted(f"[{message.role}] {message.content}")
    if shown.error is not None:
        yield one_line(f"  error: {shown.error}")
    if shown.num_truncated:
        yield f"  cut: {plural(shown.num_truncated, 'token')} at the beginning, to fit the context"
    if shown.stop:
        yield f"  stop strings: {', '.join(map(_spelled, shown.stop))}"
    if shown.continuations:
        yield f"  likelihoods of: {', '.join(map(_continuation, shown.continuations))}"
    yield ""


def _counts(shown: ShownPrompt) -> str:
    if shown.num_tokens is None:
        return f"{shown.style}, number of tokens unknown, {shown.max_new_tokens:,} may follow"
    context = "of unknown length" if shown.context_length is None else f"of {shown.context_length:,}"
    tokens = plural(shown.num_tokens, "token")
    return f"{shown.style}, {tokens}, {shown.max_new_tokens:,} may follow, context {context}"


def _quoted(text: str) -> str:
    """`text` behind a margin, so that no line of it can be taken for one of ours."""
    return "\n".join(f"{MARGIN}{line}" for line in printable(text).split("\n"))


def _continuation(one: Continuation) -> str:
    if one.fits is False:
        return f"{_spelled(one.text)} (does not fit)"
    return _spelled(one.text) if one.num_tokens is None else f"{_spelled(one.text)} ({plural(one.num_tokens, 'token')})"


def _spelled(text: str) -> str:
    return one_line(json.dumps(text, ensure_ascii=False))
