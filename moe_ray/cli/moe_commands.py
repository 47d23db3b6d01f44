"""`moe-ray moe`: mixtures inside one checkpoint. Like `cli.main`, it only reads options."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from moe_ray.cli import moe_options as o
from moe_ray.cli.options import GROUP

moe_app = typer.Typer(help="Make mixtures inside one checkpoint.", **GROUP)


@moe_app.command("train-gate")
def train_gate(
    file: Annotated[
        Path, typer.Argument(help="YAML or JSON: base_model, data by expert, settings.", show_default=False)
    ],
    out: Annotated[
        Path, typer.Option(help="Folder for the gate; a gate that is there is replaced.", show_default=False)
    ],
) -> None:
    """Train the gate of a mixture of fine-tunes, on the prompts' input embeddings, and test it."""
    from moe_ray.cli.moe_gate import train_gate_of_file

    train_gate_of_file(file, out)


@moe_app.command()
def upcycle(
    model: o.DenseModel,
    out: o.Out,
    num_experts: o.NumExperts = 4,
    top_k: o.TopK = 2,
    every: o.Every = None,
    layers: o.Layers = None,
    experts: o.Experts = "copies",
    noise: o.Noise = None,
    redraw: o.Redraw = 0.0,
    groups: o.Groups = 1,
    fine_tune: o.FineTune = None,
    report_differences: o.ReportDifferences = False,
    gate: o.Gate = "random",
    gate_scale: o.GateScale = None,
    texts: o.Texts = None,
    max_kl: o.MaxKl = None,
    max_perplexity_ratio: o.MaxPerplexityRatio = None,
    min_agreement: o.MinAgreement = None,
    max_tokens: o.MaxTokens = None,
    check: o.Check = True,
    seed: o.Seed = 0,
) -> None:
    """Turn a dense checkpoint into a mixture, test each layer, and write its certificate."""
    from moe_ray.cli.moe_upcycle import layer_numbers, upcycle_checkpoint

    values = {
        "num_experts": num_experts,
        "top_k": top_k,
        "every": every,
        "layers": layer_numbers(layers),
        "experts": experts,
        "noise": noise,
        "reinitialised_share": redraw,
        "groups": groups,
        "fine_tunes": [str(path) for path in fine_tune or []],
        "on_difference": "report" if report_differences else "refuse",
        "gate": {"init": gate, "scale": gate_scale},
        "limits": {
            "max_kl": max_kl,
            "max_perplexity_ratio": max_perplexity_ratio,
            "min_agreement": min_agreement,
        },
        "texts": None if texts is None else str(texts),
        "max_tokens": max_tokens,
        "check": check,
        "seed": seed,
    }
    upcycle_checkpoint(model, out, values)


@moe_app.command()
def verify(mixture: o.Mixture, source: o.Moved = None) -> None:
    """Recompute a mixture's certificate from its sources: 0 when all holds, 1 when not, 2 when it cannot be told."""
    from moe_ray.cli.moe_verify import verify_mixture

    verify_mixture(mixture, source or [])


@moe_app.command()
def merge(
    models: Annotated[
        list[str],
        typer.Argument(metavar="MODEL...", help="NAME=FOLDER for each expert, or folders in the gate's order."),
    ],
    gate: Annotated[Path, typer.Option(help="The folder that train-gate wrote.", show_default=False)],
    out: Annotated[Path, typer.Option(help="A new folder for the mixture.", show_default=False)],
    mode: Annotated[
        Literal["weighted_sum", "select_one"],
        typer.Option(help="Mix the experts by the gate's probabilities, or ask the likeliest one alone."),
    ] = "weighted_sum",
    take_first: Annotated[
        bool, typer.Option("--take-first", help="Where sources differ otherwise, take the first's and report it.")
    ] = False,
    check: Annotated[bool, typer.Option(help="Load the mixture, and hold each expert against its source.")] = True,
) -> None:
    """Merge fine-tunes of one model behind a gate, which reads a prompt once."""
    from moe_ray.cli.moe_merge import merge_models

    merge_models(models, gate, out, mode=mode, take_first=take_first, check=check)


@moe_app.command()
def pretrain(
    file: o.PretrainFile,
    out: Annotated[
        Path, typer.Option(help="Folder for experts and mixture; the same command resumes.", show_default=False)
    ],
) -> None:
    """Train an expert for each domain on a frozen backbone, as Ray tasks, and mix them in one checkpoint."""
    from moe_ray.cli.moe_apart import pretrain_experts

    pretrain_experts(file, out)


@moe_app.command()
def finetune(
    file: o.PretrainFile,
    mixture: Annotated[Path, typer.Option(help="The folder `mixture` of pretrain.", show_default=False)],
    out: Annotated[
        Path, typer.Option(help="A new folder for the mixture; the same command resumes.", show_default=False)
    ],
) -> None:
    """Train a mixture's gates, and its experts if asked, with load balancing in each layer and the backbone frozen."""
    from moe_ray.cli.moe_apart import finetune_mixture

    finetune_mixture(file, mixture, out)


@moe_app.command()
def generate(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A mixture's folder.", show_default=False)],
    prompt: Annotated[str | None, typer.Option(help="What to answer.", show_default=False)] = None,
    config: Annotated[Path | None, typer.Option(help="JSON or YAML with these options, and prompt.")] = None,
    temperature: Annotated[float | None, typer.Option(help="Draw tokens; 0 is greedy.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Draw from the likeliest tokens of this share.")] = None,
    greedy: Annotated[bool, typer.Option("--greedy", help="Take the likeliest token: the default.")] = False,
    max_new_tokens: Annotated[int | None, typer.Option(help="Tokens of the answer at most; 128.")] = None,
    seed: Annotated[int | None, typer.Option(help="Decides what is drawn; 0.")] = None,
    expert: Annotated[str | None, typer.Option(help="Name or place of an expert that answers alone.")] = None,
    mode: Annotated[
        Literal["weighted_sum", "select_one"] | None, typer.Option(help="Default: what the mixture was merged with.")
    ] = None,
    chat: Annotated[
        bool | None,
        typer.Option("--chat/--no-chat", help="Ask in the chat template; default: as its gate was trained."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Answer a prompt with a mixture, and print each expert's probability."""
    from moe_ray.cli.moe_generate import generate_text

    options = {
        "prompt": prompt,
        "temperature": temperature,
        "top_p": top_p,
        "greedy": greedy or None,
        "max_new_tokens": max_new_tokens,
        "seed": seed,
        "expert": expert,
        "mode": mode,
        "chat": chat,
    }
    generate_text(directory, config, options, as_json=as_json)
