"""Own transformers classes, for mixtures that transformers has no class for. Each modelling file stands alone.

`register` puts them into AutoConfig and AutoModelForCausalLM, so that their checkpoints load like any other.
`export_code` puts the code beside a checkpoint, so that others load it with `trust_remote_code=True`.
"""

import importlib
import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path

__all__ = ["ARCHITECTURES", "Architecture", "auto_map", "export_code", "register"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """One model type: the module of this package with its classes, and the modules that it imports from here."""

    module: str
    config_class: str
    model_class: str
    needs: tuple[str, ...] = ("experts",)


ARCHITECTURES = {
    "gpt2_moe": Architecture(module="gpt2_moe", config_class="GPT2MoeConfig", model_class="GPT2MoeForCausalLM"),
    "gpt_neo_moe": Architecture(
        module="gpt_neo_moe", config_class="GPTNeoMoeConfig", model_class="GPTNeoMoeForCausalLM"
    ),
    "opt_moe": Architecture(module="opt_moe", config_class="OPTMoeConfig", model_class="OPTMoeForCausalLM"),
    "gated_mixture": Architecture(
        module="gated_mixture",
        config_class="GatedMixtureConfig",
        model_class="GatedMixtureForCausalLM",
        needs=("gated_layers", "gating_network"),
    ),
}


@cache
def register() -> None:
    """Make the Auto classes know the architectures of this package; calling it again changes nothing."""
    from transformers import AutoConfig, AutoModelForCausalLM

    for model_type, architecture in ARCHITECTURES.items():
        module = importlib.import_module(f"{__name__}.{architecture.module}")
        config_class = getattr(module, architecture.config_class)
        AutoConfig.register(model_type, config_class, exist_ok=True)
        AutoModelForCausalLM.register(config_class, getattr(module, architecture.model_class), exist_ok=True)


def auto_map(model_type: str) -> dict[str, str]:
    """What an own architecture's config.json says in `auto_map`, for those who load it with its code."""
    architecture = ARCHITECTURES[model_type]
    return {
        "AutoConfig": f"{architecture.module}.{architecture.config_class}",
        "AutoModelForCausalLM": f"{architecture.module}.{architecture.model_class}",
    }


def export_code(model_type: str, directory: Path) -> None:
    """Copy the code of an own architecture into a checkpoint's directory; nothing for the classes of transformers.

    (`save_pretrained` does the same by itself: this is for checkpoints that are written tensor by tensor.)
    """
    architecture = ARCHITECTURES.get(model_type)
    for name in () if architecture is None else (architecture.module, *architecture.needs):
        shutil.copyfile(Path(__file__).with_name(f"{name}.py"), directory / f"{name}.py")
