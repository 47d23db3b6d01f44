"""Sequence classifiers: their classes, log-probabilities of classes, and new ones to train.

Shapes: B rows, T tokens, C classes.
"""

# ruff: noqa: N806 - capital suffixes name the axes of a tensor

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import transformers

from moe_ray import architectures
from moe_ray.engines.transformers.forward import left_padded, read_once
from moe_ray.engines.transformers.loading import CLASSIFIER_ENDING, LoadedModel
from moe_ray.errors import ConfigError, first_line


def class_names(loaded: LoadedModel) -> tuple[str, ...]:
    """Return the classes of a classifier in the order of its logits; () for a model with another head."""
    if not type(loaded.model).__name__.endswith(CLASSIFIER_ENDING):
        return ()
    config = loaded.model.config
    return tuple(str(config.id2label[place]) for place in range(config.num_labels))


@torch.inference_mode()
def class_logits(loaded: LoadedModel, rows: Sequence[Sequence[int]]) -> torch.Tensor:
    """Return the logits of each row's classes [B, C] in float32."""
    ids_BT, mask_BT = left_padded(rows, loaded)
    return read_once(loaded, ids_BT, mask_BT, num_logits=1).float()


def class_log_probabilities(loaded: LoadedModel, rows: Sequence[Sequence[int]]) -> list[dict[int, float]]:
    """Return log p of each class in nats by its place, for each row."""
    values_BC = class_logits(loaded, rows).double().log_softmax(dim=-1)
    return [dict(enumerate(row)) for row in values_BC.tolist()]


def new_classifier(
    model_type: str, values: Mapping[str, Any], names: Sequence[str], tokenizer: Any, *, seed: int
) -> Any:
    """Return an untrained classifier of `model_type` in float32, initialised by `seed`.

    `values` are fields of its configuration. Raises `ConfigError` for a type without a classifier and for fields that
    it refuses.
    """
    transformers.utils.logging.disable_progress_bar()
    architectures.register()
    ids = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), tokenizer.pad_token_id)
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: place for place, name in enumerate(names)}}
    try:
        config = transformers.AutoConfig.for_model(
            model_type, **{**ids, **values, **labels, "vocab_size": len(tokenizer)}
        )
        torch.manual_seed(seed)
        return transformers.AutoModelForSequenceClassification.from_config(config, trust_remote_code=False)
    except Exception as error:
        # Configuration classes raise arbitrary errors; the cause is chained.
        raise ConfigError(
            f"no classifier of {model_type}: {first_line(error)}",
            where="model",
            remedy="check the sizes; kinds are token_mixture and mixtral",
        ) from error
