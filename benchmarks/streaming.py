"""Streams: time to the first token and between tokens, with 1 and with 16 requests at once.

    python -m benchmarks.streaming [--model PATH] [--tokens 32]

Without a model, a small random Llama is made (8 layers, hidden size 256). The transformers engine runs on the CPU. All
requests of a row are submitted at once; times count from there. "generate" is the same requests as one batch.
"""

import argparse
import statistics
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
import transformers

from benchmarks.machine import machine_line
from moe_ray.config.schema import ModelConfig
from moe_ray.engines.base import BatchLimits, GenerateRequest, StreamingEngine
from moe_ray.engines.registry import make_engine
from moe_ray.engines.streams import streaming
from moe_ray.prompts.messages import Message, Prompt
from tests.support.tiny_models import WORDS, make_tokenizer

CONCURRENT = (1, 16)
SECONDS_PER_WORD = 0.01
LIMITS = BatchLimits(max_rows=16, cache_memory_bytes=2 << 30)


@dataclass(kw_only=True)
class Reading:
    """When the tokens of one stream were there, in seconds from its start."""

    start_s: float
    token_s: list[float] = field(default_factory=list)

    def gaps_s(self) -> list[float]:
        """The times between tokens that follow each other."""
        return [later - earlier for earlier, later in zip(self.token_s, self.token_s[1:], strict=False)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a checkpoint; default: a small random one")
    parser.add_argument("--tokens", type=int, default=32, help="tokens of each answer")
    asked = parser.parse_args()
    # As a replica on one CPU slot; threads that wait for each other would measure what else the machine does.
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    print(machine_line("torch", "transformers"))
    print(f"{'engine':<14}{'at once':>8}{'first p50':>11}{'first max':>11}{'next p50':>10}{'next p95':>10}", end="")
    print(f"{'stream':>9}{'generate':>10}")
    with tempfile.TemporaryDirectory() as folder:
        path = asked.model or small_checkpoint(Path(folder))
        model = ModelConfig(path=str(path), prompt_style="completion", gpus=0)
        measure("transformers", streaming(make_engine(model, LIMITS)), asked.tokens)
    settings = {"seconds_per_token": SECONDS_PER_WORD, "text": " ".join(["word"] * asked.tokens)}
    scripted = ModelConfig(path="scripted", engine="scripted", engine_settings=settings)
    measure("scripted", streaming(make_engine(scripted, LIMITS)), asked.tokens)


def small_checkpoint(directory: Path) -> Path:
    """Write a random Llama, large enough that a step takes longer than what surrounds it."""
    tokenizer = make_tokenizer()
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=1024,
        num_hidden_layers=8,
        num_attention_heads=8,
        max_position_embeddings=1024,
        bos_token_id=0,
        eos_token_id=None,
        pad_token_id=2,
    )
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def requests(num: int, num_tokens: int) -> list[GenerateRequest]:
    """Prompts of 20 to 80 words."""
    texts = [" ".join(WORDS[(at + place) % len(WORDS)] for place in range(20 + 4 * at)) for at in range(num)]
    return [
        GenerateRequest(
            id=str(at),
            prompt=Prompt(messages=(Message(role="user", content=text),)),
            max_new_tokens=num_tokens,
            temperature=0.0,
            top_p=1.0,
            seed=0,
        )
        for at, text in enumerate(texts)
    ]


def measure(name: str, engine: StreamingEngine, num_tokens: int) -> None:
    """Print one line for each number of requests at once."""
    read_all(engine, requests(1, num_tokens))
    for num in CONCURRENT:
        asked = requests(num, num_tokens)
        start_s = time.perf_counter()
        readings = read_all(engine, asked)
        stream_s = time.perf_counter() - start_s
        start_s = time.perf_counter()
        engine.generate(asked)
        generate_s = time.perf_counter() - start_s
        first = sorted(reading.token_s[0] for reading in readings)
        gaps = sorted(gap for reading in readings for gap in reading.gaps_s())
        ms = [1000 * value for value in (statistics.median(first), first[-1])]
        ms += [1000 * value for value in (statistics.median(gaps), gaps[int(0.95 * (len(gaps) - 1))])]
        columns = "".join(f"{value:>{width}.1f} ms" for value, width in zip(ms, (8, 8, 7, 7), strict=True))
        print(f"{name:<14}{num:>8}{columns}{stream_s:>7.2f} s{generate_s:>8.2f} s")
    engine.close()


def read_all(engine: StreamingEngine, asked: list[GenerateRequest]) -> list[Reading]:
    """Submit all requests at once, and read each stream in a thread of its own."""
    readings = [Reading(start_s=time.perf_counter()) for _ in asked]

    def read(request: GenerateRequest, reading: Reading) -> None:
        for delta in engine.submit(request):
            if delta.num_tokens:
                reading.token_s.append(time.perf_counter() - reading.start_s)

    threads = [threading.Thread(target=read, args=pair) for pair in zip(asked, readings, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return readings


if __name__ == "__main__":
    main()
