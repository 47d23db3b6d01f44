"""The `moe-ray` command. Commands only read options and call the pipeline; heavy packages load when they are needed."""

import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

import moe_ray
from moe_ray.cli import options as o
from moe_ray.cli.cluster_commands import add_cluster_commands
from moe_ray.cli.doctor_command import add_doctor
from moe_ray.cli.moe_commands import moe_app
from moe_ray.cli.slurm_commands import slurm_app
from moe_ray.cli.specialise_commands import specialise_app
from moe_ray.cli.terminal import output_console, reported, show_traceback

app = typer.Typer(
    name="moe-ray",
    help="Do several small domain experts behind a router beat one general model, on your data and your GPUs?",
    pretty_exceptions_enable=False,
    **o.GROUP,
)
data_app = typer.Typer(help="Prepare data sets.", **o.GROUP)
app.add_typer(data_app, name="data")
models_app = typer.Typer(help="Download models.", **o.GROUP)
app.add_typer(models_app, name="models")
router_app = typer.Typer(help="Train routers and prepare their texts.", **o.GROUP)
app.add_typer(router_app, name="router")
app.add_typer(moe_app, name="moe")
app.add_typer(slurm_app, name="slurm")
app.add_typer(specialise_app, name="specialise")


def _version(wanted: bool) -> None:
    if wanted:
        output_console().print(moe_ray.__version__)
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options before any command."""


@app.command()
def init(file: Annotated[Path, typer.Argument(help="The file to write.")] = Path("experiment.yaml")) -> None:
    """Write a commented starter experiment."""
    from moe_ray.cli.files import write_starter

    write_starter(file)


@app.command("list")
def list_names(
    kind: Annotated[
        Literal["tasks", "graders", "engines", "routers"],
        typer.Argument(help="tasks, graders, engines or routers.", show_default=False),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list.")] = False,
) -> None:
    """List the names that an experiment file may use, with their roles, settings and metrics."""
    from moe_ray.cli.files import show_names

    show_names(kind, as_json=as_json)


@app.command()
def schema() -> None:
    """Print the JSON Schema of experiment files; editors complete and check keys with it."""
    from moe_ray.cli.files import print_schema

    print_schema()


@app.command()
def plan(
    file: o.ExperimentFile,
    simulate: Annotated[
        str | None, typer.Option(help='Plan for other hardware: "8x80GiB", or "8x80GiB + 4x24GiB".')
    ] = None,
    set_: o.Set = None,
    model: o.Baseline = None,
    results_dir: o.ResultsDir = None,
    max_new_tokens: o.MaxNewTokens = None,
    max_examples: o.MaxExamples = None,
    only: o.Only = None,
    reuse: o.Reuse = None,
    speed: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]TOKENS", help="New tokens per second of one copy, to estimate the time; repeatable."
        ),
    ] = None,
    size: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=PARAMETERS", help="Size of a model if it is unknown: base=7B; repeatable."),
    ] = None,
) -> None:
    """Print what a run would compute and where, and every problem that evaluate would report. Starts nothing."""
    from moe_ray.cli.plan import show_plan

    changes = o.Changes(set_ or [], model, results_dir, max_new_tokens, max_examples)
    show_plan(o.load(file, changes), simulate, only, reuse or [], sizes=size or [], speeds=speed or [])


@app.command()
def prompts(
    file: o.ExperimentFile,
    domain: Annotated[str | None, typer.Option(help="One domain of the file.")] = None,
    model: Annotated[str | None, typer.Option(help="One model of the file.")] = None,
    number: Annotated[int, typer.Option("-n", "--number", min=1, help="Number of examples per domain.")] = 1,
    set_: o.Set = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per line, with the token ids.")
    ] = False,
) -> None:
    """Show the exact prompts that models get, with their token counts. Loads tokenizers, but no model."""
    from moe_ray.cli.plan import show_prompts

    show_prompts(o.load(file, o.Changes(set_ or [])), domain, model, number, as_json=as_json)


@app.command()
@o.takes_evaluate_options
def evaluate(
    file: o.ExperimentFile,
    evaluation: o.EvaluateOptions,
    results_dir: o.ResultsDir = None,
    shared: Annotated[
        bool, typer.Option("--shared", help="Share the run with other commands that have this option.")
    ] = False,
) -> None:
    """Run an experiment, or resume it, and write its report."""
    from moe_ray.cli.runs import advised, evaluate_experiment

    experiment = o.load(file, evaluation.changes(results_dir))
    with advised(experiment):
        only, reuse = evaluation.only, evaluation.reuse or []
        evaluate_experiment(experiment, only, reuse, brief=evaluation.brief, shared=shared)


@app.command()
def score(
    run: o.RunPath,
    experiment: Annotated[
        Path | None, typer.Option(help="Your experiment file: take graders and sandbox limits from it.")
    ] = None,
    trust: Annotated[bool, typer.Option("--trust", help="Run custom graders that the run directory names.")] = False,
    allow_weak_sandbox: o.AllowWeakSandbox = False,
) -> None:
    """Grade a run's answers again. Needs no model, and runs no code that the run directory brings."""
    from moe_ray.cli.runs import score_run

    own = o.load(experiment, o.Changes([])) if experiment is not None else None
    score_run(run, experiment=own, trust=trust, allow_weak_sandbox=allow_weak_sandbox)


