"""GPT-2 -> moe_ray's GPT2Moe. Named as GPT-Neo; matrices are transposed relative to torch's Linear."""

from typing import Any

from moe_ray.moe.families.base import Ffn, MixtureShape, Read, refuse
from moe_ray.moe.families.gpt_neo import GptNeo


class Gpt2(GptNeo):
    """Refused: cross-attention."""

    model_type = "gpt2"

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
