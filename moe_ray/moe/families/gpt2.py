"""GPT-2: to this package's GPT2Moe. Its matrices lie the other way round than torch's Linear has them."""

from collections.abc import Mapping
from typing import Any, ClassVar

from moe_ray.moe.families.base import Ffn, MixtureShape, Read, TensorRole, refuse
from moe_ray.moe.families.own import OwnFamily


class Gpt2(OwnFamily):
    """Refused: cross-attention."""

    model_type = "gpt2"
    layer_prefix = "transformer.h"
    ffn_names: ClassVar[Mapping[TensorRole, str]] = {
        "up": "mlp.c_fc.weight",
        "up_bias": "mlp.c_fc.bias",
        "down": "mlp.c_proj.weight",
        "down_bias": "mlp.c_proj.bias",
    }

    def mixture_config(self, dense: Any, shape: MixtureShape) -> Any:
        if dense.add_cross_attention:
            raise refuse(dense, "it has cross-attention", "choose a decoder-only model")
        return super().mixture_config(dense, shape)

    def ffn_size(self, dense: Any) -> int:
        return int(dense.n_inner if dense.n_inner is not None else 4 * dense.n_embd)

    def read_ffn(self, read: Read, layer: int) -> Ffn:
        return {
            role: tensor.T if tensor.dim() == 2 else tensor for role, tensor in super().read_ffn(read, layer).items()
        }
