"""A configuration of transformers from the experiment's `architecture`, with every key held against its class."""

from collections.abc import Collection
from typing import Any

import transformers
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
)

from moe_ray.config.problems import suggestion
from moe_ray.errors import ConfigError

WHERE = "router.architecture"
TOKEN_IDS = ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id")
LABEL_KEYS = {"id2label", "label2id", "problem_type"}  # these follow from the domains
DECODER_KEYS = {"is_decoder", "add_cross_attention", "is_encoder_decoder"}
FILE_KEYS = {"architectures", "dtype", "transformers_version"}
NOT_ASKED = LABEL_KEYS | DECODER_KEYS | FILE_KEYS


def configure(asked: dict[str, Any], tokenizer: Any) -> Any:
    """Return the configuration that `asked` describes, with the tokenizer's vocabulary and special tokens.

    Raises `ConfigError` for an unknown model type, one that is no encoder, a key that it does not have, or a value
    that it does not take.
    """
    settings = dict(asked)
    config_class = _config_class(settings.pop("model_type", None))
    keys = {key for key in (*vars(config_class()), *config_class.attribute_map) if not key.startswith("_")} - NOT_ASKED
    for key in settings.keys() - keys:
        raise _refused(f"{config_class.model_type} has no such key{suggestion(str(key), keys)}", str(key))
    try:
        config = config_class(**{**_of_tokenizer(tokenizer, keys), **settings})
    except Exception as error:
        # A configuration's own checks raise anything; the cause is kept.
        raise _refused(f"not a configuration of {config_class.model_type}: {' '.join(str(error).split())}") from error
    if config.vocab_size < len(tokenizer):
        raise _refused(
            f"{config.vocab_size}, but the tokenizer has {len(tokenizer)} tokens",
            "vocab_size",
            "leave vocab_size out: it follows from the tokenizer",
        )
    return config


def is_encoder(config_class: Any) -> bool:
    """Say whether models of this configuration class can classify a text that they read in both directions.

    What transformers knows as a causal language model, and not as a masked one, reads in one direction.
    """
    if config_class not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        return False
    return config_class in MODEL_FOR_MASKED_LM_MAPPING or config_class not in MODEL_FOR_CAUSAL_LM_MAPPING


def _config_class(model_type: object) -> Any:
    known = transformers.CONFIG_MAPPING
    if model_type in known and is_encoder(known[model_type]):
        return known[model_type]
    near = suggestion(str(model_type), known) if model_type else ""
    raise _refused(
        f"model_type {model_type!r} is no encoder that transformers can classify with{near}",
        "model_type",
        "name an encoder's type, such as distilbert, bert, roberta or modernbert",
    )


def _of_tokenizer(tokenizer: Any, keys: Collection[str]) -> dict[str, Any]:
    return {"vocab_size": len(tokenizer), **{key: getattr(tokenizer, key, None) for key in TOKEN_IDS if key in keys}}


def _refused(what: str, key: str | None = None, remedy: str | None = None) -> ConfigError:
    remedy = remedy or "see the configuration classes of transformers for the keys and their values"
    return ConfigError(what, where=f"{WHERE}.{key}" if key else WHERE, remedy=remedy)
