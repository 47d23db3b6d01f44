"""Three ways to batch greedy rows over one loaded model: `generate`, the engine's own loop, continuous batching.

    python -m benchmarks.batching [--device cuda] [--model PATH] [--lengths uneven] [--rounds 3]

All three read the same prompts, in shards, and must draw the same tokens. Each row ends at a length of its own: with
uneven lengths like MBPP's reference programs, with even ones all at the longest. `generate` and the own loop take the
same batches; the own loop lets a row go when it ends, continuous batching also lets another in. Rounds take the ways in
turn. The floor is the time to read the weights once for each step of the fewest steps that could do, at the bandwidth
given, or that copying memory here reaches. Exits with 1 when less than 99 % of the rows are equal token for token.
"""

import argparse
import math
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import transformers

from benchmarks.machine import machine_line
from moe_ray.config.schema import ModelConfig
from moe_ray.engines.base import BatchLimits, GenerateRequest
from moe_ray.engines.settings import TransformersSettings, parse_settings
from moe_ray.engines.transformers.continuous import choose_continuous
from moe_ray.engines.transformers.forward import left_padded
from moe_ray.engines.transformers.generation import decode_batch
from moe_ray.engines.transformers.loading import LoadedModel, load, loaded_bytes
from moe_ray.engines.transformers.rows import DecodeRow
from moe_ray.planning.memory import GIB
from moe_ray.prompts.messages import Message, Prompt
from tests.support.tiny_models import make_tokenizer

TARGET_EQUAL = 0.99
# Characters of MBPP's 474 training and prompt references: the smallest, each twentieth of them, the largest.
REFERENCE_CHARACTERS = (
    30, 69, 79, 86, 93, 99, 107, 114, 123, 131, 145, 154, 163, 176, 194, 210, 246, 303, 351, 415, 908,
)  # fmt: skip
CHARACTERS_PER_TOKEN = 3.0
COPIED_BYTES = {"cpu": 256 << 20, "cuda": 4 << 30}

