"""`moe-ray specialise`: what each expert of a mixture does. Like `cli.main`, it only reads options."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from moe_ray.cli.options import GROUP, Set

Traces = Annotated[list[Path], typer.Argument(metavar="TRACE...", help="Folders of traces.", show_default=False)]
MixtureModel = Annotated[str, typer.Argument(help="Folder or hub id of a mixture.", show_default=False)]
Label = Annotated[str | None, typer.Option(help="Field of the class; default: label, class, domain.")]
MaxTokensOption = Annotated[int, typer.Option(min=2, help="Maximum number of tokens of a text.")]
MaxTextsOption = Annotated[
    int | None, typer.Option(min=1, help="Maximum number of texts per class, drawn by a hash of the ids.")
]
DtypeOption = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"], typer.Option(help="Dtype that the model is loaded in.")
]
Top = Annotated[int, typer.Option(min=0, help="Number of experts to print sentences of.")]
Choose = Annotated[
    int | None,
    typer.Option(
        min=1, metavar="N", help="Choose the N strongest experts on half of the texts, test on the other half."
    ),
]
TextsToAblate = Annotated[
    Path,
    typer.Option(
        metavar="FILE|EXPERIMENT",
        help="Records with text and label, and choices to score log p of the right one; or as for trace.",
        show_default=False,
    ),
]
Joint = Annotated[
    int,
    typer.Option(min=0, metavar="N", help="Also remove pairs of the N strongest experts of a layer, and all N."),
]
ZeroShot = Annotated[
    str | None,
    typer.Option(metavar="QUESTION", help='Ask for the class after each text, such as " Topic:"; score log p of it.'),
]

specialise_app = typer.Typer(help="Trace and report what the experts of a mixture do.", **GROUP)


@specialise_app.command("train-toy")
def train_toy(
    file: Annotated[Path, typer.Argument(help="YAML file of texts, model and seeds.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder for the models; one that was begun continues.", show_default=False)],
    set_: Set = None,
) -> None:
    """Train a small mixture that classifies texts, one for each seed, to trace and ablate. Resumes."""
    from moe_ray.cli.toys import train_toys

    train_toys(file, out, set_ or [])


@specialise_app.command("trace")
def trace(
    model: MixtureModel,
    texts: Annotated[
        Path,
        typer.Option(
            metavar="FILE|EXPERIMENT",
            help="Records with text and label (JSON, JSONL, CSV, Parquet), .txt, or an experiment's YAML file.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the trace; an earlier trace is replaced.", show_default=False)],
    label: Label = None,
    chat: Annotated[
        bool, typer.Option("--chat", help="Read each text as a user's message; the template's tokens do not count.")
    ] = False,
    max_tokens: MaxTokensOption = 512,
    skip: Annotated[
        int, typer.Option(min=0, help="First tokens of each text that do not count: 1 where there is no begin token.")
    ] = 0,
    max_texts: MaxTextsOption = None,
    shard: Annotated[str | None, typer.Option(metavar="I/N", help="Trace one of N parts of the texts.")] = None,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Texts read at once; above 1, rounding may turn near ties of a router.")
    ] = 1,
    dtype: DtypeOption = "auto",
    tokens: Annotated[
        bool,
        typer.Option("--tokens", help="Store token ids and selected experts of each token (bytes: T x L x K x 2)."),
    ] = False,
    norms: Annotated[
        bool, typer.Option("--norms", help="Measure the lengths of the experts' answers, for their saliency.")
    ] = False,
    similarity: Annotated[
        bool, typer.Option("--similarity", help="Compare the weights and the answers of the experts of each layer.")
    ] = False,
) -> None:
    """Record which experts of a mixture each text selects, in each layer. Changes nothing that the model computes."""
    from moe_ray.cli.specialise import TraceOptions, trace_mixture

    options = TraceOptions(
        label=label,
        chat=chat,
        max_tokens=max_tokens,
        skip=skip,
        max_texts=max_texts,
        shard=shard,
        batch_size=batch_size,
        dtype=dtype,
        tokens=tokens,
        norms=norms,
        similarity=similarity,
    )
    trace_mixture(model, texts, out, options)


@specialise_app.command("trace-router")
def trace_router(
    run: Annotated[Path, typer.Argument(help="Run directory of an experiment with a router.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder for the trace; an earlier trace is replaced.", show_default=False)],
) -> None:
    """Write a run's routes as a trace: the router's experts are the domains, its texts are the examples."""
    from moe_ray.cli.specialise import trace_run_routes

    trace_run_routes(run, out)


@specialise_app.command("import-megatron")
def import_megatron(
    folder: Annotated[Path, typer.Argument(help="Folder of router_trace_rank*.jsonl.", show_default=False)],
    num_experts: Annotated[int, typer.Option(min=1, max=32767, help="Experts of each layer.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder for the trace; an earlier trace is replaced.", show_default=False)],
) -> None:
    """Convert traces that Megatron-LM wrote with --moe-routing-trace-path. Their units are steps, without classes."""
    from moe_ray.cli.traces import import_megatron_traces

    import_megatron_traces(folder, out, num_experts=num_experts)


@specialise_app.command("import-sglang")
def import_sglang(
    source: Annotated[
        Path, typer.Argument(help="Dump, or folder of expert_distribution_recorder_*.pt.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="Folder for the trace; an earlier trace is replaced.", show_default=False)],
    top_k: Annotated[
        int | None, typer.Option(min=1, help="Experts that a token selects; needed for dumps of counts.")
    ] = None,
) -> None:
    """Convert dumps of SGLang's expert distribution recorder. Their units are forward passes, without classes."""
    from moe_ray.cli.traces import import_sglang_dumps

    import_sglang_dumps(source, out, top_k=top_k)


