"""How fast a full-size DistilBERT routes on a CPU, and which faster ways give the same verdicts.

    python -m benchmarks.router_speed [--tokens 32 128 512] [--seconds 15] [--compile]
    python -m benchmarks.router_speed --router ROUTER --texts FILE

First: distilbert-base-uncased's architecture (66M parameters) with random weights and four labels, its head's weights
set so that verdicts vary. Prints what this machine multiplies at most and the time that follows for 512 tokens, what
each variant changes of float32 eager's probabilities and verdicts (padded batches of all lengths), and the latencies
(p99 of few rounds is the slowest). Variants alternate within each round; a ratio is the median over rounds of eager's
time by the variant's.
Second: the same comparison of verdicts with a trained transformer router on real texts, one a line.

Exits with 1 when a variant that claims eager's verdicts does not give them. Threads are OMP_NUM_THREADS, or all cores.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from benchmarks.machine import machine_line
from benchmarks.router_speed_variants import EAGER, LEAN, LEAN_BFLOAT16, Batch, Run, Variant, variants
from moe_ray.gating.calibration import softmax
from moe_ray.routing.transformer.forward import PackedLinear
from moe_ray.routing.transformer.tokens import TextReader, pad

TARGET_TOKENS = 512
TARGET_MS = 60.0
PUBLISHED_MS = 120.0  # a published peer on a server CPU
TOLERANCE = 1e-4
LARGE_BATCH = 32
MAX_ROUNDS = 300
MIN_ROUNDS = 3
FIRST_WORD = 1000  # below are the vocabulary's special and unused tokens
WORD_IDS = 29_000


def make_model() -> Any:
    """A DistilBERT that gives four labels about as often."""
    torch.manual_seed(0)
    model = transformers.DistilBertForSequenceClassification(transformers.DistilBertConfig(num_labels=4)).eval()
    (batch,) = make_batches([range(2, 34)])
    with torch.no_grad():
        model.classifier.weight *= 50
        model.classifier.bias -= model(**batch).logits.mean(dim=0)
    return model


def make_batches(lengths: Sequence[Sequence[int]]) -> list[Batch]:
    """A padded batch of random tokens for each sequence of lengths."""
    rng = np.random.default_rng(0)
    return [pad([(FIRST_WORD + rng.integers(WORD_IDS, size=n)).tolist() for n in row], 0) for row in lengths]


def multiply_adds(config: Any, num_tokens: int) -> float:
    """Multiply-adds of one text, where the last layer is done for the first token alone."""
    width, inner, num_layers = config.dim, config.hidden_dim, config.n_layers
    dense, attention = 4 * width**2 + 2 * width * inner, 2 * num_tokens * width
    last = num_tokens * 2 * width**2 + dense - 2 * width**2 + attention
    return float((num_layers - 1) * num_tokens * (dense + attention) + last)


def best_s(run: Callable[[], object], seconds: float = 1.0) -> float:
    """The shortest of the calls that fit into `seconds`, after one that does not count."""
    run()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return min(times)


def report_peak(config: Any) -> None:
    """Print what this machine multiplies at most, and how long a text's multiply-adds take at that rate."""
    size = 1536
    plain, packed = torch.randn(size, size), PackedLinear(torch.nn.Linear(size, size, bias=False), torch.float32)
    rounded, integers = plain.bfloat16(), torch.randint(-127, 127, (size, size), dtype=torch.int8)
    products: dict[str, Callable[[], object]] = {
        "float32, as torch does it": lambda: plain @ plain,
        "float32, packed": lambda: packed(plain),
        "bfloat16": lambda: rounded @ rounded,
        "int8": lambda: torch._int_mm(integers, integers),
    }
    print(f"\n{'products of matrices':28}  GFLOP/s  {TARGET_TOKENS} tokens at that rate, ms")
    with torch.inference_mode():
        for name, run in products.items():
            per_s = size**3 / best_s(run)
            print(f"{name:28}  {2 * per_s / 1e9:7.0f}  {1e3 * multiply_adds(config, TARGET_TOKENS) / per_s:10.0f}")


def check(found: Sequence[Variant], batches: Sequence[Batch]) -> bool:
    """Print how each variant's probabilities and verdicts differ from eager's; False where one claims otherwise."""
    reference = _probabilities(found[0].run, batches)
    verdicts = reference.argmax(axis=1)
    counts = "/".join(str(n) for n in np.bincount(verdicts, minlength=reference.shape[1]))
    print(f"\n{len(verdicts)} texts in {len(batches)} batches, verdicts {counts}, against float32 eager:")
    print(f"{'':30}  other verdicts  largest change of a probability")
    all_kept = True
    for variant in found[1:]:
        probabilities = _probabilities(variant.run, batches)
        num_other = int((probabilities.argmax(axis=1) != verdicts).sum())
        change = float(np.abs(probabilities - reference).max())
        is_kept = not num_other and change <= TOLERANCE
        all_kept &= is_kept or not variant.is_exact
        claim = "" if not variant.is_exact else "equal" if is_kept else "CLAIMED EQUAL, AND IS NOT"
        print(f"{variant.name:30}  {num_other:14}  {change:10.1e}  {claim}", flush=True)
    return all_kept


def _probabilities(run: Run, batches: Sequence[Batch]) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.concatenate([softmax(run(batch), 1.0) for batch in batches])


