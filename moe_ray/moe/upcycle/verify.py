"""Test a mixture against its dense model, layer by layer and as a whole.

Shapes: B texts, T tokens, V the vocabulary.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from moe_ray.moe.certificate import LayerVerdict
from moe_ray.moe.exactness import Agreement
from moe_ray.moe.running import TokenBatch, decoder_layers, logits_of, replaced_layers
from moe_ray.moe.upcycle.request import Limits


def output_differences(dense: Any, layers: Mapping[int, nn.Module], batches: Sequence[TokenBatch]) -> dict[int, float]:
    """Return the largest difference between the outputs of each layer and the dense layer that it replaces.

    Both get the dense model's hidden states. Relative to the largest value if that is above 1.
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
    """Return the agreement of the dense model with itself when a single layer is replaced, for each layer.

    Layers before the replaced one are computed once per batch; their outputs [B, T, H] are reused.
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
    """Record the output of each decoder layer."""
    with ExitStack() as stack:
        for at, layer in enumerate(decoder_layers(model)):
            handle = layer.register_forward_hook(lambda _, __, output, at=at: outputs.update({at: output}))
            stack.callback(handle.remove)
        yield


@contextmanager
def _replayed_outputs(model: nn.Module, outputs: Mapping[int, Any]) -> Iterator[None]:
    """Let decoder layers return `outputs` without computing anything."""
    replayed: list[Any] = [layer for at, layer in enumerate(decoder_layers(model)) if at in outputs]
    for layer, output in zip(replayed, outputs.values(), strict=True):
        layer.forward = lambda *_, output=output, **__: output
    try:
        yield
    finally:
        for layer in replayed:
            del layer.forward


def whole_agreement(dense: Any, layers: Mapping[int, nn.Module], batches: Sequence[TokenBatch]) -> Agreement:
    """Return the agreement of the dense model with itself when all `layers` are replaced."""
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
    """Results of the layer tests: measurements, and reasons for failed layers."""

    limits: Limits
    measured: dict[int, dict[str, float]] = field(default_factory=dict)
    reasons: dict[int, str] = field(default_factory=dict)

    @property
    def passed(self) -> list[int]:
        return [layer for layer in sorted(self.measured) if layer not in self.reasons]

    def note(self, layer: int, measured: Mapping[str, float], limits: Mapping[str, float]) -> None:
        """Add measurements of a layer; the first broken limit becomes its reason."""
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

    Returns the agreement of the dense model with itself when a single layer is replaced, for each layer.
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
    """Test the actual layers, each alone, then together those that passed.

    `alone` has agreements of single layers that are known already. While the layers break a limit together, the one
    with the largest KL divergence is reverted too. Returns the agreement of the dense model with the remaining
    mixture; None if no layer remains.
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
