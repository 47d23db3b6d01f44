"""Dense model families that can be upcycled, one file each, by model type. Imported on first use."""

import importlib
from typing import Any

from moe_ray.errors import ModelError
from moe_ray.moe.families.base import Expert, Family, Ffn, MixtureShape, Piece, TensorRole

FAMILIES = {
    "llama": "moe_ray.moe.families.llama:Llama",
    "mistral": "moe_ray.moe.families.mistral:Mistral",
    "qwen2": "moe_ray.moe.families.qwen2:Qwen2",
    "qwen3": "moe_ray.moe.families.qwen3:Qwen3",
    "phi3": "moe_ray.moe.families.phi3:Phi3",
    "granite": "moe_ray.moe.families.granite:Granite",
    "olmo2": "moe_ray.moe.families.olmo2:Olmo2",
    "gpt2": "moe_ray.moe.families.gpt2:Gpt2",
    "gpt_neo": "moe_ray.moe.families.gpt_neo:GptNeo",
    "opt": "moe_ray.moe.families.opt:Opt",
}


def family_of(model_type: str, *, where: str | None = None) -> Family:
    """Return the family of a dense model type. Raises `ModelError` if no exact mixture is known for it."""
    if model_type not in FAMILIES:
        raise ModelError(
            f"no mixture is known that computes exactly what a dense {model_type!r} does",
            where=where,
            remedy=f"upcycle one of: {', '.join(sorted(FAMILIES))}",
        )
    module_name, _, class_name = FAMILIES[model_type].partition(":")
    made: Any = getattr(importlib.import_module(module_name), class_name)()
    family: Family = made
    return family


__all__ = ["FAMILIES", "Expert", "Family", "Ffn", "MixtureShape", "Piece", "TensorRole", "family_of"]
