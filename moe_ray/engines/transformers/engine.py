"""The transformers engine: any decoder-only checkpoint that transformers can load, on GPUs or the CPU."""

import math
import threading
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from moe_ray.config.schema import ModelConfig
from moe_ray.engines.base import (
    NEVER_RAN,
    BatchLimits,
    EngineMemory,
    GenerateRequest,
    Generation,
    Likelihood,
    LikelihoodRequest,
    Stream,
    Timing,
    failed_generation,
)
from moe_ray.engines.settings import TransformersSettings, parse_settings
from moe_ray.engines.streams import failed_stream
from moe_ray.engines.transformers.batching import MemoryRule, RowSize, group_batches, run_halving
from moe_ray.engines.transformers.continuous import choose_continuous
from moe_ray.engines.transformers.generation import GATE_DECISION, decode_batch
from moe_ray.engines.transformers.intervened import intervene
from moe_ray.engines.transformers.likelihood import ScoredRow, ScoringRow, score_batch, scoring_rows
from moe_ray.engines.transformers.loading import LoadedModel, load, loaded_bytes
from moe_ray.engines.transformers.mixture import MixtureFacts, mixture_facts
from moe_ray.engines.transformers.rows import DecodeRow, DrawnRow
from moe_ray.engines.transformers.streaming import StreamingDecoder, TurnLock
from moe_ray.prompts.encoder import EncodedPair, EncodedPrompt, PromptEncoder, RowError
from moe_ray.prompts.messages import Prompt
from moe_ray.prompts.reasoning import splitter_of

LOGITS_BYTES = 4
NOT_NUMBERS = "the model's logits are not numbers; dtype float32 or bfloat16 may fix it"


