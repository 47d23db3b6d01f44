"""How fast the own mixture classes are beside a native one of as many parameters: forward, and greedy generation.

    python -m benchmarks.moe_forward [--hidden 768] [--layers 6] [--experts 8] [--top-k 2] [--rounds 7] [--device cuda]

Random weights. The native class is Mixtral, whose experts have three matrices where the own have two: its inner size
is two thirds of theirs, so that both have as many parameters, in all and in use. Classes alternate within each round;
a ratio is the median over rounds of the own class's time by the native's, for each experts implementation.

Exits with 1 when a ratio is above the target (1.1), or when parameters differ by more than a hundredth. Threads are
OMP_NUM_THREADS, or all cores.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import transformers

from benchmarks.machine import machine_line
from moe_ray import architectures

TARGET_RATIO = 1.1
MAX_PARAMETERS_APART = 0.01
NATIVE = "mixtral"
OWN = ("gpt2_moe", "gpt_neo_moe", "opt_moe")
HEAD_SIZE = 64
VOCABULARY_SIZE = 4096
FIRST_TOKEN, END = 3, 1


def make_model(model_type: str, arguments: argparse.Namespace) -> Any:
    """A random model in evaluation mode, on the device and in the dtype that were asked for."""
    width, length = arguments.hidden, arguments.tokens + arguments.new_tokens
    config = transformers.AutoConfig.for_model(
        model_type,
        vocab_size=VOCABULARY_SIZE,
        bos_token_id=END,
        eos_token_id=END,
        num_experts_per_tok=arguments.top_k,
        **_sizes(model_type, width, 3 * width, arguments.layers, length),
        **{"num_local_experts" if model_type == NATIVE else "num_experts": arguments.experts},
    )
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=getattr(torch, arguments.dtype))
    return model.to(arguments.device).eval()


def _sizes(model_type: str, width: int, inner: int, layers: int, length: int) -> Mapping[str, Any]:
    heads = width // HEAD_SIZE
    named = {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "max_position_embeddings": length,
    }
    match model_type:
        case "gpt2_moe":
            return {"n_embd": width, "n_layer": layers, "n_head": heads, "n_positions": length, "n_inner": inner}
        case "gpt_neo_moe":
            own = {"num_layers": layers, "num_heads": heads, "attention_types": [[["global"], layers]]}
            common = {"hidden_size": width, "max_position_embeddings": length, "intermediate_size": inner}
            return own | common
        case "opt_moe":
            return named | {"ffn_dim": inner}
        case _:
            gated = {"num_key_value_heads": heads, "tie_word_embeddings": True, "sliding_window": None}
            return named | gated | {"intermediate_size": inner * 2 // 3}


def jobs(model: Any, arguments: argparse.Namespace) -> Mapping[str, Callable[[], object]]:
    """What is timed of a model: all logits of a batch, and tokens generated after the same batch."""
    generator = torch.Generator().manual_seed(0)
    shape = (arguments.batch, arguments.tokens)
    ids = torch.randint(FIRST_TOKEN, VOCABULARY_SIZE, shape, generator=generator).to(arguments.device)
    told = {"attention_mask": torch.ones_like(ids), "max_new_tokens": arguments.new_tokens, "do_sample": False}
    told |= {"min_new_tokens": arguments.new_tokens, "pad_token_id": END}
    return {"forward": lambda: model(ids, use_cache=False), "generate": lambda: model.generate(ids, **told)}


def elapsed_s(job: Callable[[], object], device: str) -> float:
    """Seconds of one call, the device's work included."""
    started = time.perf_counter()
    with torch.inference_mode():
        job()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - started


def measured(models: Mapping[str, Any], arguments: argparse.Namespace) -> Iterator[tuple[str, str, str, float, float]]:
    """Yield experts implementation, job, own class, its median time in ms, and its ratio to the native class."""
    for implementation in arguments.implementations:
        for model in models.values():
            model.set_experts_implementation(implementation)
        named = {name: jobs(model, arguments) for name, model in models.items()}
        for job in ("forward", "generate"):
            rounds = [
                {name: elapsed_s(mine[job], arguments.device) for name, mine in named.items()}
                for _ in range(arguments.rounds + 1)
            ][1:]  # the first one warms up
            for name in OWN:
                ratio = statistics.median(one[name] / one[NATIVE] for one in rounds)
                yield implementation, job, name, 1e3 * statistics.median(one[name] for one in rounds), ratio


def parsed(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, default=768, help=f"a multiple of {HEAD_SIZE}")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--experts", type=int, default=8)
    parser.add_argument("--top-k", type=int, default=2)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--new-tokens", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--implementations", nargs="+", default=["grouped_mm", "eager"], choices=("grouped_mm", "eager", "batched_mm")
    )
    return parser.parse_args(given)


def main(given: list[str] | None = None) -> int:
    arguments = parsed(given)
    transformers.utils.logging.set_verbosity_error()
    architectures.register()
    models = {name: make_model(name, arguments) for name in (NATIVE, *OWN)}
    on_gpu = arguments.device.startswith("cuda")
    where = torch.cuda.get_device_name() if on_gpu else f"{torch.get_num_threads()} threads"
    print(f"{machine_line('torch', 'transformers')}; {where}, {arguments.dtype}")
    counts = {name: sum(value.numel() for value in model.parameters()) for name, model in models.items()}
    print("parameters: " + ", ".join(f"{name} {count / 1e6:.1f}M" for name, count in counts.items()))
    print(f"batches of {arguments.batch} x {arguments.tokens} tokens, {arguments.new_tokens} generated")
    failed = [name for name in OWN if abs(counts[name] / counts[NATIVE] - 1) > MAX_PARAMETERS_APART]
    print(f"{'experts':10}  {'job':8}  {'class':11}  {'ms':>9}  ratio to {NATIVE}")
    for implementation, job, name, own_ms, ratio in measured(models, arguments):
        print(f"{implementation:10}  {job:8}  {name:11}  {own_ms:9.1f}  {ratio:.3f}", flush=True)
        failed += [name] if ratio > TARGET_RATIO else []
    print(f"target: ratio at most {TARGET_RATIO}: {'missed' if failed else 'met'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
