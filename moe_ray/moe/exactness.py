"""A mixture that answers with one expert alone, held against that expert's own checkpoint."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moe_ray.engines.transformers.model_facts import context_length
from moe_ray.moe.records import ExactnessRecord
from moe_ray.moe.running import load_for_construction, load_tokenizer, token_batches
from moe_ray.moe.texts import built_in_texts
from moe_ray.moe.upcycle.checks import compare_models, logits_sha256
from moe_ray.routing.device import visible_device

MAX_TEXT_TOKENS = 64


class OneExpert:
    """A mixture of an own class that answers with the expert at `place` alone, to be called as a model."""

    def __init__(self, mixture: Any, place: int) -> None:
        self._mixture, self._place = mixture, place
        self.device = mixture.device

    def __call__(self, **inputs: Any) -> Any:
        return self._mixture(forced_expert=self._place, **inputs)


def experts_exactness(directory: Path, checkpoints: Mapping[str, Path]) -> list[ExactnessRecord]:
    """Compare the mixture in `directory`, one expert at a time, with the checkpoints by expert's name, in float32.

    The texts are a few built-in ones. Two models are in memory at a time. Raises `ModelError` for what cannot be
    loaded.
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
    places = {name: place for place, name in enumerate(mixture.config.expert_names)}
    records = []
    for name, path in checkpoints.items():
        dense = load_for_construction(path, device=device)
        agreement = compare_models(dense, OneExpert(mixture, places[name]), batches)
        records.append(agreement.record(name, reload_equal=reload_equal))
    return records