@app.command()
def report(
    run: o.RunPath,
    form: Annotated[
        str, typer.Option("--format", metavar="FORMAT", help="Output format: tables, markdown, csv or json.")
    ] = "tables",
    brief: o.Brief = False,
) -> None:
    """Print a run's tables and its conclusion, and write its report.html and summary.json."""
    from moe_ray.cli.runs import report_run

    report_run(run, form, brief=brief)


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(help="A run directory.", show_default=False)],
    second: Annotated[Path | None, typer.Argument(help="A second run directory.", show_default=False)] = None,
    systems: Annotated[
        tuple[str, str] | None,
        typer.Option(metavar="A B", help="Compare two models or systems of one run.", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the comparison as JSON.")] = False,
) -> None:
    """Compare two runs, or two models or systems of one run, example by example."""
    from moe_ray.cli.runs import compare_results

    compare_results(first, second, systems, as_json=as_json)


@app.command()
def route(
    texts: Annotated[list[str], typer.Argument(metavar="TEXT...", help="Texts; - reads them from stdin, one a line.")],
    router: Annotated[
        Path, typer.Option(help="A router directory, or a run directory with a router.", show_default=False)
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
) -> None:
    """Say where a trained router sends texts: probabilities, prediction, time."""
    from moe_ray.cli.router import route_texts

    route_texts(texts, router, as_json=as_json)


@app.command()
def serve(
    target: Annotated[
        Path, typer.Argument(metavar="FILE|RUN", help="An experiment file, or a run directory.", show_default=False)
    ],
    host: Annotated[str | None, typer.Option(help="Interface to listen on; default: serving.host.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port; 0 takes one that is free.")] = None,
    set_: o.Set = None,
    trust: Annotated[bool, typer.Option("--trust", help="Run code that the run directory names.")] = False,
) -> None:
    """Serve an experiment's models and router behind an OpenAI-compatible endpoint, until Ctrl-C."""
    from moe_ray.cli.serve import serve_system

    named = [f"serving.host={host}"] if host is not None else []
    named += [f"serving.port={port}"] if port is not None else []
    serve_system(target, (*(set_ or []), *named), trust=trust)


@app.command()
def chat(
    target: Annotated[
        Path | None, typer.Argument(metavar="FILE|RUN", help="An experiment file, or a run directory.")
    ] = None,
    url: Annotated[str | None, typer.Option(help="Chat with a served system instead: http://HOST:PORT.")] = None,
    model: Annotated[str | None, typer.Option(metavar="NAME", help="Model that answers; default: auto.")] = None,
    api_key_file: Annotated[Path | None, typer.Option(metavar="FILE", help="File with the API key for --url.")] = None,
    set_: o.Set = None,
    trust: Annotated[bool, typer.Option("--trust", help="Run code that the run directory names.")] = False,
) -> None:
    """Chat with an experiment's models in this terminal, one model in memory at a time; piped text is one question."""
    from moe_ray.cli.chat import chat_in_terminal

    chat_in_terminal(target, url, model=model, key_file=api_key_file, overrides=tuple(set_ or []), trust=trust)


@app.command()
def demo(
    results_dir: Annotated[Path, typer.Option(help="Folder for the demo's data and results.")] = Path("results"),
    mixtures: Annotated[bool, typer.Option("--mixtures", help="Add a merged and an upcycled mixture.")] = False,
) -> None:
    """Train four tiny models on a synthetic micro-world and evaluate them, end to end, on this machine."""
    from moe_ray.cli.demo import run_demo

    run_demo(results_dir, mixtures=mixtures)


add_cluster_commands(app)
add_doctor(app)


@data_app.command("prepare")
def data_prepare(
    file: o.ExperimentFile,
    out: Annotated[Path, typer.Option(help="Folder for the prepared files.")] = Path("prepared"),
    max_examples: Annotated[int, typer.Option(min=1, help="Maximum number of examples per domain.")] = 1000,
    set_: o.Set = None,
) -> None:
    """Write each domain's examples as files that load without a network, to evaluate or to train experts on."""
    from moe_ray.cli.files import prepare_data

    prepare_data(o.load(file, o.Changes(set_ or [])), out, max_examples)


@models_app.command("download")
def models_download(
    file: o.ExperimentFile,
    to: Annotated[
        Path | None, typer.Option(help="Parent folder, with one folder per model; default: the hub cache.")
    ] = None,
    only: Annotated[str | None, typer.Option(help="One model of the file.")] = None,
    set_: o.Set = None,
) -> None:
    """Download an experiment's models from the hub, and print the commit of each; the same command resumes."""
    from moe_ray.cli.models import download_models

    download_models(o.load(file, o.Changes(set_ or [])), to, only)


@router_app.command("data")
def router_data(
    file: o.ExperimentFile,
    out: Annotated[
        Path, typer.Option(help="Folder for the texts; an earlier folder of this command is replaced.")
    ] = Path("prepared/router"),
    set_: o.Set = None,
) -> None:
    """Write the texts that the router is trained and tested on, without duplicates, and each domain's examples."""
    from moe_ray.cli.router import write_router_data

    write_router_data(o.load(file, o.Changes(set_ or [])), out)


@router_app.command("train")
def router_train(
    file: o.ExperimentFile,
    out: Annotated[
        Path | None, typer.Option(help="A new folder for a copy; the router is always stored in the run directory too.")
    ] = None,
    results_dir: o.ResultsDir = None,
    max_examples: o.MaxExamples = None,
    set_: o.Set = None,
) -> None:
    """Train an experiment's router, and test it; a run of the experiment uses it."""
    from moe_ray.cli.router import train_router

    train_router(o.load(file, o.Changes(set_ or [], None, results_dir, None, max_examples)), out)


def run() -> None:
    """Run the command line, and turn every outcome into an exit code.

    0: done. 1: the run ended without all that was asked. 2: a usage error, with its remedy.
    130: interrupted.
    """
    # Hub libraries print advice and bars of their own, which would tear the progress display.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        code = reported(app)
        if "moe_ray.execution.ray_calls" in sys.modules:  # a hanging call into Ray would block the exit handlers
            from moe_ray.execution.ray_calls import end_process

            end_process(code)
        sys.exit(code)
    finally:
        sys.excepthook = show_traceback  # typer sets its own whenever it is called
