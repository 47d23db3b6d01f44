"""Continuous batching over transformers' paged cache: a waiting row takes the place of a finished one at once.

transformers schedules the rows and runs the model, in a thread of its own; each token is handed to `_Answers` in that
same thread, before the next step is scheduled. So a row that has spelled a stop string leaves at a step that follows
from the tokens alone, never from the clock, and the same rows go through the same steps whenever they are run.

Rows are greedy: transformers draws all rows from one generator, but here each sample follows from its own seed.
"""

import gc
import logging
import math
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import transformers
from transformers.generation import ContinuousBatchingConfig
from transformers.generation.continuous_batching.cache import group_layers_by_attn_type
from transformers.generation.continuous_batching.continuous_api import OutputRouter
from transformers.utils import is_flash_attn_2_available, is_flash_attn_3_available

from moe_ray.config.schema import ModelConfig
from moe_ray.engines.base import BatchLimits
from moe_ray.engines.settings import TransformersSettings
from moe_ray.engines.transformers.batching import is_out_of_memory
from moe_ray.engines.transformers.loading import LoadedModel
from moe_ray.engines.transformers.rows import NO_TOKEN, DecodeRow, DrawnRow, undrawn
from moe_ray.errors import ModelError, first_line

# Flash attention's paged kernels want pages of a multiple of 256 tokens.
PAGE_TOKENS = 256
# Tokens of one step, prompts included. Without flash attention each of them has a mask over the whole cache.
FLASH_STEP_TOKENS = 8192
MASKED_STEP_TOKENS = 512
MASKED_ATTENTIONS = ("sdpa", "paged|eager")
UNDER_INTERVENTION = "an intervention is not applied in recorded (CUDA graph) steps"
HALF_PRECISION = (torch.float16, torch.bfloat16)


def choose_continuous(
    config: ModelConfig, settings: TransformersSettings, loaded: LoadedModel, limits: BatchLimits
) -> "ContinuousDecoder | None":
    """Return the decoder of the model's greedy rows, or None where the engine's own loop decodes them too.

    auto means continuous on a GPU with flash attention; with any other attention each step reads all rows' keys for
    each row. Raises `ModelError` when continuous was asked for by name and the model cannot.
    """
    if settings.batching == "static":
        return None
    attention = _paged_attention(loaded, settings)
    obstacle = UNDER_INTERVENTION if settings.intervention else _obstacle(loaded, attention)
    if settings.batching == "auto" and (obstacle or loaded.device.type != "cuda" or not _is_flash(attention)):
        return None
    if obstacle:
        raise ModelError(
            f"batching continuous: {obstacle}",
            where=f"model {config.path}",
            remedy="set engine_settings.batching to auto, or to static",
        )
    return ContinuousDecoder(loaded, attention, limits)


def _paged_attention(loaded: LoadedModel, settings: TransformersSettings) -> str:
    """Return the attention for paged rows: the model's own, or flash attention where none was named and it is here."""
    model = loaded.model
    own: str = model.config._attn_implementation
    can_flash = loaded.device.type == "cuda" and model._supports_flash_attn and model.dtype in HALF_PRECISION
    if settings.attention is None and not _is_flash(own) and can_flash:
        if is_flash_attn_3_available():
            return "flash_attention_3"
        if is_flash_attn_2_available():
            return "flash_attention_2"
    return "paged|eager" if own == "eager" else own


def _is_flash(attention: str) -> bool:
    return "flash" in attention


def _obstacle(loaded: LoadedModel, attention: str) -> str | None:
    """Say why this model cannot run over a paged cache; None when it can.

    Architectures that do not hand the cache down to their attention would answer without an error, and wrongly.
    """
    model = loaded.model
    config = model.config.get_text_config(decoder=True)
    if loaded.forward_choice:
        return "it does not pass on the settings expert and mode"
    if not model._supports_attention_backend:
        return f"{type(model).__name__} does not take a paged cache"
    if attention not in MASKED_ATTENTIONS and not _is_flash(attention):
        return f"attention {attention} has no paged form"
    if len({parameter.device for parameter in model.parameters()}) > 1:
        return "the model lies on several devices"
    if loaded.rope_switch_length is not None:
        return "its positions depend on the longest row of a batch"
    if getattr(config, "attn_logit_softcapping", None) and not _is_flash(attention):
        return f"{attention} attention over a paged cache leaves out its logit softcapping"
    try:
        group_layers_by_attn_type(config)
    except ValueError as error:
        return f"its layers have another cache than keys and values ({error})"
    return None


