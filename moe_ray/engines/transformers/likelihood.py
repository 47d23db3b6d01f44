"""Log-likelihoods of continuations. Shapes: B rows, T tokens, N positions whose logits are kept, V vocabulary."""

# ruff: noqa: N803, N806 - capital suffixes name the axes of a tensor

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from moe_ray.engines.transformers.forward import left_padded, read_once
from moe_ray.engines.transformers.loading import LoadedModel
from moe_ray.prompts.encoder import EncodedPair


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringRow:
    """One sequence to read, and the continuations that are read off it.

    `token_ids` are the context and a continuation without its last token. `targets` maps a continuation's place to
    its tokens; each begins right after the context, at the last `num_logits` positions.
    """

    index: int
    id: str
    token_ids: tuple[int, ...]
    num_logits: int
    targets: tuple[tuple[int, tuple[int, ...]], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredRow:
    """Log-likelihoods in nats by the continuation's place, and how the batch went. `error` when it did not."""

    row: ScoringRow
    loglikelihoods: dict[int, float]
    batch_rows: int
    total_s: float
    error: str | None = None


def scoring_rows(index: int, id: str, pair: EncodedPair, *, longest_shared: int | None) -> list[ScoringRow]:
    """Return the rows of one request; a continuation whose reading is the start of another's costs no row.

    Readings of more than `longest_shared` tokens do not stand in for shorter ones.
    """
    targets: dict[tuple[int, ...], list[tuple[int, tuple[int, ...]]]] = {}
    for place in sorted(pair.fitting, key=lambda place: -len(pair.continuations[place])):
        tokens = pair.continuations[place]
        read = (*pair.context.token_ids, *tokens[:-1])
        carrier = next((other for other in targets if _carries(other, read, longest_shared)), read)
        targets.setdefault(carrier, []).append((place, tokens))
    return [
        ScoringRow(
            index=index,
            id=id,
            token_ids=read,
            num_logits=len(read) - len(pair.context.token_ids) + 1,
            targets=tuple(found),
        )
        for read, found in targets.items()
    ]


def _carries(other: tuple[int, ...], read: tuple[int, ...], longest_shared: int | None) -> bool:
    alike = longest_shared is None or (len(other) > longest_shared) == (len(read) > longest_shared)
    return alike and other[: len(read)] == read


@torch.inference_mode()
def score_batch(loaded: LoadedModel, rows: Sequence[ScoringRow]) -> list[ScoredRow]:
    """Read `rows` together and return their log-likelihoods, in their order."""
    start_s = time.perf_counter()
    ids_BT, mask_BT = left_padded([row.token_ids for row in rows], loaded)
    num_logits = max(row.num_logits for row in rows)
    logits_BNV = read_once(loaded, ids_BT, mask_BT, num_logits=num_logits, **_context_alone(loaded, mask_BT, rows))
    sums = [_read_off(logits_BNV[place], row) for place, row in enumerate(rows)]
    total_s = time.perf_counter() - start_s
    return [
        ScoredRow(row=row, loglikelihoods=found, batch_rows=len(rows), total_s=total_s)
        for row, found in zip(rows, sums, strict=True)
    ]


def _context_alone(loaded: LoadedModel, mask_BT: torch.Tensor, rows: Sequence[ScoringRow]) -> dict[str, torch.Tensor]:
    """Return what keeps a mixture's gate from reading the continuations: it judges the context, as in generation."""
    if "prompt_mask" not in loaded.forward_arguments:
        return {}
    context_BT = mask_BT.clone()
    for place, row in enumerate(rows):
        context_BT[place, mask_BT.shape[1] - (row.num_logits - 1) :] = 0
    return {"prompt_mask": context_BT}


def _read_off(logits_NV: torch.Tensor, row: ScoringRow) -> dict[int, float]:
    """Sum each continuation's log-probabilities: float32 log-softmax, float64 sum. One row at a time, for memory."""
    log_probabilities_NV = logits_NV[-row.num_logits :].float().log_softmax(dim=-1)
    sums = {}
    for place, tokens in row.targets:
        targets_N1 = torch.tensor(tokens, device=logits_NV.device).unsqueeze(-1)
        picked_N1 = log_probabilities_NV[: len(tokens)].gather(-1, targets_N1)
        sums[place] = float(picked_N1.double().sum())
    return sums
