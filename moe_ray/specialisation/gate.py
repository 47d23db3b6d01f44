"""Traces of routers that decide once for a whole text: the gate of a merged mixture, and a run's query router.

The unit is the text. `selected` counts the most probable expert, also where all experts are mixed; `mass` holds the
probabilities.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from moe_ray.arrays import FloatArray
from moe_ray.engines.transformers.loading import LoadedModel
from moe_ray.specialisation.information import entropy
from moe_ray.specialisation.records import SUMS, TracedLayer
from moe_ray.specialisation.tokens import EncodedText
from moe_ray.specialisation.writing import LayerSums, TextTrace


def gate_layer(model: Any) -> TracedLayer:
    """Return the record of a merged mixture's gate."""
    return TracedLayer(
        layer=0, module="gating_network", num_experts=model.config.num_experts, top_k=1, scores="probabilities"
    )


def trace_gate(loaded: LoadedModel, texts: Sequence[EncodedText]) -> Iterator[TextTrace]:
    """Yield what the gate of a merged mixture decides for each text, of which it reads all tokens."""
    for text in texts:
        ids = torch.tensor([text.token_ids], device=loaded.device)
        with torch.inference_mode():
            probs = loaded.model.get_gating_probs(ids, torch.ones_like(ids))[0]
        yield TextTrace(
            text_id=text.source.text_id,
            label=text.source.label,
            num_tokens=1,
            num_masked=0,
            layers=(decision(probs.double().cpu().numpy()),),
        )


def decision(probs: FloatArray) -> LayerSums:
    """Return the sums of one decision with the probabilities `probs` [E]."""
    ordered = np.sort(probs)[::-1]
    margin = ordered[0] - ordered[1] if len(ordered) > 1 else np.nan
    found = {"entropy": float(entropy(probs)), "weight_entropy": 0.0, "set_margin": margin, "top_margin": margin}
    values = np.array([{**found, "top_probability": ordered[0]}[name] for name in SUMS])
    selected = np.zeros(len(probs))
    selected[int(np.argmax(probs))] = 1
    return LayerSums(selected=selected, mass=np.asarray(probs, dtype=np.float64), sums=values, squares=values**2)
