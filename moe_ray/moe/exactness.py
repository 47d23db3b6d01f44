"""Compare the logits of two models: a mixture and its dense model, or a single expert and its own checkpoint.

Shapes: B texts, T tokens, V the vocabulary.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from moe_ray.device import visible_device
from moe_ray.engines.transformers.loading import context_length
from moe_ray.moe.certificate import ExactnessRecord
from moe_ray.moe.running import (
    TokenBatch,
    built_in_texts,
    load_for_construction,
    load_tokenizer,
    logits_of,
    token_batches,
)

MAX_EXPONENT = 700.0  # of e in a float


class Agreement:
    """Agreement of two models' float32 logits over the same tokens, accumulated over batches.

    KL divergence is from the first model (the reference) to the second, a mean over tokens in nats. Perplexities are
    of the texts' own next tokens.
    """

    def __init__(self) -> None:
        self.num_tokens = 0
        self.max_difference = 0.0
        self._largest = 0.0
        self._num_predicted = 0
        self._num_agreed = 0
        self._kl = 0.0
        self._extra_nll = 0.0

    def add(self, reference: torch.Tensor, other: torch.Tensor, batch: TokenBatch) -> None:
        """Add logits [B, T, V] of both models."""
        counted = batch.attention_mask.bool().to(reference.device)
        here, there = reference[counted], other[counted]
        self.num_tokens += len(here)
        self._agree(here, there)
        first, second = here.log_softmax(dim=-1), there.log_softmax(dim=-1)
        self._kl += (first.exp() * (first - second)).sum().item()
        targets = _next_tokens(batch).to(reference.device)[counted]
        known = (targets >= 0).nonzero().squeeze(1)
        self._num_predicted += len(known)
        self._extra_nll += (first[known, targets[known]] - second[known, targets[known]]).sum().item()

    def _agree(self, here: torch.Tensor, there: torch.Tensor) -> None:
        difference = (here - there).abs().max().item()
        # NaN counts as infinite, because max() would ignore it.
        self.max_difference = max(self.max_difference, difference) if math.isfinite(difference) else math.inf
        self._largest = max(self._largest, here.abs().max().item())
        self._num_agreed += int((here.argmax(dim=-1) == there.argmax(dim=-1)).sum())

    def record(self, against: str, *, reload_equal: bool) -> ExactnessRecord:
        """Return the record for the certificate. `reload_equal`: the reloaded second model gives bit-equal logits."""
        return ExactnessRecord(
            against=against,
            num_tokens=self.num_tokens,
            max_logit_difference=self.max_difference,
            greedy_agreement=self.greedy_agreement,
            reload_equal=reload_equal,
        )

    @property
    def relative_difference(self) -> float:
        """The largest difference, relative to the reference's largest logit if that is above 1."""
        return self.max_difference / max(1.0, self._largest)

    @property
    def kl(self) -> float:
        return self._kl / self.num_tokens

    @property
    def perplexity_ratio(self) -> float:
        extra = self._extra_nll / self._num_predicted
        return math.exp(min(extra, MAX_EXPONENT)) if math.isfinite(extra) else math.inf

    @property
    def greedy_agreement(self) -> float:
        return self._num_agreed / self.num_tokens

    def measured(self) -> dict[str, float]:
        """Return the quantities that have limits, by name."""
        return {"kl": self.kl, "perplexity_ratio": self.perplexity_ratio, "agreement": self.greedy_agreement}


def _next_tokens(batch: TokenBatch) -> torch.Tensor:
    """Return the next token of each token [B, T]; -1 without one."""
    after = torch.full_like(batch.input_ids, -1)
    following = batch.attention_mask[:, 1:].bool()
    after[:, :-1] = torch.where(following, batch.input_ids[:, 1:], -1)
    return after


def compare_models(reference: Any, other: Any, batches: Sequence[TokenBatch]) -> Agreement:
    """Run both models over the batches."""
    agreement = Agreement()
    with torch.inference_mode():
        for batch in batches:
            agreement.add(logits_of(reference, batch), logits_of(other, batch).to(reference.device), batch)
    return agreement


def logits_sha256(model: Any, batches: Sequence[TokenBatch]) -> str:
    """Return the SHA-256 of a model's logits at all tokens except padding."""
    digest = hashlib.sha256()
    with torch.inference_mode():
        for batch in batches:
            logits = logits_of(model, batch).cpu()
            digest.update(logits[batch.attention_mask.bool()].numpy().tobytes())
    return digest.hexdigest()


MAX_TEXT_TOKENS = 64


class OneExpert:
    """A mixture of moe_ray's own class, restricted to the expert at `index`, with the interface of a model."""

    def __init__(self, mixture: Any, index: int) -> None:
        self._mixture, self._index = mixture, index
        self.device = mixture.device

    def __call__(self, **inputs: Any) -> Any:
        return self._mixture(forced_expert=self._index, **inputs)


def experts_exactness(directory: Path, checkpoints: Mapping[str, Path]) -> list[ExactnessRecord]:
    """Compare each expert of the mixture in `directory` with its checkpoint, by name, in float32 on built-in texts.

    Two models are in memory at a time. Raises `ModelError` if a model cannot be loaded.
    """
    device = visible_device()
    mixture = load_for_construction(directory, device=device)
    batches = token_batches(
        load_tokenizer(directory),
        built_in_texts().texts,
        vocabulary_size=int(mixture.config.get_text_config().vocab_size),
        max_text_tokens=min(MAX_TEXT_TOKENS, context_length(mixture.config) or MAX_TEXT_TOKENS),
    )
    again = logits_sha256(load_for_construction(directory, device=device), batches)
    reload_equal = logits_sha256(mixture, batches) == again
    indices = {name: index for index, name in enumerate(mixture.config.expert_names)}
    records = []
    for name, path in checkpoints.items():
        dense = load_for_construction(path, device=device)
        agreement = compare_models(dense, OneExpert(mixture, indices[name]), batches)
        records.append(agreement.record(name, reload_equal=reload_equal))
    return records