class _Answers(OutputRouter):  # type: ignore[misc]
    """Takes each token as it comes, in the thread that makes them, and has rows cancelled that are done by our rules.

    An error of the loop is kept for the thread that waits.
    """

    def __init__(self) -> None:
        super().__init__()
        self.error: Exception | None = None
        self._rows: dict[str, DrawnRow] = {}
        self._manager: Any = None
        self._start_s = 0.0

    def begin(self, rows: dict[str, DrawnRow], manager: Any, start_s: float) -> None:
        """Expect tokens of `rows`, by request id, until the next call."""
        self.error, self._rows, self._manager, self._start_s = None, rows, manager, start_s

    def deliver(self, output: Any) -> None:
        row = self._rows[output.request_id]
        # A step that was under way when the row was cancelled may still bring a token.
        if row.finish_reason is None:
            self._take(row, output)

    def _take(self, row: DrawnRow, output: Any) -> None:
        elapsed_s = time.perf_counter() - self._start_s
        num_known = len(row.token_ids)
        for token, logprob in zip(output.generated_tokens[num_known:], output.logprobs[num_known:], strict=True):
            # Logits that are not finite have no likeliest token.
            row.take(token if math.isfinite(logprob) else NO_TOKEN, elapsed_s)
        if row.finish_reason is not None and not output.is_finished():
            self._manager.cancel_request(output.request_id)

    def deliver_batch(self, outputs: Sequence[Any]) -> None:
        for output in outputs:
            self.deliver(output)

    def fail_and_deliver(self, state: Any, error: Exception) -> None:  # noqa: ARG002 - all rows fail together
        self.error = self.error or error


class _CacheSize(NamedTuple):
    """Rows that may run at once, and blocks of the paged cache: `PAGE_TOKENS` tokens in all layers each."""

    max_rows: int
    num_blocks: int

    def serves(self, other: "_CacheSize") -> bool:
        """Say whether rows that ask for `other` go through the same steps in a cache of this size."""
        return self.max_rows == other.max_rows and self.num_blocks >= other.num_blocks


