"""What ablations cost: 24 of them over one loaded checkpoint, against 24 full passes.

    python -m benchmarks.ablations [--pairs 7] [--layers 6] [--experts 4] [--hidden 256] [--tokens 128]

The model is a random Mixtral in float32. A text is read once intact, then once without each expert of each layer that
one of its tokens selects, from that layer on; full passes read it whole each time. It exits with 1 if the median ratio
of CPU time is above 0.7. There are no control draws: each costs what a removal costs.
"""

import argparse
import inspect
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import transformers

from benchmarks.machine import machine_line
from moe_ray.engines.transformers.intervened import sites_of
from moe_ray.engines.transformers.likelihood import ScoringRow, score_batch
from moe_ray.engines.transformers.loading import LoadedModel
from moe_ray.specialisation.ablation.measuring import AblationMeter, AblationOptions, RemovedUnit
from moe_ray.specialisation.ablation.scoring import ScoredText
from moe_ray.specialisation.texts import SourceText

MAX_RATIO = 0.7
VOCABULARY_SIZE, TOP_K = 1000, 2


def ratios_of(arguments: argparse.Namespace, operation: Any) -> list[float]:
    """Print the CPU seconds of full passes and of ablations of texts, in turn; return their ratios."""
    loaded = _loaded(arguments)
    sites = sites_of(loaded, name="mixtral")
    units = [RemovedUnit(expert=expert, at=at) for at in range(arguments.layers) for expert in range(arguments.experts)]
    meter = AblationMeter(loaded, sites, units, AblationOptions(operation=operation, num_draws=0), name="mixtral")
    texts = [_text(arguments.tokens, seed) for seed in range(arguments.pairs)]
    meter.measure(texts[0])
    full, ablated, num_touched = [], [], 0
    for text in texts:
        full.append(_seconds(partial(_read_often, loaded, text, len(units))))
        ablated.append(_seconds(partial(meter.measure, text)))
        num_touched += int((meter.measure(text).num_removed > 0).sum())
    print(
        f"{operation}: {len(units)} full passes {statistics.median(full) * 1e3:.0f} ms, {len(units)} ablations "
        f"{statistics.median(ablated) * 1e3:.0f} ms; {num_touched / len(texts):.1f} of them change the text"
    )
    return [after / before for before, after in zip(full, ablated, strict=True)]


def _read_often(loaded: LoadedModel, text: ScoredText, num_times: int) -> None:
    for _ in range(num_times):
        score_batch(loaded, text.rows)


def _loaded(arguments: argparse.Namespace) -> LoadedModel:
    torch.manual_seed(1)
    config = transformers.MixtralConfig(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=arguments.hidden,
        intermediate_size=2 * arguments.hidden,
        num_hidden_layers=arguments.layers,
        num_attention_heads=8,
        num_key_value_heads=4,
        num_local_experts=arguments.experts,
        num_experts_per_tok=TOP_K,
    )
    model: Any = transformers.MixtralForCausalLM(config).eval()
    nothing: Any = None
    return LoadedModel(
        model=model,
        tokenizer=nothing,
        speller=nothing,
        device=torch.device("cpu"),
        eos_token_ids=frozenset(),
        special_token_ids=frozenset(),
        mark_token_ids=frozenset(),
        pad_token_id=0,
        context_length=None,
        rope_switch_length=None,
        cache_bytes_per_token=0,
        vocabulary_size=VOCABULARY_SIZE,
        forward_arguments=frozenset(inspect.signature(model.forward).parameters),
        forward_choice={},
    )


def _text(num_tokens: int, seed: int) -> ScoredText:
    generator = torch.Generator().manual_seed(seed)
    ids = tuple(torch.randint(3, VOCABULARY_SIZE, (num_tokens + 1,), generator=generator).tolist())
    row = ScoringRow(index=0, id="text", token_ids=ids[:-1], num_logits=num_tokens, targets=((0, ids[1:]),))
    source = SourceText(text_id="text", label="", text="")
    return ScoredText(source=source, rows=(row,), counted=((True,) * num_tokens,), num_bytes=num_tokens)


def _seconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    for name, default in (("--pairs", 7), ("--layers", 6), ("--experts", 4), ("--hidden", 256), ("--tokens", 128)):
        parser.add_argument(name, type=int, default=default)
    arguments = parser.parse_args()
    print(machine_line("torch", "transformers"))
    good = True
    for operation in ("zero", "renormalise", "reroute", "swap"):
        ratios = ratios_of(arguments, operation)
        middle = statistics.median(ratios)
        print(f"  ratio {middle:.3f} ({min(ratios):.3f} to {max(ratios):.3f}), target at most {MAX_RATIO}")
        good &= middle <= MAX_RATIO
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
