"""What a forward pass is given, and one without a cache. Shapes: B rows, T tokens, N kept positions, V vocabulary."""

# ruff: noqa: N803, N806 - capital suffixes name the axes of a tensor

from collections.abc import Sequence
from typing import Any

import torch

from moe_ray.engines.transformers.loading import LoadedModel


def left_padded(rows: Sequence[Sequence[int]], loaded: LoadedModel) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids and mask, both (B, T), with padding in front; the mask is 0 on padding."""
    width = max(len(row) for row in rows)
    ids = [[loaded.pad_token_id] * (width - len(row)) + list(row) for row in rows]
    mask = [[0] * (width - len(row)) + [1] * len(row) for row in rows]
    return torch.tensor(ids, device=loaded.device), torch.tensor(mask, device=loaded.device)


def optional_arguments(loaded: LoadedModel, mask_BT: torch.Tensor, *, num_logits: int | torch.Tensor) -> dict[str, Any]:
    """Return the arguments of the forward pass that only some architectures have.

    `num_logits` are the last positions whose logits are kept, or the places of those positions.
    """
    arguments: dict[str, Any] = {}
    if "position_ids" in loaded.forward_arguments:
        arguments["position_ids"] = (mask_BT.cumsum(dim=-1) - 1).clamp(min=0)
    if "logits_to_keep" in loaded.forward_arguments:
        arguments["logits_to_keep"] = num_logits
    return arguments


def read_once(
    loaded: LoadedModel, ids_BT: torch.Tensor, mask_BT: torch.Tensor, *, num_logits: int | torch.Tensor, **more: Any
) -> torch.Tensor:
    """Read whole rows without a cache; return the logits at the positions `num_logits`, (B, N, V).

    An architecture that cannot choose positions returns those of all, (B, T, V).
    """
    outputs = loaded.model(
        input_ids=ids_BT,
        attention_mask=mask_BT,
        use_cache=False,
        return_dict=True,
        **optional_arguments(loaded, mask_BT, num_logits=num_logits),
        **more,
        **loaded.forward_choice,
    )
    logits_BNV: torch.Tensor = outputs.logits
    return logits_BNV
