"""Compare a mixture with its dense model, per layer and as a whole.

Shapes: B texts, T tokens, V the vocabulary.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from moe_ray.moe.records import ExactnessRecord, LayerVerdict
from moe_ray.moe.running import TokenBatch, decoder_layers, logits_of, replaced_layers
from moe_ray.moe.upcycle.request import Limits

MAX_EXPONENT = 700.0  # of e in a float


class Agreement:
    """What two models' logits over the same tokens have in common, added up batch by batch in float32.

    KL divergence is that of the second from the first (the reference), a mean over tokens in nats. Perplexities are of
    the texts' own next tokens.
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
        # A difference that is no number is no agreement, and max() would pass over it.
        self.max_difference = max(self.max_difference, difference) if math.isfinite(difference) else math.inf
        self._largest = max(self._largest, here.abs().max().item())
        self._num_agreed += int((here.argmax(dim=-1) == there.argmax(dim=-1)).sum())

    def record(self, against: str, *, reload_equal: bool) -> ExactnessRecord:
        """What a certificate says of it. `reload_equal`: the second model, loaded again, gives bit-equal logits."""
        return ExactnessRecord(
            against=against,
            num_tokens=self.num_tokens,
            max_logit_difference=self.max_difference,
            greedy_agreement=self.greedy_agreement,
            reload_equal=reload_equal,
        )

    @property
    def relative_difference(self) -> float:
        """The largest difference, relative to the largest logit of the reference where that is above 1."""
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
        """Return the quantities that limits are set for, by name."""
        return {"kl": self.kl, "perplexity_ratio": self.perplexity_ratio, "agreement": self.greedy_agreement}


def _next_tokens(batch: TokenBatch) -> torch.Tensor:
    """The token after each one [B, T]; -1 where there is none."""
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
    """Return the SHA-256 of a model's logits at every token that is no padding."""
    digest = hashlib.sha256()
    with torch.inference_mode():
        for batch in batches:
            logits = logits_of(model, batch).cpu()
            digest.update(logits[batch.attention_mask.bool()].numpy().tobytes())
    return digest.hexdigest()


def output_differences(dense: Any, layers: Mapping[int, nn.Module], batches: Sequence[TokenBatch]) -> dict[int, float]:
    """Return the largest difference of each layer's output from the dense layer's whose place it takes.

    Both see the dense model's own hidden states. Relative to the largest value where that is above 1.
    """
    outputs = {layer: _OutputDifference(module) for layer, module in layers.items()}
    with torch.inference_mode(), ExitStack() as stack:
        own = decoder_layers(dense)
        for layer, difference in outputs.items():
            handle = own[layer].register_forward_hook(difference.compare, with_kwargs=True)
            stack.callback(handle.remove)
        for batch in batches:
            for difference in outputs.values():
                difference.counted = batch.attention_mask.bool().to(dense.device)
            logits_of(dense, batch)
    return {layer: difference.relative for layer, difference in outputs.items()}


class _OutputDifference:
    """The largest difference between a dense layer's output and another layer's on the same arguments."""

    def __init__(self, other: nn.Module) -> None:
        self._other = other
        self._difference = 0.0
        self._largest = 0.0
        self.counted = torch.empty(0)

    def compare(self, _: nn.Module, arguments: Any, keywords: Any, output: Any) -> None:
        here = _hidden(output)[self.counted]
        there = _hidden(self._other(*arguments, **keywords))[self.counted]
        difference = (here - there).abs().max().item()
        self._difference = max(self._difference, difference) if math.isfinite(difference) else math.inf
        self._largest = max(self._largest, here.abs().max().item())

    @property
    def relative(self) -> float:
        return self._difference / max(1.0, self._largest)


def _hidden(output: Any) -> torch.Tensor:
    hidden: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return hidden


def replaced_agreements(
    dense: Any, layers: Mapping[int, nn.Module], batches: Sequence[TokenBatch]
) -> dict[int, Agreement]:
    """Return how the dense model agrees with itself when one of its layers is replaced, for each layer alone.

    What stands before the replaced layer is computed once: its outputs [B, T, H] are kept for the batch at hand.
    """
    agreements = {layer: Agreement() for layer in layers}
    with torch.inference_mode():
        for batch in batches:
            outputs: dict[int, Any] = {}
            with _recorded_outputs(dense, outputs):
                reference = logits_of(dense, batch)
            for layer, agreement in agreements.items():
                before = {at: output for at, output in outputs.items() if at < layer}
                with replaced_layers(dense, {layer: layers[layer]}), _replayed_outputs(dense, before):
                    agreement.add(reference, logits_of(dense, batch), batch)
    return agreements


@contextmanager
def _recorded_outputs(model: nn.Module, outputs: dict[int, Any]) -> Iterator[None]:
    """Keep what each decoder layer gives."""
    with ExitStack() as stack:
        for at, layer in enumerate(decoder_layers(model)):
            handle = layer.register_forward_hook(lambda _, __, output, at=at: outputs.update({at: output}))
            stack.callback(handle.remove)
        yield