def measure(found: Sequence[Variant], batch: Batch, seconds: float) -> dict[str, np.ndarray[Any, Any]]:
    """Seconds of each variant by round; the order turns from round to round."""
    for variant in found:
        variant.run(batch)
    rounds: list[dict[str, float]] = []
    end = time.perf_counter() + seconds
    while len(rounds) < MIN_ROUNDS or (time.perf_counter() < end and len(rounds) < MAX_ROUNDS):
        turn = len(rounds) % len(found)
        times = {}
        for variant in (*found[turn:], *found[:turn]):
            started = time.perf_counter()
            variant.run(batch)
            times[variant.name] = time.perf_counter() - started
        rounds.append(times)
    return {variant.name: np.array([times[variant.name] for times in rounds]) for variant in found}


def report_latency(found: Sequence[Variant], batch_size: int, num_tokens: int, seconds: float) -> dict[str, float]:
    """Print p50 and p99 in milliseconds, and how much faster than eager; return the p50s."""
    (batch,) = make_batches([[num_tokens] * batch_size])
    times = measure(found, batch, seconds)
    print(f"\nbatch {batch_size}, {num_tokens} tokens, {len(times[EAGER])} rounds")
    print(f"{'':30}   p50 ms   p99 ms  times as fast as eager")
    for name, values in times.items():
        p50, p99 = 1e3 * np.quantile(values, [0.5, 0.99])
        print(f"{name:30}  {p50:7.1f}  {p99:7.1f}  {np.median(times[EAGER] / values):8.2f}", flush=True)
    return {name: 1e3 * float(np.median(values)) for name, values in times.items()}


def report_target(p50_ms: dict[str, float]) -> None:
    print(f"\n{TARGET_TOKENS} tokens, batch 1: target {TARGET_MS:.0f} ms, published {PUBLISHED_MS:.0f} ms")
    for name in (LEAN, LEAN_BFLOAT16):
        print(f"{name:30}  {p50_ms[name]:7.1f}  {'met' if p50_ms[name] <= TARGET_MS else 'MISSED'}")


def read_router(directory: Path, texts_file: Path) -> tuple[Any, list[Batch]]:
    """The model of a trained transformer router, and the batches of its texts in order of their lengths."""
    transformers.utils.logging.disable_progress_bar()
    model = transformers.AutoModelForSequenceClassification.from_pretrained(directory, dtype=torch.float32).eval()
    reader = TextReader(transformers.AutoTokenizer.from_pretrained(directory))
    lines = [line for line in texts_file.read_text(encoding="utf-8").splitlines() if line.strip()]
    rows = sorted(reader.read(lines), key=len)
    starts = range(0, len(rows), LARGE_BATCH)
    return model, [pad(rows[at : at + LARGE_BATCH], reader.pad_token_id) for at in starts]


def compare_on_texts(directory: Path, texts_file: Path, num_threads: int) -> bool:
    model, batches = read_router(directory, texts_file)
    return check(list(variants(model, num_threads, compiled=False)), batches)


def compare_speeds(arguments: argparse.Namespace, num_threads: int) -> bool:
    model = make_model()
    report_peak(model.config)
    found = list(variants(model, num_threads, compiled=arguments.compile))
    longest = max(arguments.tokens)
    lengths = [[n] for n in (1, 2, 17, longest)] + [
        list(range(3, longest, max(longest // 16, 1))),
        [20] * 32,
        [40, 5] * 16,
    ]
    are_kept = check(found, make_batches(lengths))
    p50_ms = {num_tokens: report_latency(found, 1, num_tokens, arguments.seconds) for num_tokens in arguments.tokens}
    large = [variant for variant in found if variant.for_large]
    for num_tokens in arguments.tokens if arguments.large else ():
        report_latency(large, LARGE_BATCH, num_tokens, arguments.seconds)
    if TARGET_TOKENS in p50_ms:
        report_target(p50_ms[TARGET_TOKENS])
    return are_kept


def main() -> int:
    parser = argparse.ArgumentParser(description="Time a full-size DistilBERT on this CPU.")
    parser.add_argument("--tokens", type=int, nargs="+", default=[32, 128, 512])
    parser.add_argument("--seconds", type=float, default=15.0, help="of each shape, about")
    parser.add_argument("--compile", action="store_true", help="torch.compile too, which takes minutes to compile")
    parser.add_argument("--no-large", dest="large", action="store_false", help=f"without batches of {LARGE_BATCH}")
    parser.add_argument("--router", type=Path, help="compare verdicts of this trained router instead")
    parser.add_argument("--texts", type=Path, help="texts for --router, one a line")
    arguments = parser.parse_args()
    if (arguments.router is None) != (arguments.texts is None):
        parser.error("--router and --texts go together")
    num_threads = torch.get_num_threads()
    print(
        machine_line("torch", "transformers"),
        f"{num_threads} threads",
        torch.backends.cpu.get_cpu_capability(),
        sep=", ",
    )
    if arguments.router is not None:
        are_kept = compare_on_texts(arguments.router, arguments.texts, num_threads)
    else:
        are_kept = compare_speeds(arguments, num_threads)
    return 0 if are_kept else 1


if __name__ == "__main__":
    sys.exit(main())
