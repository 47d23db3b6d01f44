"""Options of `moe-ray moe`, by what they say."""

from pathlib import Path
from typing import Annotated

import typer

DenseModel = Annotated[Path, typer.Argument(help="Folder of the dense checkpoint.", show_default=False)]
Out = Annotated[Path, typer.Option(help="A new folder for the mixture.", show_default=False)]
Mixture = Annotated[Path, typer.Argument(help="Folder of a mixture.", show_default=False)]
NumExperts = Annotated[int, typer.Option(help="Experts of each converted layer.")]
TopK = Annotated[int, typer.Option(help="Experts that answer a token.")]
Every = Annotated[int | None, typer.Option(help="Convert every Nth layer; default: all layers.")]
Layers = Annotated[str | None, typer.Option(help="Convert these layers, counted from 0: 3,7.")]
Experts = Annotated[
    str, typer.Option(help="What experts are: copies, noise (varied copies), groups (cut copies), models (fine-tunes).")
]
Noise = Annotated[float | None, typer.Option(help="Noise on copies, in standard deviations of each tensor.")]
Redraw = Annotated[float, typer.Option(help="Share of the hidden units of each copy that are drawn again.")]
Groups = Annotated[int, typer.Option(help="Cut each network into so many experts, which answer together.")]
FineTune = Annotated[list[Path] | None, typer.Option(help="A fine-tune whose networks become an expert; repeat it.")]
ReportDifferences = Annotated[
    bool, typer.Option(help="Take fine-tunes that differ elsewhere too; what they have otherwise is named and lost.")
]
Gate = Annotated[str, typer.Option(help="How gates are made: random, prompts or ridge (these two need --texts).")]
GateScale = Annotated[
    float | None, typer.Option(help="Spread of random gates, length of prompt gates, factor of ridge gates.")
]
Texts = Annotated[
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