@contextmanager
def _replayed_outputs(model: nn.Module, outputs: Mapping[int, Any]) -> Iterator[None]:
    """Let decoder layers give `outputs` again, whatever they are given, without computing anything."""
    replayed: list[Any] = [layer for at, layer in enumerate(decoder_layers(model)) if at in outputs]
    for layer, output in zip(replayed, outputs.values(), strict=True):
        layer.forward = lambda *_, output=output, **__: output
    try:
        yield
    finally:
        for layer in replayed:
            del layer.forward


def whole_agreement(dense: Any, layers: Mapping[int, nn.Module], batches: Sequence[TokenBatch]) -> Agreement:
    """Return how the dense model agrees with itself when all these layers are replaced at once."""
    agreement = Agreement()
    with torch.inference_mode():
        for batch in batches:
            reference = logits_of(dense, batch)
            with replaced_layers(dense, layers):
                agreement.add(reference, logits_of(dense, batch), batch)
    return agreement


MIN_NAMED = ("agreement",)


@dataclass(slots=True)
class LayerTests:
    """The tests of all layers while they run: what was measured, and why a layer fell."""

    limits: Limits
    measured: dict[int, dict[str, float]] = field(default_factory=dict)
    reasons: dict[int, str] = field(default_factory=dict)

    @property
    def passed(self) -> list[int]:
        return [layer for layer in sorted(self.measured) if layer not in self.reasons]

    def note(self, layer: int, measured: Mapping[str, float], limits: Mapping[str, float]) -> None:
        """Add what was measured of a layer; the first limit that it breaks is its reason."""
        self.measured.setdefault(layer, {}).update(measured)
        reason = broken_limit(measured, limits)
        if reason is not None:
            self.reasons.setdefault(layer, reason)

    def verdicts(self, num_layers: int) -> list[LayerVerdict]:
        """Return one verdict for each layer of the model."""
        return [self._verdict(layer) for layer in range(num_layers)]

    def _verdict(self, layer: int) -> LayerVerdict:
        if layer not in self.measured:
            return LayerVerdict(layer=layer, state="dense")
        measured = self.measured[layer]
        limits = {
            name: value for name, value in (self.limits.exact() | self.limits.drift()).items() if name in measured
        }
        reason = self.reasons.get(layer)
        return LayerVerdict(
            layer=layer,
            state="converted" if reason is None else "reverted",
            reason=reason,
            measured=measured,
            limits=limits,
        )


def broken_limit(measured: Mapping[str, float], limits: Mapping[str, float]) -> str | None:
    """Return the first limit that is broken, in words with both numbers; None where all hold."""
    for name, limit in limits.items():
        value = measured[name]
        at_least = name in MIN_NAMED
        holds = value >= limit if at_least else value <= limit
        if not holds or math.isnan(value):
            return f"{name} {value:.3g} is {'below' if at_least else 'above'} {limit:.3g}"
    return None


def examine_exactness(
    tests: LayerTests, dense: Any, layers: Mapping[int, nn.Module], batches: Sequence[TokenBatch]
) -> dict[int, Agreement]:
    """Test layers of identical experts, each alone, against the dense model.

    Returns how the dense model agrees with itself when a layer is replaced, for each layer alone.
    """
    differences = output_differences(dense, layers, batches)
    alone = replaced_agreements(dense, layers, batches)
    for layer, agreement in alone.items():
        measured = {
            "exact_layer_difference": differences[layer],
            "exact_logit_difference": agreement.relative_difference,
        }
        tests.note(layer, measured, tests.limits.exact())
    return alone


def examine_drift(
    tests: LayerTests,
    dense: Any,
    layers: Mapping[int, nn.Module],
    batches: Sequence[TokenBatch],
    alone: Mapping[int, Agreement] | None = None,
) -> Agreement | None:
    """Test the layers as they are, each alone, then those that passed together.

    `alone` is what is known of each alone already. As long as they break a limit together, the one that moved the
    distribution most is reverted too. Returns how the dense model agrees with the mixture of what is left; None where
    nothing is.
    """
    chosen = {layer: module for layer, module in layers.items() if layer not in tests.reasons}
    known = replaced_agreements(dense, chosen, batches) if alone is None else alone
    for layer in chosen:
        tests.note(layer, known[layer].measured(), tests.limits.drift())
    return _test_together(tests, lambda left: whole_agreement(dense, {at: layers[at] for at in left}, batches))


def _test_together(tests: LayerTests, measure: Callable[[Sequence[int]], Agreement]) -> Agreement | None:
    while tests.passed:
        agreement = measure(tests.passed)
        reason = broken_limit(agreement.measured(), tests.limits.drift())
        if reason is None:
            return agreement
        worst = max(tests.passed, key=lambda layer: tests.measured[layer]["kl"])
        tests.reasons[worst] = f"of the layers that passed alone it moved the most, and together their {reason}"
    return None
