"""One batch through a sequence-classification model: its logits, and the vector that they are made of."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from moe_ray.errors import ModelError
from moe_ray.routing.classifier import ClassifierOutputs
from moe_ray.routing.transformer.lean import can_be_lean, lean_copy


def make_forward(model: Any, dtype: torch.dtype = torch.float32) -> "EagerForward":
    """Return the fastest way to run `model` that gives its logits: on an x86 CPU a leaner copy, elsewhere itself.

    With float32 they differ by rounding alone. bfloat16 is an option for CPUs that multiply it (AVX-512, AMX; others
    run `model` itself): it moves probabilities by hundredths. Weights that change later are not seen.
    Raises `ModelError` as `EagerForward` does.
    """
    return EagerForward(lean_copy(model, dtype) if can_be_lean(model, dtype) else model)


class EagerForward:
    """Runs `model` as it is, on the device that it is on.

    The features are what enters the last layer of the classification head, whichever architecture it is.
    """

    def __init__(self, model: Any) -> None:
        """Take a transformers sequence-classification model. Raises `ModelError` if its head cannot be found."""
        self._model = model.eval()
        self._head = _last_layer(model)

    @property
    def num_features(self) -> int:
        return self._head.in_features

    def __call__(self, batch: Mapping[str, torch.Tensor]) -> ClassifierOutputs:
        """Return logits [num_texts, num_labels] and features of a tokenized batch [num_texts, num_tokens]."""
        seen: list[torch.Tensor] = []
        handle = self._head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            with torch.inference_mode():
                logits = self._model(**{name: part.to(self._model.device) for name, part in batch.items()}).logits
        finally:
            handle.remove()
        return ClassifierOutputs(logits=logits.double().cpu().numpy(), features=seen[-1].double().cpu().numpy())


def _last_layer(model: Any) -> nn.Linear:
    num_labels = model.config.num_labels
    layers = [one for one in model.modules() if isinstance(one, nn.Linear) and one.out_features == num_labels]
    if not layers:
        raise ModelError(
            f"{type(model).__name__} has no linear layer that gives {num_labels} logits",
            where="router.base_model",
            remedy="choose another encoder, such as distilbert-base-uncased",
        )
    return layers[-1]
