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
    str, typer.Option(help="What experts are: copies, noise (varied copies), groups (cut copies), models (fine-tunes).")
]
Noise = Annotated[float | None, typer.Option(help="Noise on copies, in standard deviations of each tensor.")]
Redraw = Annotated[float, typer.Option(help="Share of the hidden units of each copy that are drawn again.")]
GroupsOption = Annotated[int, typer.Option(help="Cut each network into so many experts, which answer together.")]
FineTune = Annotated[list[Path] | None, typer.Option(help="A fine-tune whose networks become an expert; repeat it.")]
ReportDifferences = Annotated[
    bool, typer.Option(help="Take fine-tunes that differ elsewhere too; what they have otherwise is named and lost.")
]
GateOption = Annotated[str, typer.Option(help="How gates are made: random, prompts or ridge (these two need --texts).")]
GateScale = Annotated[
    float | None, typer.Option(help="Spread of random gates, length of prompt gates, factor of ridge gates.")
]
TextsOption = Annotated[
    Path | None, typer.Option(help="Texts for gates and tests: records with text and expert, or .txt; default: a few.")
]
MaxKl = Annotated[float | None, typer.Option(help="KL divergence from the dense model, nats a token, at most.")]
MaxPerplexityRatio = Annotated[float | None, typer.Option(help="Perplexity over the dense model's at most.")]
MinAgreement = Annotated[float | None, typer.Option(help="Share of next tokens that stay the likeliest at least.")]
MaxTokens = Annotated[int | None, typer.Option(help="Tokens of the texts that layers are tested on, at most.")]
Check = Annotated[
    bool, typer.Option(help="Test the layers, which loads the dense model and the mixture, and revert what fails.")
]
Seed = Annotated[int, typer.Option(help="Of noise and random gates.")]
Moved = Annotated[
    list[str] | None,
    typer.Option("--source", metavar="NAME=PATH", help="Where a source, or the file `texts`, is now; repeat it."),
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
    out: Annotated[
        Path, typer.Option(help="Folder for the gate; a gate that is there is replaced.", show_default=False)
    ],
) -> None:
    """Train the gate of a mixture of fine-tunes, on the prompts' input embeddings, and test it."""
    from moe_ray.cli.moe_train import train_gate_of_file

    train_gate_of_file(file, out)


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
    """Recompute a mixture's certificate from its sources: 0 when all holds, 1 when not, 2 when it cannot be told."""
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
        typer.Option(help="Mix the experts by the gate's probabilities, or ask the likeliest one alone."),
    ] = "weighted_sum",
    take_first: Annotated[
        bool, typer.Option("--take-first", help="Where sources differ otherwise, take the first's and report it.")
    ] = False,
    check: Annotated[bool, typer.Option(help="Load the mixture, and hold each expert against its source.")] = True,
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
    """Train a mixture's gates, and its experts if asked, with load balancing in each layer and the backbone frozen."""
    from moe_ray.cli.moe_train import finetune_mixture

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
