"""Train one small model of a transformers architecture with a plain loop."""

import json
import logging
import math
import os
import random
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.nn.utils import clip_grad_norm_

from moe_ray.engines.transformers.loading import read_pretrained
from moe_ray.microworld.data import EOS, MAX_POSITIONS, QuestionAnswer, load_tokenizer, read_pairs
from moe_ray.microworld.spec import RESULT_FILE, Budget, TrainingResult, TrainingSpec, cached_result
from moe_ray.prompts.encoder import chat_text

logger = logging.getLogger(__name__)

NUM_LOSS_POINTS = 20
IGNORED_LABEL = -100
MAX_GRADIENT_NORM = 1.0

_ARCHITECTURES = {
    "phi3": (transformers.Phi3Config, transformers.Phi3ForCausalLM),
    "mistral": (transformers.MistralConfig, transformers.MistralForCausalLM),
    "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM),
}

TrainingRow = tuple[list[int], int]


def train_model(spec: TrainingSpec) -> TrainingResult:
    """Train `spec` and save the checkpoint in its cache, or return the cached result.

    Uses one thread, so that several trainings share a machine and the weights do not depend on its cores. The
    checkpoint is an ordinary transformers one, with tokenizer and chat template.
    """
    kept = cached_result(spec)
    if kept is not None:
        return kept
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    tokenizer = load_tokenizer(Path(spec.tokenizer_file))
    rows = [_tokenized(tokenizer, read_pairs(Path(file))) for file in spec.pairs_files]
    torch.manual_seed(spec.seed)
    model = new_model(spec, tokenizer) if spec.start_from is None else _frozen_but_feed_forwards(spec.start_from)
    started = time.perf_counter()
    losses = _fit(model, rows, spec, tokenizer.pad_token_id)
    result = TrainingResult(
        name=spec.name,
        checkpoint=spec.checkpoint,
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        losses=tuple(losses),
        train_s=time.perf_counter() - started,
        cached=False,
    )
    _save(model, tokenizer, result)
    return result


def new_model(spec: TrainingSpec, tokenizer: Any) -> Any:
    """Return an untrained model of the spec's architecture and shape."""
    config_class, model_class = _ARCHITECTURES[spec.architecture]
    config = config_class(
        vocab_size=len(tokenizer),
        hidden_size=spec.shape.hidden_size,
        intermediate_size=spec.shape.intermediate_size,
        num_hidden_layers=spec.shape.num_layers,
        num_attention_heads=spec.shape.num_heads,
        num_key_value_heads=spec.shape.num_heads,
        max_position_embeddings=MAX_POSITIONS,
        sliding_window=None,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    return model_class(config)


def _frozen_but_feed_forwards(checkpoint: str) -> Any:
    """Return a trained model in which only the feed-forwards are trainable."""
    model = read_pretrained(transformers.AutoModelForCausalLM, checkpoint).requires_grad_(False)
    for layer in model.model.layers:
        layer.mlp.requires_grad_(True)
    return model


def _tokenized(tokenizer: Any, pairs: Sequence[QuestionAnswer]) -> list[TrainingRow]:
    """Return each pair as its token ids and the number of them that are the prompt."""
    rows = []
    for pair in pairs:
        prompt = chat_text(tokenizer, pair.asked)
        prompt_ids = tokenizer.encode(prompt, add_special_tokens=False)
        target_ids = tokenizer.encode(pair.target + EOS, add_special_tokens=False)
        rows.append((prompt_ids + target_ids, len(prompt_ids)))
    return rows


def _fit(model: Any, rows: Sequence[list[TrainingRow]], spec: TrainingSpec, pad_id: int) -> list[tuple[int, float]]:
    """Run the budget's steps; return the loss history."""
    budget = spec.budget
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=budget.learning_rate, betas=(0.9, 0.95), weight_decay=budget.weight_decay
    )
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, budget))
    every = max(1, budget.num_steps // NUM_LOSS_POINTS)
    losses, recent = [], []
    model.train()
    for step, batch in enumerate(_batches(rows, spec), start=1):
        ids, labels = _padded(batch, pad_id)
        loss = _answer_loss(model, ids, labels)
        torch.autograd.backward(loss)
        clip_grad_norm_(model.parameters(), MAX_GRADIENT_NORM)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad(set_to_none=True)
        recent.append(loss.item())
        if step % every == 0 or step == budget.num_steps:
            losses.append((step, sum(recent) / len(recent)))
            recent.clear()
            logger.info("%s: step %d of %d, loss %.4f", spec.name, step, budget.num_steps, losses[-1][1])
    return losses


def _answer_loss(model: Any, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the mean loss over the answers' tokens, in nats; logits are made for those positions only."""
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
    wanted = labels[:, 1:] != IGNORED_LABEL
    return torch.nn.functional.cross_entropy(model.lm_head(hidden[wanted]), labels[:, 1:][wanted])


def _rate(step: int, budget: Budget) -> float:
    """Return the share of the peak learning rate: linear warm-up, then a cosine to zero."""
    warmup = max(1.0, budget.warmup_fraction * budget.num_steps)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1.0, budget.num_steps - warmup)))


def _batches(rows: Sequence[list[TrainingRow]], spec: TrainingSpec) -> Iterator[list[TrainingRow]]:
    """Yield the budget's batches: each row's file is drawn uniformly, and each file is iterated in shuffled epochs."""
    rng = random.Random(spec.seed)
    streams = [_epochs(file, random.Random(f"{spec.seed}:{index}")) for index, file in enumerate(rows)]
    for _ in range(spec.budget.num_steps):
        yield [next(rng.choice(streams)) for _ in range(spec.budget.batch_rows)]


def _epochs(rows: list[TrainingRow], rng: random.Random) -> Iterator[TrainingRow]:
    while True:
        yield from rng.sample(rows, len(rows))


def _padded(batch: Sequence[TrainingRow], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and labels, both (rows, tokens), padded on the right; only the target's tokens have labels.

    No attention mask is needed: causal attention never sees padding on the right.
    """
    width = max(len(ids) for ids, _ in batch)
    ids = torch.full((len(batch), width), pad_id)
    labels = torch.full((len(batch), width), IGNORED_LABEL)
    for index, (row, num_prompt) in enumerate(batch):
        ids[index, : len(row)] = torch.tensor(row)
        labels[index, num_prompt : len(row)] = torch.tensor(row[num_prompt:])
    return ids, labels


def _save(model: Any, tokenizer: Any, result: TrainingResult) -> None:
    """Write the checkpoint atomically."""
    temporary = result.checkpoint.with_name(f".{result.checkpoint.name}.{os.getpid()}.tmp")
    temporary.mkdir(parents=True)
    try:
        model.generation_config.update(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        kept = {"num_parameters": result.num_parameters, "losses": result.losses, "train_s": result.train_s}
        (temporary / RESULT_FILE).write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
        try:
            temporary.rename(result.checkpoint)
        except OSError:
            # Another process may have finished the same training first; its checkpoint is equivalent.
            if not (result.checkpoint / RESULT_FILE).is_file():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
