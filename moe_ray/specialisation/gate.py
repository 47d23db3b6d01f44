"""The gate of a merged mixture, which decides once for a whole text, as a trace."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from moe_ray.engines.transformers.loading import LoadedModel
from moe_ray.mixtures.layers import TracedLayer
from moe_ray.specialisation.decisions import decision
from moe_ray.specialisation.tokens import EncodedText
from moe_ray.specialisation.writing import TextTrace


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
