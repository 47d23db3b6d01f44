"""The experts of a loaded model, and a model that answers with some of them removed.

Shapes: B rows, T tokens.
"""

# ruff: noqa: N806 - capital suffixes name the axes of a tensor

from collections.abc import Callable, Sequence
from contextlib import ExitStack

import torch

from moe_ray.engines.transformers.forward import left_padded, read_once
from moe_ray.engines.transformers.loading import LoadedModel
from moe_ray.mixtures.intervening import intervened
from moe_ray.mixtures.interventions import Intervention
from moe_ray.mixtures.sites import NUM_PROBE_TOKENS, RoutingSite, find_sites

# Prime steps through the vocabulary: tokens that any model reads, the same for each run.
PROBE_STEP, PROBE_START = 37, 11


def sites_of(loaded: LoadedModel, *, name: str) -> list[RoutingSite]:
    """Return the model's layers with experts, found by reading a few fixed tokens. Raises `ModelError`."""
    return find_sites(loaded.model, lambda: _read_probe(loaded), name=name)


def intervene(loaded: LoadedModel, intervention: Intervention, *, name: str) -> Callable[[], None]:
    """Apply an intervention to every forward pass of the model from now on; returns what ends it.

    Raises `ModelError` where it is not possible. Fixed tokens are read under it, so that a router that cannot select
    without the experts is refused here and not with the first answer.
    """
    with ExitStack() as stack:
        stack.enter_context(intervened(sites_of(loaded, name=name), intervention, name=name))
        _read_probe(loaded)
        return stack.pop_all().close


def _read_probe(loaded: LoadedModel) -> None:
    ids = [(PROBE_START + PROBE_STEP * at) % loaded.vocabulary_size for at in range(NUM_PROBE_TOKENS)]
    read_rows(loaded, [ids[: loaded.context_length]])


def read_rows(loaded: LoadedModel, rows: Sequence[Sequence[int]]) -> torch.Tensor:
    """Read rows of tokens together, and return the logits at their last tokens (B, 1, vocabulary)."""
    with torch.inference_mode():
        ids_BT, mask_BT = left_padded(rows, loaded)
        return read_once(loaded, ids_BT, mask_BT, num_logits=1)
