"""What Ray, the store and the telemetry cost: a run against the same engine, requests and batches in a plain loop.

    python -m benchmarks.overhead [--pairs 5]

Both sides answer the same shards in the same order with one model in one process; the run is timed from the first
shard handed out to the last commit, once its actor is up. Pairs alternate their order. Prints each pair, the median
ratio and its spread; exits with 1 when the median is above the target.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from benchmarks.tiny_experiment import private_environment
from moe_ray.config.load import load_experiment
from moe_ray.engines.base import BatchLimits, GenerateRequest, LikelihoodRequest
from moe_ray.engines.registry import make_engine
from moe_ray.planning.memory import GIB
from moe_ray.runs import evaluate as pipeline
from moe_ray.runs.work import prepare
from tests.support.tiny_models import WORDS, make_tokenizer

TARGET_RATIO = 1.05
NUM_EXAMPLES = 64


class Stopwatch:
    """An observer that notes when the first replica was ready and when the last shard was committed."""

    def __init__(self) -> None:
        self.ready_at: float | None = None
        self.last_commit_at = 0.0

    def stage(self, text: str) -> None: ...

    def notice(self, text: str) -> None: ...

    def training(self, step: int, num_steps: int, detail: str) -> None: ...

    def work(self, totals: Mapping[str, tuple[int, int]]) -> None: ...

    def replica(self, replica: str, model: str, state: str, detail: str) -> None:  # noqa: ARG002
        if state == "ready" and self.ready_at is None:
            self.ready_at = time.perf_counter()

    def committed(self, model: str, num_cells: int, num_tokens: int) -> None:  # noqa: ARG002
        self.last_commit_at = time.perf_counter()

    def abandoned(self, model: str, num_cells: int, reason: str) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Seconds of one run and of one plain loop; `engine_s` is what the run's actor spent inside its engine."""

    run_s: float
    engine_s: float
    plain_s: float


def write_experiment(folder: Path) -> Path:
    """Write a Llama of 8 million parameters, examples, and the experiment that has it answer them greedily."""
    import torch
    import transformers

    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=320,
        intermediate_size=896,
        num_hidden_layers=6,
        num_attention_heads=8,
        max_position_embeddings=512,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder / "llama")
    tokenizer.save_pretrained(folder / "llama")
    lines = [
        {"id": f"e{i}", "question": " ".join(WORDS[(i * 7 + j) % len(WORDS)] for j in range(20)), "reference": WORDS[0]}
        for i in range(NUM_EXAMPLES)
    ]
    (folder / "texts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    experiment = {
        "name": "overhead",
        "models": {"llama": {"path": "./llama", "dtype": "float32"}},
        "baseline": "llama",
        "domains": {
            "texts": {
                "task": "free_text",
                "data": {"source": "./texts.jsonl"},
                "columns": {"id": "id", "question": "question", "reference": "reference"},
                "prompt": {"template": "{question}"},
                "graders": ["rouge_l"],
            }
        },
        "decoding": {"max_new_tokens": 96},
        "runtime": {"cpu_threads": 1, "cpu_slots": 1, "batch_size": 8, "shard_size": 8, "probe_examples": 0},
    }
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump(experiment))
    return path


def plain_loop(experiment: Path) -> float:
    """Answer every shard with the engine alone, and return the seconds that the answering took."""
    loaded = load_experiment(experiment)
    config, work = loaded.config, prepare(loaded).work
    runtime, decoding = config.runtime, config.decoding
    limits = BatchLimits(max_rows=runtime.batch_size, cache_memory_bytes=int(runtime.batch_memory_gib * GIB))
    engine = make_engine(config.models["llama"], limits)
    started = time.perf_counter()
    for shard in work.shards:
        if shard.cells[0].kind == "likelihood":
            engine.loglikelihoods([LikelihoodRequest(id=cell.example_id, prompt=cell.prompt) for cell in shard.cells])
            continue
        requests = [
            GenerateRequest(
                id=cell.example_id,
                prompt=cell.prompt,
                max_new_tokens=cell.max_new_tokens,
                temperature=decoding.temperature,
                top_p=decoding.top_p,
                seed=0,
            )
            for cell in shard.cells
        ]
        engine.generate(requests)
    return time.perf_counter() - started


def timed_plain(experiment: Path) -> float:
    """Run the plain loop in a process of its own, as an actor has one."""
    program = [sys.executable, "-m", "benchmarks.overhead", "--plain", str(experiment)]
    done = subprocess.run(program, check=True, stdout=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return float(done.stdout)


def timed_run(experiment: Path, results: Path) -> tuple[float, float]:
    """Run the experiment; return the seconds from its first shard to its last commit, and those inside the engine."""
    stopwatch = Stopwatch()
    loaded = load_experiment(experiment, [f"output.results_dir={results}"])
    outcome = pipeline.evaluate(loaded, stopwatch)
    if outcome.num_missing or stopwatch.ready_at is None:
        raise SystemExit(f"the run is not whole: {outcome.abandoned}")
    engine_s = sum(record.busy_s for record in outcome.run.telemetry())
    return stopwatch.last_commit_at - stopwatch.ready_at, engine_s


def measure(folder: Path, experiment: Path, num_pairs: int) -> list[Pair]:
    """Measure pairs, each side first in turn."""
    from moe_ray.execution.cluster import connect

    pairs = []
    with connect(load_experiment(experiment).config.runtime):
        for number in range(num_pairs):
            plain_s = timed_plain(experiment) if number % 2 else 0.0
            run_s, engine_s = timed_run(experiment, folder / f"results-{number}")
            plain_s = plain_s or timed_plain(experiment)
            pairs.append(Pair(run_s=run_s, engine_s=engine_s, plain_s=plain_s))
            print(
                f"{number + 1:4}  {run_s:6.2f}  {engine_s:8.2f}  {plain_s:7.2f}  {run_s / plain_s:11.3f}"
                f"  {run_s / engine_s:12.4f}",
                flush=True,
            )
    return pairs


def report(pairs: list[Pair]) -> bool:
    """Print the medians and their spreads; True when the run costs no more than the target."""
    against_plain = sorted(pair.run_s / pair.plain_s for pair in pairs)
    against_engine = sorted(pair.run_s / pair.engine_s for pair in pairs)
    for title, ratios in (("run / plain loop", against_plain), ("run / its own engine time", against_engine)):
        print(f"{title}: median {statistics.median(ratios):.4f}, {ratios[0]:.4f} to {ratios[-1]:.4f}")
    return statistics.median(against_plain) <= TARGET_RATIO


def main() -> int:
    parser = argparse.ArgumentParser(description="Time a run against a plain loop.")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--plain", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.plain is not None:
        print(plain_loop(arguments.plain))
        return 0
    with tempfile.TemporaryDirectory(prefix="overhead-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        # Ray gives its workers a low priority; the plain loop has the usual one, and so has the run here.
        os.environ.update(private_environment(folder / "home", RAY_worker_niceness="0"))
        experiment = write_experiment(folder)
        print("pair   run s  engine s  plain s  run / plain  run / engine")
        within = report(measure(folder, experiment, arguments.pairs))
    print(f"target: at most {TARGET_RATIO}: {'met' if within else 'MISSED'}")
    return 0 if within else 1


if __name__ == "__main__":
    sys.exit(main())
