"""Decoding one batch, token by token. Shapes: B rows, T tokens, V vocabulary.

The loop is our own, over the model's forward pass: every row has its own end, its own clock and its own stop
strings, and leaves the batch when it is done, so that no row is decoded to the length of the longest. The
checkpoint's generation configuration (penalties, forced tokens, top-k) is not applied: only its end tokens count.

A cache is padded on the left: the newest position of all rows comes last, so that rows of different lengths differ on
the left alone, where padding is masked. Keys and values are [B, H, T, D].
"""

# ruff: noqa: N806 - capital suffixes name the axes of a tensor

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from moe_ray.engines.transformers.forward import left_padded, optional_arguments
from moe_ray.engines.transformers.loading import LoadedModel
from moe_ray.engines.transformers.logprobs import score_prompts, token_logprobs
from moe_ray.engines.transformers.rows import DecodeRow, DrawnRow, next_tokens, undrawn

GATE_DECISION = "gating_probs"


class BatchState:
    """The tensors of the rows that are still running: tokens so far, their mask and positions, the cache.

    A mixture with a gate that reads the prompt returns its decision, and is given it again at each later step.
    """

    def __init__(self, loaded: LoadedModel, token_ids: Sequence[Sequence[int]]) -> None:
        self._loaded = loaded
        self._input_ids_BT, self._mask_BT = left_padded(token_ids, loaded)
        self._cache: Any = None
        self._decided: dict[str, torch.Tensor] = {}

    def forward(self) -> torch.Tensor:
        """Read the tokens that are not in the cache yet; return the next token's float32 logits, (B, V)."""
        is_first = self._cache is None
        arguments = {
            "input_ids": self._input_ids_BT,
            "past_key_values": self._cache,
            "attention_mask": self._mask_BT,
            "use_cache": True,
            **optional_arguments(self._loaded, self._mask_BT, num_logits=1),
            **self._loaded.forward_choice,
            **self._decided,
        }
        inputs = self._loaded.model.prepare_inputs_for_generation(
            next_sequence_length=None if is_first else 1, is_first_iteration=is_first, **arguments
        )
        outputs = self._loaded.model(**inputs, return_dict=True)
        self._cache = outputs.past_key_values
        # An expert that answers alone needs no decision.
        if GATE_DECISION in self._loaded.forward_arguments and outputs.get(GATE_DECISION) is not None:
            self._decided = {GATE_DECISION: outputs[GATE_DECISION]}
        logits_BV: torch.Tensor = outputs.logits[:, -1].float()
        return logits_BV

    def advance(self, tokens: Sequence[int], running: Sequence[int]) -> None:
        """Append each row's token, and keep only the rows at the indices `running`."""
        next_B1 = torch.tensor(tokens, device=self._loaded.device).unsqueeze(-1)
        self._input_ids_BT = torch.cat([self._input_ids_BT, next_B1], dim=-1)
        self._mask_BT = torch.cat([self._mask_BT, torch.ones_like(next_B1)], dim=-1)
        if len(running) < len(tokens):
            self.keep(running)

    def keep(self, running: Sequence[int]) -> None:
        """Keep only the rows at the indices `running`."""
        kept = torch.tensor(running, device=self._loaded.device)
        self._input_ids_BT, self._mask_BT = self._input_ids_BT[kept], self._mask_BT[kept]
        self._cache.reorder_cache(kept)
        self._decided = {name: rows[kept] for name, rows in self._decided.items()}

    @property
    def can_be_joined(self) -> bool:
        """Whether rows with a cache of another length can be added to these."""
        return is_resizable(self._cache)

    def trim(self) -> None:
        """Drop the columns in front that are padding in all rows."""
        num_tokens = int(self._mask_BT.sum(dim=-1).max())
        if num_tokens < self._mask_BT.shape[1]:
            self._resize(num_tokens)

    def join(self, other: "BatchState") -> None:
        """Add the rows of `other` behind these, padded on the left to one length. `other` is used up."""
        num_tokens = max(self._mask_BT.shape[1], other._mask_BT.shape[1])
        self._resize(num_tokens)
        other._resize(num_tokens)
        self._input_ids_BT = torch.cat([self._input_ids_BT, other._input_ids_BT])
        self._mask_BT = torch.cat([self._mask_BT, other._mask_BT])
        append_rows(self._cache, other._cache)
        self._decided = {name: torch.cat([rows, other._decided[name]]) for name, rows in self._decided.items()}

    def decided(self, index: int) -> dict[str, torch.Tensor]:
        """Return what a gate decided for the row at `index`."""
        return {name: rows[index : index + 1] for name, rows in self._decided.items()}

    def decide(self, decided: dict[str, torch.Tensor]) -> None:
        """Begin with what a gate decided before."""
        self._decided = decided

    def _resize(self, num_tokens: int) -> None:
        num_more = num_tokens - self._mask_BT.shape[1]
        # A negative number cuts.
        self._input_ids_BT = functional.pad(self._input_ids_BT, (num_more, 0), value=self._loaded.pad_token_id)
        self._mask_BT = functional.pad(self._mask_BT, (num_more, 0))
        # The last token is not in the cache yet.
        resize(self._cache, num_tokens - 1)


@torch.inference_mode()
def decode_batch(loaded: LoadedModel, rows: Sequence[DecodeRow]) -> list[DrawnRow]:
    """Decode `rows` together and return them in their order, each with its own times."""
    start_s = time.perf_counter()
    drawn = [undrawn(row, loaded) for row in rows]
    score_prompts(loaded, drawn)
    state = BatchState(loaded, [row.token_ids for row in rows])
    live = drawn
    while live:
        # Token ids reach the host here, so that a GPU has done its work whenever the clock is read.
        logits_BV = state.forward()
        tokens = next_tokens(logits_BV, live)
        logprobs = token_logprobs(loaded, logits_BV, live, tokens)
        elapsed_s = time.perf_counter() - start_s
        for row, token, logprob in zip(live, tokens, logprobs, strict=True):
            row.take(token, elapsed_s, logprob)
        running = [index for index, row in enumerate(live) if row.finish_reason is None]
        live = [live[index] for index in running]
        if live:
            state.advance(tokens, running)
    return drawn


def is_resizable(cache: Any) -> bool:
    """Say whether all layers of `cache` are plain keys and values, of all positions or of a sliding window."""
    return type(cache) is DynamicCache and all(
        type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers
    )


def resize(cache: Any, num_tokens: int) -> None:
    """Make `cache` as if all its rows had `num_tokens` tokens: pad on the left with zeros, or cut there."""
    for layer in cache.layers:
        if not layer.is_initialized:
            continue
        num_kept = num_tokens
        if layer.is_sliding:
            num_kept = min(num_tokens, layer.sliding_window - 1)
            layer.cumulative_length = num_tokens
        num_more = num_kept - layer.keys.shape[-2]
        if num_more:
            layer.keys = functional.pad(layer.keys, (0, 0, num_more, 0))
            layer.values = functional.pad(layer.values, (0, 0, num_more, 0))


def append_rows(cache: Any, other: Any) -> None:
    """Add the rows of `other`, a cache of the same length, behind those of `cache`."""
    for layer, added in zip(cache.layers, other.layers, strict=True):
        if layer.is_initialized:
            layer.keys = torch.cat([layer.keys, added.keys])
            layer.values = torch.cat([layer.values, added.values])
