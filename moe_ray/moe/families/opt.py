"""OPT -> moe_ray's OPTMoe. Its two matrices are attributes of the layer itself, not of an mlp module."""

from collections.abc import Mapping
from typing import Any, ClassVar

from moe_ray.moe.families.base import MixtureShape, TensorRole, refuse
from moe_ray.moe.families.own import OwnFamily


class Opt(OwnFamily):
    """Refused: layers without biases, which Galactica's configuration allows."""

    model_type = "opt"
    layer_prefix = "model.decoder.layers"
    ffn_names: ClassVar[Mapping[TensorRole, str]] = {
        "up": "fc1.weight",
        "up_bias": "fc1.bias",
        "down": "fc2.weight",
        "down_bias": "fc2.bias",
    }

    def mixture_config(self, dense: Any, shape: MixtureShape) -> Any:
        if not dense.enable_bias:
            raise refuse(dense, "its layers have no biases (enable_bias: false)", "choose a model with biases")
        return super().mixture_config(dense, shape)

    def ffn_size(self, dense: Any) -> int:
        return int(dense.ffn_dim)