class TransformersEngine:
    """Implements `moe_ray.engines.base.StreamingEngine`.

    A generation's `token_ids` are the tokens drawn up to its end: no padding and no end-of-text token, but with the
    tokens that spelled a stop string, which `text` no longer holds, and with those of a reasoning trace. `text` is the
    answer after the trace, decoded without special tokens.
    """

    def __init__(self, model: ModelConfig, limits: BatchLimits) -> None:
        settings = parse_settings(TransformersSettings, model)
        self._loaded = load(model, settings)
        self._end_intervention = _intervene(self._loaded, settings, model)
        self._continuous = choose_continuous(model, settings, self._loaded, limits)
        self._encoder = PromptEncoder(self._loaded, model)
        self._splitter = splitter_of(model)
        self._limits = limits
        self._rule = MemoryRule(
            cache_bytes_per_token=self._loaded.cache_bytes_per_token,
            logits_bytes_per_position=self._loaded.vocabulary_size * LOGITS_BYTES,
        )
        self._turn = TurnLock()
        # A tokenizer may be changed while it encodes, and then refuses a second thread.
        self._encoding = threading.Lock()
        self._streaming = StreamingDecoder(
            self._loaded, limits, self._rule, self._splitter, self._turn, self._streamed_generation
        )

    def generate(self, requests: Sequence[GenerateRequest]) -> list[Generation]:
        """Draw a text for each request; see `Engine.generate`."""
        results: dict[int, Generation] = {}
        rows = []
        for index, request in enumerate(requests):
            try:
                rows.append(self._row(index, request))
            except RowError as error:
                results[index] = failed_generation(
                    error.reason, num_prompt_tokens=error.num_prompt_tokens, refused=True
                )
        waiting = [row for row in rows if self._continuous and _is_plain(row.request)]
        if waiting:
            results.update(run_halving(waiting, self._decode_continuously, _out_of_memory_generation))
        for batch in self._generation_batches([row for row in rows if row.index not in results]):
            results.update(run_halving(batch, self._decode, _out_of_memory_generation))
        return [results[index] for index in range(len(requests))]

    def submit(self, request: GenerateRequest) -> Stream:
        """Begin to answer `request`; see `StreamingEngine.submit`. Calls of `generate` take turns with its steps."""
        try:
            row = self._row(0, request)
        except RowError as error:
            return failed_stream(error.reason, num_prompt_tokens=error.num_prompt_tokens, refused=True)
        return self._streaming.submit(row)

    def loglikelihoods(self, requests: Sequence[LikelihoodRequest]) -> list[Likelihood]:
        """Measure each request's continuations; see `Engine.loglikelihoods`.

        Rows of one request may be in several batches: its `total_s` is their sum, its `batch_rows` their largest.
        """
        results: dict[int, Likelihood] = {}
        pairs: dict[int, EncodedPair] = {}
        for index, request in enumerate(requests):
            try:
                with self._encoding:
                    pairs[index] = self._encoder.encode_pair(request.prompt)
            except RowError as error:
                results[index] = _failed_likelihood(error.reason, error.num_prompt_tokens, NEVER_RAN)
        rows = [
            row
            for index, pair in pairs.items()
            for row in scoring_rows(index, requests[index].id, pair, longest_shared=self._loaded.rope_switch_length)
        ]
        scored: dict[int, list[ScoredRow]] = defaultdict(list)
        for batch in self._scoring_batches(rows):
            for one in run_halving(batch, self._score, _out_of_memory_score):
                scored[one.row.index].append(one)
        results.update({index: _likelihood(pair, scored[index]) for index, pair in pairs.items()})
        return [results[index] for index in range(len(requests))]

    def mixture(self) -> MixtureFacts:
        """Return what the model is a mixture of."""
        return mixture_facts(self._loaded.model.config.to_dict())

    @torch.inference_mode()
    def gate_probabilities(self, prompt: Prompt) -> list[float] | None:
        """Return what the gate of a merged mixture gives each expert for the whole prompt; None for other models.

        Raises `RowError` for a prompt that does not fit.
        """
        if GATE_DECISION not in self._loaded.forward_arguments:
            return None
        token_ids = self._encoder.encode(prompt, num_new_tokens=0).token_ids
        ids = torch.tensor([token_ids], device=self._loaded.device)
        probabilities: list[float] = self._loaded.model.get_gating_probs(ids)[0].tolist()
        return probabilities

    def token_ids(self, prompt: Prompt, *, add_special_tokens: bool = True) -> list[int]:
        """Return the tokens that the model reads for `prompt`; raises `RowError` for one that it cannot read."""
        with self._encoding:
            return self._encoder.token_ids(prompt, add_special_tokens=add_special_tokens)

    def tokenizer_facts(self) -> dict[str, Any]:
        """Return the tokenizer's class, special tokens and chat template."""
        tokenizer = self._loaded.tokenizer
        special = {name: str(token) for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)}
        return {"tokenizer_class": type(tokenizer).__name__, **special, "chat_template": tokenizer.chat_template}

    def memory(self) -> EngineMemory:
        """Return the bytes of parameters, scales and buffers, and torch's peaks summed over the GPUs of them."""
        devices = sorted({str(one.device) for one in self._loaded.model.parameters() if one.device.type == "cuda"})
        return EngineMemory(
            device=",".join(devices) or str(self._loaded.device),
            weights_bytes=loaded_bytes(self._loaded.model),
            batching=f"continuous, {self._continuous.attention}" if self._continuous else "static",
            peak_torch_bytes=sum(map(torch.cuda.max_memory_allocated, devices)) if devices else None,
            reserved_torch_bytes=sum(map(torch.cuda.max_memory_reserved, devices)) if devices else None,
        )

    def close(self) -> None:
        """End the open streams, and an intervention. Weights leave with the process."""
        self._streaming.close()
        self._end_intervention()

    def _row(self, index: int, request: GenerateRequest) -> DecodeRow:
        with self._encoding:
            asked = self._encoder.encode(request.prompt, request.max_new_tokens)
        return DecodeRow(
            index=index,
            token_ids=asked.token_ids,
            num_truncated=asked.num_truncated,
            request=request,
            opens_trace=asked.opens_trace,
            prompt_pieces=self._echoed(request.prompt, asked) if request.echo else (),
        )

    def _echoed(self, prompt: Prompt, asked: EncodedPrompt) -> tuple[str, ...]:
        if asked.num_truncated:
            raise RowError(
                f"{asked.num_truncated} tokens of the prompt do not fit the context, and an echoed prompt is not cut",
                len(asked.token_ids) + asked.num_truncated,
            )
        text = None if prompt.token_ids else self._encoder.text(prompt)
        return self._loaded.speller.pieces(asked.token_ids, text)

    def _generation_batches(self, rows: Sequence[DecodeRow]) -> list[list[DecodeRow]]:
        return group_batches(
            rows,
            size=lambda row: RowSize(
                num_prompt_tokens=len(row.token_ids), num_new_tokens=row.request.max_new_tokens, num_logits=1
            ),
            name=lambda row: (row.request.id, row.request.seed, row.token_ids, row.request.max_new_tokens),
            rule=self._rule,
            limits=self._limits,
            longest_shared=self._loaded.rope_switch_length,
        )

    def _scoring_batches(self, rows: Sequence[ScoringRow]) -> list[list[ScoringRow]]:
        keeps_few = "logits_to_keep" in self._loaded.forward_arguments
        return group_batches(
            rows,
            size=lambda row: RowSize(
                num_prompt_tokens=len(row.token_ids),
                num_new_tokens=0,
                num_logits=row.num_logits if keeps_few else len(row.token_ids),
            ),
            name=lambda row: (row.id, row.token_ids),
            rule=self._rule,
            limits=self._limits,
            longest_shared=self._loaded.rope_switch_length,
        )

    def _decode(self, rows: list[DecodeRow]) -> list[tuple[int, Generation]]:
        with self._turn:
            drawn = decode_batch(self._loaded, rows)
        return [(one.row.index, self._generation(one, batch_rows=len(rows))) for one in drawn]

    def _decode_continuously(self, rows: list[DecodeRow]) -> list[tuple[int, Generation]]:
        """Return the answers of all rows but those whose logits are no numbers.

        Those are left to batches of their own: under a mask, one such row spoils the rows beside it.
        """
        assert self._continuous is not None
        with self._turn:
            drawn = self._continuous.decode(rows)
        batch_rows = self._continuous.rows_at_once(rows)
        return [
            (one.row.index, self._generation(one, batch_rows=batch_rows))
            for one in drawn
            if one.finish_reason != "error"
        ]

    def _score(self, rows: list[ScoringRow]) -> list[ScoredRow]:
        with self._turn:
            return score_batch(self._loaded, rows)

    def _streamed_generation(self, drawn: DrawnRow, batch_rows: int) -> Generation:
        return self._generation(drawn, batch_rows=batch_rows)

    def _generation(self, drawn: DrawnRow, *, batch_rows: int) -> Generation:
        reason = drawn.finish_reason or "error"
        timing = Timing(batch_rows=batch_rows, time_to_first_token_s=drawn.time_to_first_token_s, total_s=drawn.total_s)
        if reason == "error" or any(one is not None and math.isnan(one.logprob) for one in drawn.prompt_logprobs):
            failed = failed_generation(NOT_NUMBERS, num_prompt_tokens=len(drawn.row.token_ids), timing=timing)
            return replace(failed, num_truncated_tokens=drawn.row.num_truncated)
        split = self._splitter.split(drawn.text, opened=drawn.row.opens_trace)
        return Generation(
            text=split.answer,
            token_ids=tuple(drawn.token_ids),
            finish_reason=reason,
            num_prompt_tokens=len(drawn.row.token_ids),
            num_truncated_tokens=drawn.row.num_truncated,
            timing=timing,
            reasoning=split.reasoning,
            num_reasoning_tokens=None if split.reasoning is None else num_tokens_of(drawn, split.num_trace_characters),
            logprobs=tuple(drawn.logprobs),
            prompt_logprobs=drawn.prompt_logprobs,
            prompt_text="".join(drawn.row.prompt_pieces),
        )


