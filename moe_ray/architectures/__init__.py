"""Own transformers classes, for mixtures that transformers has no class for. Each modelling file stands alone.

`register` puts them into AutoConfig and the AutoModel class of their head; then their checkpoints load like any other.
Saving a model or its configuration puts the code beside it, so that others load it with `trust_remote_code=True`.
"""

import importlib
from dataclasses import dataclass
from functools import cache

__all__ = ["ARCHITECTURES", "CLASSIFIERS", "Architecture", "auto_map", "register"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """The classes of one model type. The module that holds them bears the model type's name."""

    config_class: str
    model_class: str


ARCHITECTURES = {
    "gpt2_moe": Architecture(config_class="GPT2MoeConfig", model_class="GPT2MoeForCausalLM"),
    "gpt_neo_moe": Architecture(config_class="GPTNeoMoeConfig", model_class="GPTNeoMoeForCausalLM"),
    "opt_moe": Architecture(config_class="OPTMoeConfig", model_class="OPTMoeForCausalLM"),
    "gated_mixture": Architecture(config_class="GatedMixtureConfig", model_class="GatedMixtureForCausalLM"),
}
CLASSIFIERS = {
    "token_mixture": Architecture(
        config_class="TokenMixtureConfig", model_class="TokenMixtureForSequenceClassification"
    ),
}


@cache
def register() -> None:
    """Make the Auto classes know the architectures of this package; calling it again changes nothing."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

    for reader, known in ((AutoModelForCausalLM, ARCHITECTURES), (AutoModelForSequenceClassification, CLASSIFIERS)):
        for model_type, architecture in known.items():
            module = importlib.import_module(f"{__name__}.{model_type}")
            config_class = getattr(module, architecture.config_class)
            AutoConfig.register(model_type, config_class, exist_ok=True)
            reader.register(config_class, getattr(module, architecture.model_class), exist_ok=True)


def auto_map(model_type: str) -> dict[str, str]:
    """What an own architecture's config.json says in `auto_map`, for those who load it with its code."""
    architecture = ARCHITECTURES[model_type]
    return {
        "AutoConfig": f"{model_type}.{architecture.config_class}",
        "AutoModelForCausalLM": f"{model_type}.{architecture.model_class}",
    }
