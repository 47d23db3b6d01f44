"""Trains small language models from scratch on real text: packed documents, plain next-token loss, one thread each."""

import json
import math
import random
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from moe_ray.fingerprint import file_sha256, fingerprint

BLOCK_TOKENS = 512
RESULT_FILE = "training.json"
LEARNING_RATE = 3e-3
MAX_GRADIENT_NORM = 1.0
WARMUP_FRACTION = 0.1
Architecture = Literal["mistral", "phi3", "qwen2"]
SHAPE = {
    "hidden_size": 128,
    "intermediate_size": 352,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": BLOCK_TOKENS,
    "sliding_window": None,
    "tie_word_embeddings": True,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One training. `text_files` hold one JSON string a line and are mixed evenly, block by block."""

    name: str
    architecture: Architecture
    text_files: tuple[Path, ...]
    tokenizer_file: Path
    models_dir: Path
    num_steps: int
    batch_blocks: int = 4
    seed: int = 0

    @property
    def checkpoint(self) -> Path:
        """Where the trained model is kept: named by what decides its weights, complete when it is there."""
        decided = {
            "shape": SHAPE,
            "architecture": self.architecture,
            "texts": [file_sha256(path) for path in self.text_files],
            "tokenizer": file_sha256(self.tokenizer_file),
            "budget": [self.num_steps, self.batch_blocks, self.seed, LEARNING_RATE],
        }
        return self.models_dir / f"{self.name}-{fingerprint(decided)[:12]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A trained model; losses in nats per token."""

    name: str
    num_parameters: int
    num_tokens: int
    first_loss: float
    last_loss: float
    train_s: float


def train(recipe: Recipe) -> Trained:
    """Return the recipe's model, trained now or before."""
    kept = recipe.checkpoint / RESULT_FILE
    if kept.is_file():
        return Trained(**json.loads(kept.read_text(encoding="utf-8")))
    import torch
    import transformers

    from moe_ray.microworld.data import load_tokenizer

    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    torch.manual_seed(recipe.seed)
    tokenizer = load_tokenizer(recipe.tokenizer_file)
    model = _new_model(recipe, tokenizer)
    streams = [_packed(tokenizer, path) for path in recipe.text_files]
    started = time.perf_counter()
    losses = _fit(model, _batches(streams, recipe), recipe.num_steps)
    trained = Trained(
        name=recipe.name,
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        num_tokens=recipe.num_steps * recipe.batch_blocks * BLOCK_TOKENS,
        first_loss=losses[0],
        last_loss=sum(losses[-10:]) / len(losses[-10:]),
        train_s=time.perf_counter() - started,
    )
    _save(model, tokenizer, recipe, trained)
    return trained


def _new_model(recipe: Recipe, tokenizer: Any) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        recipe.architecture,
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
        **SHAPE,
    )
    return AutoModelForCausalLM.from_config(config)


def _packed(tokenizer: Any, path: Path) -> list[list[int]]:
    """Return a file's documents as blocks of equal length, an end token after each document; the rest is left out."""
    documents = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    random.Random(0).shuffle(documents)
    encoded = tokenizer.backend_tokenizer.encode_batch(documents, add_special_tokens=False)
    stream = [token for document in encoded for token in (*document.ids, tokenizer.eos_token_id)]
    starts = range(0, len(stream) - BLOCK_TOKENS + 1, BLOCK_TOKENS)
    return [stream[start : start + BLOCK_TOKENS] for start in starts]


def _batches(streams: Sequence[list[list[int]]], recipe: Recipe) -> Iterator[list[list[int]]]:
    """Yield batches for ever: the streams take turns, and each is gone through in shuffled epochs."""
    rng = random.Random(recipe.seed)
    turns = [_epochs(blocks, rng) for blocks in streams]
    place = 0
    while True:
        yield [next(turns[(place + row) % len(turns)]) for row in range(recipe.batch_blocks)]
        place += recipe.batch_blocks


def _epochs(blocks: list[list[int]], rng: random.Random) -> Iterator[list[int]]:
    while True:
        yield from rng.sample(blocks, len(blocks))


def _fit(model: Any, batches: Iterator[list[list[int]]], num_steps: int) -> list[float]:
    """Run `num_steps` steps of AdamW; return the loss of each, in nats per token."""
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, num_steps))
    losses = []
    model.train()
    for _ in range(num_steps):
        ids = torch.tensor(next(batches))
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRADIENT_NORM)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def _rate(step: int, num_steps: int) -> float:
    """Return the share of the peak learning rate: linear warm-up, then a cosine to a tenth."""
    num_warmup = max(1, int(WARMUP_FRACTION * num_steps))
    if step < num_warmup:
        return (step + 1) / num_warmup
    progress = (step - num_warmup) / max(1, num_steps - num_warmup)
    return 0.1 + 0.45 * (1 + math.cos(math.pi * min(1.0, progress)))


def _save(model: Any, tokenizer: Any, recipe: Recipe, trained: Trained) -> None:
    """Write the checkpoint beside its place and rename it, so that it is there whole or not at all."""
    temporary = recipe.checkpoint.with_suffix(".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    model.eval().save_pretrained(temporary)
    tokenizer.save_pretrained(temporary)
    (temporary / RESULT_FILE).write_text(json.dumps(asdict(trained), indent=1) + "\n", encoding="utf-8")
    temporary.rename(recipe.checkpoint)