def _intervene(loaded: LoadedModel, settings: TransformersSettings, model: ModelConfig) -> Callable[[], None]:
    if settings.intervention is None:
        return lambda: None
    return intervene(loaded, settings.intervention, name=f"model {model.path}")


def _is_plain(request: GenerateRequest) -> bool:
    """Whether continuous batching answers it: it draws greedily, and gives no log-probabilities."""
    return request.temperature == 0 and request.num_logprobs is None


def num_tokens_of(drawn: DrawnRow, num_characters: int) -> int:
    """Return how many of the row's first tokens spell its first `num_characters`."""
    return bisect_left(
        range(len(drawn.token_ids)), num_characters, key=lambda number: len(drawn.decoded(drawn.token_ids[:number]))
    )


def _out_of_memory_generation(row: DecodeRow) -> tuple[int, Generation]:
    reason = f"out of memory with one row of {len(row.token_ids)} + {row.request.max_new_tokens} tokens"
    return row.index, failed_generation(reason, num_prompt_tokens=len(row.token_ids))


def _out_of_memory_score(row: ScoringRow) -> ScoredRow:
    reason = f"out of memory with one row of {len(row.token_ids)} tokens"
    return ScoredRow(row=row, loglikelihoods={}, batch_rows=1, total_s=0.0, error=reason)


def _likelihood(pair: EncodedPair, scored: Sequence[ScoredRow]) -> Likelihood:
    timing = Timing(
        batch_rows=max(one.batch_rows for one in scored),
        time_to_first_token_s=None,
        total_s=sum(one.total_s for one in scored),
    )
    error = next((one.error for one in scored if one.error), None)
    if error:
        return _failed_likelihood(error, len(pair.context.token_ids), timing)
    found = {place: value for one in scored for place, value in one.loglikelihoods.items()}
    if not all(math.isfinite(value) for value in found.values()):
        return _failed_likelihood(NOT_NUMBERS, len(pair.context.token_ids), timing)
    return Likelihood(
        loglikelihoods=tuple(found.get(place) for place in range(len(pair.continuations))),
        num_tokens=tuple(len(tokens) for tokens in pair.continuations),
        num_prompt_tokens=len(pair.context.token_ids),
        num_truncated_tokens=pair.context.num_truncated,
        timing=timing,
    )


def _failed_likelihood(reason: str, num_prompt_tokens: int, timing: Timing) -> Likelihood:
    return Likelihood(
        loglikelihoods=(), num_tokens=(), num_prompt_tokens=num_prompt_tokens, timing=timing, error=reason
    )