Way = Callable[[Sequence[DecodeRow]], list[list[int]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One way through all rows once."""

    seconds: float
    tokens: list[list[int]]


def small_llama(folder: Path) -> Path:
    """Write a random Llama of 29 million parameters."""
    config = transformers.LlamaConfig(
        vocab_size=8192, hidden_size=512, intermediate_size=1408, num_hidden_layers=8, num_attention_heads=8,
        num_key_value_heads=4, max_position_embeddings=2048, tie_word_embeddings=True, initializer_range=0.1,
        bos_token_id=0, eos_token_id=1, pad_token_id=2,
    )  # fmt: skip
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def draw_lengths(num: int, longest: int, kind: str) -> list[int]:
    """Return the number of tokens of each answer, at most `longest`."""
    if kind == "even":
        return [longest] * num
    rng = random.Random(0)
    steps = len(REFERENCE_CHARACTERS) - 1
    lengths = []
    for _ in range(num):
        place, share = divmod(rng.random() * steps, 1)
        low, high = REFERENCE_CHARACTERS[int(place) : int(place) + 2]
        lengths.append(min(longest, math.ceil((low + share * (high - low)) / CHARACTERS_PER_TOKEN)))
    return lengths


def draw_rows(loaded: LoadedModel, lengths: Sequence[int]) -> list[DecodeRow]:
    """Return rows with prompts of 20 to 100 random tokens, each with its own length to draw."""
    rng = random.Random(1)
    special = set(loaded.tokenizer.all_special_ids)
    ordinary = [token for token in range(min(len(loaded.tokenizer), loaded.vocabulary_size)) if token not in special]
    return [
        DecodeRow(
            index=index,
            token_ids=tuple(rng.choices(ordinary, k=rng.randint(20, 100))),
            num_truncated=0,
            request=GenerateRequest(
                id=str(index),
                prompt=Prompt(messages=(Message(role="user", content=""),)),
                max_new_tokens=length,
                temperature=0.0,
                top_p=1.0,
                seed=0,
            ),
        )
        for index, length in enumerate(lengths)
    ]


def batches(rows: Sequence[DecodeRow], batch_size: int) -> list[list[DecodeRow]]:
    """Split rows into batches, longest prompts first."""
    ordered = sorted(rows, key=lambda row: -len(row.token_ids))
    return [ordered[start : start + batch_size] for start in range(0, len(ordered), batch_size)]


class EachToItsLength(transformers.StoppingCriteria):  # type: ignore[misc]
    """Ends each row of `generate` at its own length; its batch goes on until all have ended."""

    def __init__(self, rows: Sequence[DecodeRow], device: torch.device) -> None:
        self._width = max(len(row.token_ids) for row in rows)
        self._lengths = torch.tensor([row.request.max_new_tokens for row in rows], device=device)

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:  # noqa: ARG002
        return input_ids.shape[1] - self._width >= self._lengths


def plain_generate(loaded: LoadedModel, rows: Sequence[DecodeRow]) -> list[list[int]]:
    """Continue one batch with `generate`."""
    ids, mask = left_padded([row.token_ids for row in rows], loaded)
    output = loaded.model.generate(
        input_ids=ids,
        attention_mask=mask,
        do_sample=False,
        eos_token_id=sorted(loaded.eos_token_ids),
        pad_token_id=loaded.pad_token_id,
        max_new_tokens=max(row.request.max_new_tokens for row in rows),
        stopping_criteria=transformers.StoppingCriteriaList([EachToItsLength(rows, loaded.device)]),
    )
    drawn = output[:, ids.shape[1] :].tolist()
    return [
        until_end(row[: one.request.max_new_tokens], loaded.eos_token_ids) for row, one in zip(drawn, rows, strict=True)
    ]


def until_end(tokens: list[int], end_token_ids: frozenset[int]) -> list[int]:
    """Return the tokens before the first end token."""
    return tokens[: next((place for place, token in enumerate(tokens) if token in end_token_ids), len(tokens))]


def ways(config: ModelConfig, loaded: LoadedModel, batch_size: int, cache_gib: float) -> dict[str, Way]:
    """Return the ways by name; each takes one shard and returns the tokens of its rows, in their order."""
    limits = BatchLimits(max_rows=batch_size, cache_memory_bytes=int(cache_gib * GIB))
    named = config.model_copy(update={"engine_settings": {**config.engine_settings, "batching": "continuous"}})
    continuous = choose_continuous(named, parse_settings(TransformersSettings, named), loaded, limits)
    if continuous is None:
        raise SystemExit("continuous batching was asked for and not given")

    def by_batches(decode: Callable[[Sequence[DecodeRow]], list[list[int]]]) -> Way:
        def run(rows: Sequence[DecodeRow]) -> list[list[int]]:
            found: dict[int, list[int]] = {}
            for batch in batches(rows, batch_size):
                found.update(zip((row.index for row in batch), decode(batch), strict=True))
            return [found[row.index] for row in rows]

        return run

    return {
        "generate": by_batches(lambda rows: plain_generate(loaded, rows)),
        "own loop": by_batches(lambda rows: [one.token_ids for one in decode_batch(loaded, rows)]),
        f"continuous, {continuous.attention}": lambda rows: [one.token_ids for one in continuous.decode(rows)],
    }


def timed(way: Way, shards: Sequence[Sequence[DecodeRow]], device: torch.device) -> Run:
    """Take all shards one way."""
    started = time.perf_counter()
    tokens = list(chain.from_iterable(way(shard) for shard in shards))
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return Run(seconds=time.perf_counter() - started, tokens=tokens)


def measured_bandwidth(device: torch.device) -> float:
    """Bytes a second that a copy within the device's memory reads and writes, the best of five."""
    source = torch.ones(COPIED_BYTES[device.type] // 4, dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    seconds = []
    for _ in range(6):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        started = time.perf_counter()
        target.copy_(source)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - started)
    return 2 * source.nbytes / min(seconds[1:])


def floor_s(model: Any, lengths: Sequence[int], arguments: argparse.Namespace, bandwidth: float) -> float:
    """Seconds to read the weights once in each step, in the fewest steps that could draw all tokens shard by shard."""
    shards = [lengths[start : start + arguments.shard_size] for start in range(0, len(lengths), arguments.shard_size)]
    num_steps = sum(max(max(shard), math.ceil(sum(shard) / arguments.batch_size)) for shard in shards)
    return float(num_steps * loaded_bytes(model) / bandwidth)


def compare(loaded: LoadedModel, found: dict[str, Way], kind: str, arguments: argparse.Namespace) -> float:
    """Measure all ways with one kind of lengths, print the table, and return the share of rows that are equal."""
    rows = draw_rows(loaded, draw_lengths(arguments.prompts, arguments.max_new_tokens, kind))
    shards = [rows[start : start + arguments.shard_size] for start in range(0, len(rows), arguments.shard_size)]
    for way in found.values():
        timed(way, shards[:1], loaded.device)  # kernels, graphs and caches are made once
    runs: dict[str, list[Run]] = {name: [] for name in found}
    for number in range(arguments.rounds):
        order = list(found)[number % len(found) :] + list(found)[: number % len(found)]
        for name in order:
            runs[name].append(timed(found[name], shards, loaded.device))
    report(kind, runs, [len(one) for one in runs["generate"][0].tokens], loaded, arguments)
    texts = [some[0].tokens for some in runs.values()]
    repeated = all(run.tokens == some[0].tokens for some in runs.values() for run in some)
    equal = [len({tuple(tokens) for tokens in row}) == 1 for row in zip(*texts, strict=True)]
    print(f"rows equal token for token: {sum(equal)} of {len(equal)}; each way repeats itself: {repeated}")
    return sum(equal) / len(equal) if repeated else 0.0


def report(
    kind: str, runs: dict[str, list[Run]], lengths: Sequence[int], loaded: LoadedModel, arguments: argparse.Namespace
) -> None:
    """Print the seconds and tokens a second of each way, beside `generate` and the floor."""
    bandwidth = arguments.bandwidth_gb_s * 1e9 if arguments.bandwidth_gb_s else measured_bandwidth(loaded.device)
    least_s = floor_s(loaded.model, lengths, arguments, bandwidth)
    print(
        f"\n{kind} lengths: {len(lengths)} rows, {sum(lengths)} tokens, median {statistics.median(lengths):g}, "
        f"longest {max(lengths)}; floor {least_s:.2f} s at {bandwidth / 1e9:.0f} GB/s"
    )
    print(f"{'':28}{'seconds':>9}{'tokens/s':>10}{'x generate':>12}{'floor/time':>12}")
    for name, some in runs.items():
        seconds = statistics.median(run.seconds for run in some)
        ratio = statistics.median(
            plain.seconds / run.seconds for plain, run in zip(runs["generate"], some, strict=True)
        )
        print(f"{name:28}{seconds:9.2f}{sum(lengths) / seconds:10.0f}{ratio:12.2f}{least_s / seconds:12.2f}")


def main() -> int:
    parser = argparse.ArgumentParser(description="Time three ways to batch greedy rows.")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--model", help="a checkpoint; default: a random Llama of 29 million parameters")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="default: float32 on CPU, else 16")
    parser.add_argument("--attention", choices=("eager", "sdpa", "flash_attention_2"))
    parser.add_argument("--lengths", choices=("uneven", "even", "both"), default="both")
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--shard-size", type=int, default=32)
    parser.add_argument("--cache-gib", type=float, default=4.0)
    parser.add_argument("--bandwidth-gb-s", type=float, help="peak memory bandwidth; default: measured by copying")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="batching-") as folder:
        config = ModelConfig(
            path=arguments.model or str(small_llama(Path(folder))),
            prompt_style="completion",
            dtype=arguments.dtype or ("float32" if arguments.device == "cpu" else "bfloat16"),
            gpus=0 if arguments.device == "cpu" else 1,
            engine_settings={"attention": arguments.attention} if arguments.attention else {},
        )
        loaded = load(config, parse_settings(TransformersSettings, config))
    if loaded.device.type != arguments.device:
        raise SystemExit(f"no {arguments.device} here")
    describe(loaded)
    found = ways(config, loaded, arguments.batch_size, arguments.cache_gib)
    kinds = ("uneven", "even") if arguments.lengths == "both" else (arguments.lengths,)
    with torch.no_grad():
        shares = [compare(loaded, found, kind, arguments) for kind in kinds]
    return 0 if min(shares) >= TARGET_EQUAL else 1


def describe(loaded: LoadedModel) -> None:
    """Print the machine, the versions and the model."""
    where = torch.cuda.get_device_name(loaded.device) if loaded.device.type == "cuda" else platform.machine()
    print(f"{where}, {machine_line('torch', 'transformers')}, {torch.get_num_threads()} threads")
    num_parameters = sum(parameter.numel() for parameter in loaded.model.parameters())
    print(f"{type(loaded.model).__name__}, {num_parameters / 1e6:.0f}M parameters, {loaded.model.dtype}")


if __name__ == "__main__":
    sys.exit(main())
