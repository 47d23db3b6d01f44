"""A gated mixture with its gate set to one expert, against that expert's own checkpoint."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from moe_ray.moe.records import ExactnessRecord
from moe_ray.moe.running import TokenBatch, load_for_construction, load_tokenizer, logits_of, token_batches
from moe_ray.moe.texts import built_in_texts
from moe_ray.moe.upcycle.checks import compare_models

MAX_TEXT_TOKENS = 64


def merged_exactness(
    directory: Path, sources: Mapping[str, Path], *, texts: Sequence[str] = (), device: str = "cpu"
) -> list[ExactnessRecord]:
    """Compare the mixture in `directory`, one expert at a time, with the sources by expert's name, in float32.

    `texts` default to a few built-in ones. Two models are in memory at a time. Raises `ModelError` for what cannot be
    loaded.
    """
    mixture = load_for_construction(directory, device=device)
    batches = token_batches(
        load_tokenizer(directory),
        texts or built_in_texts().texts,
        vocabulary_size=int(mixture.config.get_text_config().vocab_size),
        max_text_tokens=MAX_TEXT_TOKENS,
    )
    reload_equal = _equal(mixture, load_for_construction(directory, device=device), batches)
    return [
        _record(name, load_for_construction(path, device=device), OneExpert(mixture, name), batches, reload_equal)
        for name, path in sources.items()
    ]


class OneExpert:
    """A mixture that answers with one expert alone, to be called as a model."""

    def __init__(self, mixture: Any, expert: str | int) -> None:
        self._mixture, self._expert = mixture, expert
        self.device = mixture.device

    def __call__(self, **inputs: Any) -> Any:
        return self._mixture(forced_expert=self._expert, **inputs)


def _record(
    name: str, dense: Any, mixture: OneExpert, batches: Sequence[TokenBatch], reload_equal: bool
) -> ExactnessRecord:
    agreement = compare_models(dense, mixture, batches)
    return ExactnessRecord(
        against=name,
        num_tokens=agreement.num_tokens,
        max_logit_difference=agreement.max_difference,
        greedy_agreement=agreement.greedy_agreement,
        reload_equal=reload_equal,
    )


def _equal(one: Any, other: Any, batches: Sequence[TokenBatch]) -> bool:
    with torch.inference_mode():
        return all(torch.equal(logits_of(one, batch), logits_of(other, batch)) for batch in batches)