class ContinuousDecoder:
    """Decodes greedy rows of one model over a paged cache, which is kept between calls, as large as was needed yet."""

    def __init__(self, loaded: LoadedModel, attention: str, limits: BatchLimits) -> None:
        self.attention = attention
        self._loaded = loaded
        self._limits = limits
        self._answers = _Answers()
        self._size = _CacheSize(max_rows=0, num_blocks=0)
        config = loaded.model.config.get_text_config(decoder=True)
        self._num_layers = [len(layers) for layers in group_layers_by_attn_type(config).values()]
        # It would print what is raised here anyway.
        logging.getLogger("ContinuousBatchingLogger").setLevel(logging.CRITICAL)

    def decode(self, rows: Sequence[DecodeRow]) -> list[DrawnRow]:
        """Decode `rows`, as many at once as the limits allow, and return them in their order, each with its own times.

        Times count from the start of this call, and so hold the wait for a place. Out of memory is raised as it came.
        """
        start_s = time.perf_counter()
        drawn = {str(place): undrawn(row, self._loaded) for place, row in enumerate(rows)}
        own_attention = self._loaded.model.config._attn_implementation
        self._use_attention(self.attention)
        try:
            self._run(drawn, start_s)
        except BaseException:
            self._drop_cache()
            raise
        finally:
            self._use_attention(own_attention)
        return list(drawn.values())

    def rows_at_once(self, rows: Sequence[DecodeRow]) -> int:
        """Return how many of `rows` are decoded at once."""
        return min(len(rows), self._needed(rows).max_rows)

    def _run(self, drawn: dict[str, DrawnRow], start_s: float) -> None:
        manager = self._manager([row.row for row in drawn.values()])
        self._answers.begin(drawn, manager, start_s)
        # A kept manager takes requests once its last end is forgotten; they wait, so that the first step sees them all.
        manager.background_thread_status.clear()
        for name, row in sorted(drawn.items(), key=_longest_first):
            manager.add_request(
                list(row.row.token_ids),
                request_id=name,
                max_new_tokens=row.row.request.max_new_tokens,
                eos_token_id=sorted(row.end_token_ids),
                streaming=True,
            )
        manager.start()
        try:
            manager.stop(block=True, keep_for_next_session=True)
        except BaseException:
            manager.stop(block=True, hard_stop=True)
            raise
        error = self._answers.error or manager.background_thread_status.fatal_error
        if error is None:
            return
        if is_out_of_memory(error):
            raise error
        raise RuntimeError(f"continuous batching failed, batching: static avoids it: {first_line(error)}") from error

    def _manager(self, rows: Sequence[DecodeRow]) -> Any:
        """Return transformers' manager: the kept one, unless its cache does not serve these rows."""
        needed = self._needed(rows)
        if not self._size.serves(needed):
            self._drop_cache()
        manager = self._loaded.model.init_continuous_batching(
            generation_config=transformers.GenerationConfig(do_sample=False, eos_token_id=-1),
            continuous_batching_config=self._config(needed),
        )
        if not manager.warmed_up:
            manager.output_router = self._answers
            manager.warmup()
            self._size = needed
        return manager

    def _config(self, size: _CacheSize) -> Any:
        num_step_tokens = FLASH_STEP_TOKENS if _is_flash(self.attention) else MASKED_STEP_TOKENS
        return ContinuousBatchingConfig(
            page_size=PAGE_TOKENS,
            num_blocks=size.num_blocks,
            max_requests_per_batch=size.max_rows,
            max_batch_tokens=max(size.max_rows, num_step_tokens),
            # What a prompt finds in the cache would depend on the rows that were run before.
            allow_block_sharing=False,
            auto_switch_to_flash=False,
            # The products of bitsandbytes may wait for the device, which no graph can record.
            use_cuda_graph=False if getattr(self._loaded.model, "is_quantized", False) else None,
            # All rows that are let in fit to their ends.
            safety_margin=0.0,
            return_logprobs=True,
        )

    def _needed(self, rows: Sequence[DecodeRow]) -> _CacheSize:
        """Return the cache for as many rows of the longest's size as the limits allow, and for one at least."""
        longest = max(len(row.token_ids) + row.request.max_new_tokens for row in rows)
        blocks_of_row = math.ceil(longest / PAGE_TOKENS)
        # Each kind of layer takes its blocks by sectors, which blocks of both kinds divide; two sectors are never used.
        sector = math.ceil(math.lcm(*self._num_layers) / sum(self._num_layers))
        slack = sector * len(self._num_layers)
        most = self._limits.cache_memory_bytes // (PAGE_TOKENS * self._loaded.cache_bytes_per_token) - 2 * sector
        max_rows = max(1, min(self._limits.max_rows, (most - slack) // blocks_of_row))
        return _CacheSize(max_rows=max_rows, num_blocks=min(max_rows, len(rows)) * blocks_of_row + slack)

    def _drop_cache(self) -> None:
        self._loaded.model.destroy_cached_continuous_batching_manager()
        self._answers = _Answers()
        self._size = _CacheSize(max_rows=0, num_blocks=0)
        # An error that ended the loop and the loop's frames hold each other, and the cache.
        gc.collect()

    def _use_attention(self, name: str) -> None:
        model = self._loaded.model
        if model.config._attn_implementation != name:
            model.set_attn_implementation(name)


def _longest_first(named: tuple[str, DrawnRow]) -> tuple[object, ...]:
    """Order rows by what they are, never by where they stand, as batches are."""
    row = named[1].row
    return (-len(row.token_ids), row.request.id, row.request.seed, row.token_ids, row.request.max_new_tokens)
