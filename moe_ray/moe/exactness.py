"""A mixture that answers with one expert alone, held against that expert's own checkpoint."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from moe_ray.checkpoints.tensors import TensorReader
from moe_ray.device import visible_device
from moe_ray.engines.transformers.loading import context_length
from moe_ray.moe.agreement import compare_models, logits_sha256
from moe_ray.moe.records import ExactnessRecord, LayerVerdict, TensorOrigin
from moe_ray.moe.running import load_for_construction, load_tokenizer, token_batches
from moe_ray.moe.texts import built_in_texts

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


NUM_NAMED = 3
# Other machines and numbers of threads add up in another order.
RELATIVE_TOLERANCE = 0.05
ABSOLUTE_TOLERANCE = 1e-4
AGREEMENT_TOLERANCE = 0.01
GATE_TOLERANCE = 1e-3
GATE = "gate"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that a certificate says. `holds` is None where it cannot be checked; `detail` tells the difference."""

    what: str
    holds: bool | None
    detail: str = ""


def finding(what: str, wrong: Sequence[str], good: str) -> Finding:
    """Return the finding of a check that names what is wrong; `good` is said when nothing is."""
    if not wrong:
        return Finding(what=what, holds=True, detail=good)
    more = f" and {len(wrong) - NUM_NAMED} more" if len(wrong) > NUM_NAMED else ""
    return Finding(what=what, holds=False, detail="; ".join(wrong[:NUM_NAMED]) + more)


def compare_tensors(here: TensorReader, there: TensorReader, origins: Sequence[TensorOrigin]) -> Finding:
    """Hold a mixture's tensors against those of one that was built again, one at a time.

    Gates may differ by rounding, because those that were computed from texts do; all else is equal bit by bit.
    """
    wrong = []
    others = set(there.names())
    for origin in origins:
        if origin.tensor not in others:
            wrong.append(f"{origin.tensor} is not made any more")
            continue
        first, second = here.get(origin.tensor), there.get(origin.tensor)
        equal = _nearly_equal(first, second) if origin.how == GATE else torch.equal(first, second)
        if not equal or first.dtype != second.dtype:
            wrong.append(f"{origin.tensor} differs{_by(first, second)}")
    return finding("tensors", wrong, f"all {len(origins)} come out again")


def compare_copies(here: TensorReader, sources: Mapping[str, Path], origins: Sequence[TensorOrigin]) -> Finding:
    """Hold every tensor that is a source's own against that source, one at a time, bit by bit."""
    readers = {name: TensorReader(path) for name, path in sources.items()}
    wrong, num_held = [], 0
    for origin in origins:
        if origin.source is None or origin.source_tensor is None:
            continue
        num_held += 1
        first, second = here.get(origin.tensor), readers[origin.source].get(origin.source_tensor)
        if not torch.equal(first, second) or first.dtype != second.dtype:
            wrong.append(f"{origin.tensor} differs from {origin.source}'s {origin.source_tensor}{_by(first, second)}")
    return finding("tensors", wrong, f"{num_held} of {len(origins)} are their sources' own")


def _nearly_equal(first: torch.Tensor, second: torch.Tensor) -> bool:
    if first.shape != second.shape:
        return False
    here, there = first.float(), second.float()
    return bool((here - there).abs().max() <= GATE_TOLERANCE * there.abs().max())


def _by(first: torch.Tensor, second: torch.Tensor) -> str:
    if first.shape != second.shape:
        return f": {tuple(first.shape)} and {tuple(second.shape)}"
    return f" by {(first.float() - second.float()).abs().max().item():.3g}"


def compare_layers(told: Sequence[LayerVerdict], found: Sequence[LayerVerdict]) -> Finding:
    """Hold the verdicts against new ones: the same states, the same limits, the same figures up to rounding."""
    wrong = [] if len(told) == len(found) else [f"{len(told)} layers are told, and there are {len(found)}"]
    for one, other in zip(told, found, strict=False):
        if (one.layer, one.state) != (other.layer, other.state):
            wrong.append(f"layer {one.layer} is told to be {one.state}, and comes out {other.state}")
        elif one.limits != other.limits:
            wrong.append(f"layer {one.layer} was held to other limits")
        else:
            wrong += [f"layer {one.layer}: {text}" for text in _figures(one.measured, other.measured)]
    return finding("layers", wrong, f"{len(told)} verdicts come out again")


def compare_exactness(told: Sequence[ExactnessRecord], found: Sequence[ExactnessRecord]) -> Iterator[Finding]:
    """Hold each source's record against a new one."""
    if not told:
        yield Finding(what="exactness", holds=None, detail="was not measured when the mixture was made")
    by_source = {record.against: record for record in found}
    for record in told:
        what, other = f"exactness against {record.against}", by_source.pop(record.against, None)
        if other is None:
            yield Finding(what=what, holds=None, detail="was not computed again")
            continue
        wrong = _figures(_measures(record), _measures(other))
        if record.num_tokens != other.num_tokens:
            wrong.append(f"over {record.num_tokens} tokens, and now {other.num_tokens}")
        if record.reload_equal != other.reload_equal:
            wrong.append("loaded again it gives " + ("the same logits" if other.reload_equal else "other logits"))
        good = (
            f"largest logit difference {other.max_logit_difference:.3g}, {other.greedy_agreement:.2%} of greedy tokens"
        )
        yield finding(what, wrong, good)


def _measures(record: ExactnessRecord) -> dict[str, float]:
    return {"max_logit_difference": record.max_logit_difference, "agreement": record.greedy_agreement}


def _figures(told: Mapping[str, float], found: Mapping[str, float]) -> list[str]:
    wrong = [f"{name} is not measured any more" for name in told if name not in found]
    shared = [name for name in told if name in found]
    return wrong + [
        f"{name} {told[name]:.3g}, and now {found[name]:.3g}"
        for name in shared
        if not _close(name, told[name], found[name])
    ]


def _close(name: str, told: float, found: float) -> bool:
    absolute = AGREEMENT_TOLERANCE if name == "agreement" else ABSOLUTE_TOLERANCE
    return math.isclose(told, found, rel_tol=RELATIVE_TOLERANCE, abs_tol=absolute)