@specialise_app.command("import-vllm")
def import_vllm(
    responses: Annotated[
        Path, typer.Argument(help="Responses of vLLM, one per record (JSONL), with routed_experts.", show_default=False)
    ],
    num_experts: Annotated[int, typer.Option(min=1, max=32767, help="Experts of each layer.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder for the trace; an earlier trace is replaced.", show_default=False)],
    label: Annotated[str | None, typer.Option(help="Field of the class; default: label, class, domain.")] = None,
) -> None:
    """Convert responses of vLLM with --enable-return-routed-experts. Each choice is a text, with a class if added."""
    from moe_ray.cli.traces import import_vllm_responses

    import_vllm_responses(responses, out, num_experts=num_experts, label=label)


@specialise_app.command("merge")
def merge(
    traces: Traces,
    out: Annotated[Path, typer.Option(help="Folder for the merged trace.", show_default=False)],
) -> None:
    """Merge traces of different texts (shards) of one model: the same bytes as one trace of all of them."""
    from moe_ray.cli.specialise import merge_shards

    merge_shards(traces, out)


@specialise_app.command("report")
def report(
    traces: Traces,
    weight: Annotated[
        Literal["token", "text"], typer.Option(help="Each token counts the same, or each text does.")
    ] = "token",
    top: Top = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print all measures as JSON.")] = False,
) -> None:
    """Measure specialisation in a trace: each value with its null, excess and interval. Needs no model and no torch."""
    from moe_ray.cli.specialise import report_traces

    report_traces(traces, weight=weight, top=top, as_json=as_json)


@specialise_app.command("saturation")
def saturation(
    traces: Traces,
    as_json: Annotated[bool, typer.Option("--json", help="Print all values as JSON.")] = False,
) -> None:
    """Compare the routing of checkpoints of one training run with that of its last one. Traces need --tokens."""
    from moe_ray.cli.traces import show_saturation

    show_saturation(traces, as_json=as_json)


@specialise_app.command("agreement")
def agreement(
    traces: Traces,
    as_json: Annotated[bool, typer.Option("--json", help="Print all values as JSON.")] = False,
) -> None:
    """Compare what gates and query routers decide for each text, with each other and with the classes."""
    from moe_ray.cli.traces import show_agreement

    show_agreement(traces, as_json=as_json)


@specialise_app.command("ablate")
def ablate(
    model: MixtureModel,
    texts: TextsToAblate,
    out: Annotated[
        Path, typer.Option(help="Folder for the ablation; one that was begun continues.", show_default=False)
    ],
    operation: Annotated[
        Literal["zero", "renormalise", "reroute", "swap", "mean"],
        typer.Option(help="What a token gets in place of the removed expert."),
    ] = "reroute",
    experts: Annotated[str, typer.Option(metavar="all|0,2", help="Experts to remove, one at a time.")] = "all",
    layers: Annotated[
        str,
        typer.Option(
            metavar="each|whole|0,7", help="Each layer apart, an expert of all layers at once, or some layers."
        ),
    ] = "each",
    draws: Annotated[int, typer.Option(help="Control draws per expert, at least 20.")] = 20,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the control draws.")] = 0,
    label: Label = None,
    chat: Annotated[bool, typer.Option("--chat", help="Read each text as a user's message.")] = False,
    max_tokens: MaxTokensOption = 512,
    max_texts: MaxTextsOption = None,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Variants of a text read at once; lower it if memory runs out.")
    ] = 8,
    dtype: DtypeOption = "auto",
    top: Top = 20,
    joint: Joint = 0,
    choose: Choose = None,
    zero_shot: ZeroShot = None,
) -> None:
    """Measure what removing each expert costs each class, against matched removals from other experts. Resumes."""
    from moe_ray.cli.ablations import AblateOptions, ablate_mixture

    options = AblateOptions(
        operation=operation,
        experts=experts,
        layers=layers,
        draws=draws,
        seed=seed,
        label=label,
        chat=chat,
        max_tokens=max_tokens,
        max_texts=max_texts,
        batch_size=batch_size,
        dtype=dtype,
        top=top,
        joint=joint,
        choose=choose,
        zero_shot=zero_shot,
    )
    ablate_mixture(model, texts, out, options)


@specialise_app.command("effects")
def effects(
    ablation: Annotated[Path, typer.Argument(help="Folder of a finished ablation.", show_default=False)],
    margin: Annotated[
        float | None, typer.Option(min=0, help="Test that effects are smaller than this (equivalence).")
    ] = None,
    top: Top = 20,
    choose: Choose = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print all effects as JSON.")] = False,
) -> None:
    """Print the effects of an ablation again. Needs no model and no torch."""
    from moe_ray.cli.ablations import show_effects

    show_effects(ablation, top=top, as_json=as_json, margin=margin, choose=choose)


@specialise_app.command("prune")
def prune(
    model: MixtureModel,
    experts: Annotated[
        str, typer.Option(metavar="0,2", help="Experts to leave out of every layer.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="New folder for the checkpoint.", show_default=False)],
    dtype: DtypeOption = "auto",
) -> None:
    """Write a mixture without some experts as a checkpoint; it computes what the operation prune does."""
    from moe_ray.cli.ablations import prune_mixture

    prune_mixture(model, experts, out, dtype)
