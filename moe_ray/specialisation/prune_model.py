"""Write a mixture without some of its experts as a checkpoint: it computes what the `prune` intervention does."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from moe_ray.config.schema import ModelConfig, is_local_path
from moe_ray.engines.settings import TransformersSettings
from moe_ray.engines.transformers.intervened import sites_of
from moe_ray.engines.transformers.loading import load
from moe_ray.errors import ModelError
from moe_ray.files import require_free, write_directory_atomically
from moe_ray.mixtures.interventions import Intervention, require_possible
from moe_ray.mixtures.layers import EXPERT_COUNT_KEYS
from moe_ray.mixtures.pruned_router import Reroutes, rows_of
from moe_ray.mixtures.sites import RoutingSite

NAMES_KEY = "expert_names"


@dataclass(frozen=True, slots=True, kw_only=True)
class PrunedCheckpoint:
    """What was written: experts of each layer before and after, and the number of layers."""

    num_experts: int
    num_kept: int
    num_layers: int


def prune_checkpoint(model: str, experts: Sequence[int], out: Path, *, dtype: str = "auto") -> PrunedCheckpoint:
    """Write `model`, a folder or a hub id, without `experts` of every layer to the new folder `out`.

    A configuration has one number of experts for all layers, so that each layer loses the same ones. Raises
    `ModelError`.
    """
    require_free(out)
    path = str(Path(model).absolute()) if not is_local_path(model) and Path(model).is_dir() else model
    loaded = load(ModelConfig(path=path, dtype=dtype, prompt_style="completion"), TransformersSettings(), any_head=True)
    sites = sites_of(loaded, name=model)
    pruned = prune_in_place(loaded.model, sites, experts, name=model)

    def write(folder: Path) -> None:
        loaded.model.save_pretrained(folder)
        loaded.tokenizer.save_pretrained(folder)

    write_directory_atomically(out, write)
    return pruned


def prune_in_place(model: Any, sites: Sequence[RoutingSite], experts: Sequence[int], *, name: str) -> PrunedCheckpoint:
    """Remove `experts` from the modules and the configuration of a loaded model. It is to be saved, not to be run."""
    removed = sorted(set(experts))
    require_possible(Intervention(operation="prune", experts=tuple(removed)), [one.record for one in sites], name=name)
    num_experts = sites[0].record.num_experts
    if any(site.record.num_experts != num_experts for site in sites):
        raise ModelError("has other numbers of experts in other layers", where=name, remedy="prune none of them")
    kept = torch.tensor([expert for expert in range(num_experts) if expert not in removed])
    for site in sites:
        Reroutes(site, name=name)  # refuses routers that cannot select without an expert
        _prune_layer(model, site, kept)
    _prune_config(model.config, num_experts, kept.tolist(), name)
    return PrunedCheckpoint(num_experts=num_experts, num_kept=len(kept), num_layers=len(sites))


def _prune_layer(model: Any, site: RoutingSite, kept: torch.Tensor) -> None:
    """Keep the rows of the kept experts in the experts, the router, and the block itself, which may hold a bias."""
    assert site.router is not None
    block = model.get_submodule(site.record.module.rpartition(".")[0])
    for module in [*site.experts.modules(), *site.router.modules()]:
        _keep_rows(module, kept, site.record.num_experts)
    _keep_rows(block, kept, site.record.num_experts)


def _keep_rows(module: nn.Module, kept: torch.Tensor, num_experts: int) -> None:
    for name, parameter in list(module.named_parameters(recurse=False)):
        rows = rows_of(parameter, kept, num_experts)
        if rows is not parameter:
            setattr(module, name, nn.Parameter(rows, requires_grad=False))
    for name, buffer in list(module.named_buffers(recurse=False)):
        setattr(module, name, rows_of(buffer, kept, num_experts))


def _prune_config(config: Any, num_experts: int, kept: Sequence[int], name: str) -> None:
    text = config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config
    keys = [key for key, value in text.to_dict().items() if EXPERT_COUNT_KEYS.match(key) and value == num_experts]
    if not keys:
        raise ModelError("has no number of experts in its configuration", where=name, remedy="prune another family")
    for key in keys:
        setattr(text, key, len(kept))
    names = getattr(text, NAMES_KEY, None)
    if isinstance(names, list) and len(names) == num_experts:
        setattr(text, NAMES_KEY, [names[expert] for expert in kept])
