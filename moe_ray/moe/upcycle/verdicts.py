"""Which layers of a mixture stay converted: each is tested alone, then all that passed together."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from moe_ray.moe.records import LayerVerdict
from moe_ray.moe.running import TokenBatch
from moe_ray.moe.upcycle.checks import Agreement, output_differences, replaced_agreements, whole_agreement
from moe_ray.moe.upcycle.request import Limits

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
