"""Log-probabilities of drawn tokens and of prompts, for the requests that ask for them.

They are log-softmax, in float32, of the logits that the model returns: before temperature and top-p.
Shapes: B rows, T tokens, N positions, K alternatives, V vocabulary.
"""

# ruff: noqa: N803, N806 - capital suffixes name the axes of a tensor

from collections.abc import Sequence
from dataclasses import replace

import torch

from moe_ray.engines.base import BatchLimits, TokenLogprob
from moe_ray.engines.transformers.batching import MemoryRule, RowSize, group_batches
from moe_ray.engines.transformers.forward import left_padded, read_once
from moe_ray.engines.transformers.loading import LoadedModel
from moe_ray.engines.transformers.rows import NO_TOKEN, DecodeRow, DrawnRow
from moe_ray.engines.transformers.spelling import TokenSpeller

FLOAT_BYTES = 4
# Logits that one forward pass over prompts keeps. A prompt with more is read again for each further part of them.
PROMPT_LOGITS_BYTES = 1 << 30
# Log-probabilities that exist at a time.
LOGPROBS_BYTES = 64 << 20


def token_logprobs(
    loaded: LoadedModel, logits_BV: torch.Tensor, live: Sequence[DrawnRow], tokens: Sequence[int]
) -> list[TokenLogprob | None]:
    """Return the log-probability of each row's drawn token; None for rows that do not ask for it."""
    found: list[TokenLogprob | None] = [None] * len(live)
    asking = [
        place
        for place, row in enumerate(live)
        if row.row.request.num_logprobs is not None and tokens[place] != NO_TOKEN
    ]
    if asking:
        chosen = [tokens[place] for place in asking]
        nums = [live[place].row.request.num_logprobs or 0 for place in asking]
        for place, one in zip(asking, _spelled(logits_BV[asking], chosen, nums, loaded.speller), strict=True):
            found[place] = one
    return found


@torch.inference_mode()
def score_prompts(loaded: LoadedModel, rows: Sequence[DrawnRow]) -> None:
    """Score the prompts of the rows that ask for an echo with log-probabilities: complete `prompt_logprobs`.

    As for a log-likelihood, the last token is predicted and never read. Of a gated mixture, the gate reads what is
    read: there is no context apart from what is measured.
    """
    asking = [row for row in rows if 0 < len(row.prompt_logprobs) < len(row.row.token_ids)]
    # Few rows at a time, rather than few positions: each further part of the positions is a forward pass over all.
    groups = group_batches(
        asking,
        size=lambda row: RowSize(
            num_prompt_tokens=len(row.row.token_ids), num_new_tokens=0, num_logits=len(row.row.token_ids)
        ),
        name=lambda row: (row.row.index, row.row.request.id, row.row.token_ids),
        rule=MemoryRule(cache_bytes_per_token=0, logits_bytes_per_position=loaded.vocabulary_size * FLOAT_BYTES),
        limits=BatchLimits(max_rows=max(1, len(asking)), cache_memory_bytes=PROMPT_LOGITS_BYTES),
    )
    for group in groups:
        _score_together(loaded, group)


def _score_together(loaded: LoadedModel, rows: Sequence[DrawnRow]) -> None:
    reads = [row.row.token_ids[:-1] for row in rows]
    ids_BT, mask_BT = left_padded(reads, loaded)
    width = ids_BT.shape[1]
    scored: list[list[TokenLogprob]] = [[] for _ in rows]
    for start, stop in _parts(loaded, len(rows), width):
        # An index on the CPU fits tensors of every GPU.
        kept = width if stop - start == width else torch.arange(start, stop)
        logits_BNV = read_once(loaded, ids_BT, mask_BT, num_logits=kept)
        for place, row in enumerate(rows):
            num_padding = width - len(reads[place])
            scored[place] += _prompt_part(logits_BNV[place], row.row, start - num_padding, loaded.speller)
        # The next pass must not find them in memory.
        del logits_BNV
    for row, found in zip(rows, scored, strict=True):
        row.prompt_logprobs += tuple(found)


def _parts(loaded: LoadedModel, num_rows: int, width: int) -> list[tuple[int, int]]:
    """Return the columns, from and to, whose logits are kept in each forward pass."""
    num_kept = max(1, PROMPT_LOGITS_BYTES // (num_rows * loaded.vocabulary_size * FLOAT_BYTES))
    if "logits_to_keep" not in loaded.forward_arguments:
        num_kept = width
    return [(start, min(width, start + num_kept)) for start in range(0, width, num_kept)]


def _prompt_part(logits_NV: torch.Tensor, row: DecodeRow, start: int, speller: TokenSpeller) -> list[TokenLogprob]:
    """Score the prompt's tokens after those that were read at `start` and later; below 0 is padding."""
    first, stop = max(0, start), max(0, start + len(logits_NV))
    tokens, pieces = row.token_ids[first + 1 : stop + 1], row.prompt_pieces[first + 1 : stop + 1]
    nums = [row.request.num_logprobs or 0] * len(tokens)
    found = _spelled(logits_NV[first - start :], tokens, nums, speller)
    return [replace(one, token=piece) for one, piece in zip(found, pieces, strict=True)]


def _spelled(
    logits_NV: torch.Tensor, token_ids: Sequence[int], nums: Sequence[int], speller: TokenSpeller
) -> list[TokenLogprob]:
    """Return the log-probability of one token at each position, with as many alternatives as `nums` says."""
    num_at_once = max(1, LOGPROBS_BYTES // (logits_NV.shape[-1] * FLOAT_BYTES))
    found = []
    for start in range(0, len(token_ids), num_at_once):
        part = slice(start, start + num_at_once)
        logprobs_NV = logits_NV[part].float().log_softmax(dim=-1)
        ids_N1 = torch.tensor(token_ids[part], device=logprobs_NV.device).unsqueeze(-1)
        own = logprobs_NV.gather(-1, ids_N1).squeeze(-1).tolist()
        top_NK = logprobs_NV.topk(min(max(nums[part]), logprobs_NV.shape[-1]), dim=-1)
        likeliest = zip(top_NK.indices.tolist(), top_NK.values.tolist(), strict=True)
        for token, logprob, (ids, values), num in zip(token_ids[part], own, likeliest, nums[part], strict=True):
            top = _ranked({**dict(zip(ids, values, strict=True)), token: logprob}, token)[:num]
            spelled = tuple((speller.text(one), one, value) for one, value in top)
            found.append(TokenLogprob(speller.text(token), token, logprob, spelled))
    return found


def _ranked(logprobs: dict[int, float], token: int) -> list[tuple[int, float]]:
    """Order tokens, the likeliest first. Of equally likely ones `token` comes first, then the smaller id."""
    return sorted(logprobs.items(), key=lambda one: (-one[1], one[0] != token, one[0]))
