"""`moe-ray moe`: mixtures inside one checkpoint. Like `cli.main`, it only reads options."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from moe_ray.cli.options import GROUP

DenseModel = Annotated[Path, typer.Argument(help="Folder of the dense checkpoint.", show_default=False)]
Out = Annotated[Path, typer.Option(help="A new folder for the mixture.", show_default=False)]
MixtureArgument = Annotated[Path, typer.Argument(help="Folder of a mixture.", show_default=False)]
NumExperts = Annotated[int, typer.Option(help="Experts of each converted layer.")]
TopK = Annotated[int, typer.Option(help="Experts that answer a token.")]
Every = Annotated[int | None, typer.Option(help="Convert every Nth layer; default: all layers.")]
Layers = Annotated[str | None, typer.Option(help="Convert these layers, counted from 0: 3,7.")]
ExpertsOption = Annotated[
    str,
    typer.Option(
        help="Source of the experts: copies, noise (varied copies), groups (cut copies), models (fine-tunes)."
    ),
]
Noise = Annotated[float | None, typer.Option(help="Noise on copies, in standard deviations of each tensor.")]
Redraw = Annotated[float, typer.Option(help="Share of the hidden units of each copy that are reinitialised.")]
GroupsOption = Annotated[int, typer.Option(help="Cut each network into this number of experts, which answer together.")]
FineTune = Annotated[list[Path] | None, typer.Option(help="A fine-tune whose networks become an expert; repeatable.")]
ReportDifferences = Annotated[
    bool, typer.Option(help="Accept fine-tunes that differ elsewhere; the differences are listed and dropped.")
]
GateOption = Annotated[str, typer.Option(help="How gates are made: random, prompts or ridge (these two need --texts).")]
GateScale = Annotated[
    float | None, typer.Option(help="Spread of random gates, length of prompt gates, factor of ridge gates.")
]
TextsOption = Annotated[
    Path | None, typer.Option(help="Texts for gates and tests: records with text and expert, or .txt; default: a few.")
]
MaxKl = Annotated[float | None, typer.Option(help="Maximum KL divergence from the dense model, in nats per token.")]
MaxPerplexityRatio = Annotated[float | None, typer.Option(help="Maximum perplexity, relative to the dense model's.")]
MinAgreement = Annotated[
    float | None, typer.Option(help="Minimum share of tokens with the same most likely next token.")
]
MaxTokens = Annotated[int | None, typer.Option(help="Maximum number of tokens of the texts for the layer tests.")]
Check = Annotated[
    bool, typer.Option(help="Test the layers, which loads the dense model and the mixture, and revert what fails.")
]
Seed = Annotated[int, typer.Option(help="Seed of noise and random gates.")]
Moved = Annotated[
    list[str] | None,
    typer.Option("--source", metavar="NAME=PATH", help="Current path of a source, or of the file `texts`; repeatable."),
]
PretrainFile = Annotated[
    Path, typer.Argument(help="YAML or JSON: base_model or architecture, experts, settings.", show_default=False)
]


moe_app = typer.Typer(help="Make mixtures inside one checkpoint.", **GROUP)


@moe_app.command("train-gate")
def train_gate(
    file: Annotated[
        Path, typer.Argument(help="YAML or JSON: base_model, data by expert, settings.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="Folder for the gate; an existing gate is replaced.", show_default=False)],
) -> None:
    """Train the gate of a mixture of fine-tunes, on the prompts' input embeddings, and test it."""
    from moe_ray.cli.moe_train import train_mixture_gate

    train_mixture_gate(file, out)


@moe_app.command()
def upcycle(
    model: DenseModel,
    out: Out,
    num_experts: NumExperts = 4,
    top_k: TopK = 2,
    every: Every = None,
    layers: Layers = None,
    experts: ExpertsOption = "copies",
    noise: Noise = None,
    redraw: Redraw = 0.0,
    groups: GroupsOption = 1,
    fine_tune: FineTune = None,
    report_differences: ReportDifferences = False,
    gate: GateOption = "random",
    gate_scale: GateScale = None,
    texts: TextsOption = None,
    max_kl: MaxKl = None,
    max_perplexity_ratio: MaxPerplexityRatio = None,
    min_agreement: MinAgreement = None,
    max_tokens: MaxTokens = None,
    check: Check = True,
    seed: Seed = 0,
) -> None:
    """Turn a dense checkpoint into a mixture, test each layer, and write its certificate."""
    from moe_ray.cli.moe_build import layer_numbers, upcycle_checkpoint

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
def verify(mixture: MixtureArgument, source: Moved = None) -> None:
    """Recompute a mixture's certificate from its sources. Exit code 0: equal; 1: different; 2: not all checked."""
    from moe_ray.cli.moe_build import verify_mixture

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
        typer.Option(help="Mix the experts by the gate's probabilities, or use only the most probable one."),
    ] = "weighted_sum",
    take_first: Annotated[
        bool,
        typer.Option("--take-first", help="Where sources differ elsewhere, take the first one's tensor and report it."),
    ] = False,
    check: Annotated[bool, typer.Option(help="Load the mixture, and compare each expert with its source.")] = True,
) -> None:
    """Merge fine-tunes of one model behind a gate, which reads a prompt once."""
    from moe_ray.cli.moe_build import merge_models

    merge_models(models, gate, out, mode=mode, take_first=take_first, check=check)


@moe_app.command()
def pretrain(
    file: PretrainFile,
    out: Annotated[
        Path, typer.Option(help="Folder for experts and mixture; the same command resumes.", show_default=False)
    ],
) -> None:
    """Train an expert for each domain on a frozen backbone, as Ray tasks, and mix them in one checkpoint."""
    from moe_ray.cli.moe_train import pretrain_experts

    pretrain_experts(file, out)


@moe_app.command()
def finetune(
    file: PretrainFile,
    mixture: Annotated[Path, typer.Option(help="The folder `mixture` of pretrain.", show_default=False)],
    out: Annotated[
        Path, typer.Option(help="A new folder for the mixture; the same command resumes.", show_default=False)
    ],
) -> None:
    """Train a mixture's gates (optionally its experts), with load balancing per layer and a frozen backbone."""
    from moe_ray.cli.moe_train import finetune_mixture

    finetune_mixture(file, mixture, out)


@moe_app.command()
def generate(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A mixture's folder.", show_default=False)],
    prompt: Annotated[str | None, typer.Option(help="The prompt.", show_default=False)] = None,
    config: Annotated[Path | None, typer.Option(help="JSON or YAML with these options, and prompt.")] = None,
    temperature: Annotated[float | None, typer.Option(help="Sampling temperature; 0 is greedy.")] = None,
    top_p: Annotated[
        float | None,
        typer.Option(help="Nucleus sampling: sample from the most likely tokens of this total probability."),
    ] = None,
    greedy: Annotated[bool, typer.Option("--greedy", help="Take the most likely token (the default).")] = False,
    max_new_tokens: Annotated[
        int | None, typer.Option(help="Maximum number of tokens of the answer; default: 128.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the sampling; default: 0.")] = None,
    expert: Annotated[str | None, typer.Option(help="Name or index of a single expert that answers.")] = None,
    mode: Annotated[
        Literal["weighted_sum", "select_one"] | None,
        typer.Option(help="Default: the mode that the mixture was merged with."),
    ] = None,
    chat: Annotated[
        bool | None,
        typer.Option("--chat/--no-chat", help="Use the chat template; default: as the gate was trained."),
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
