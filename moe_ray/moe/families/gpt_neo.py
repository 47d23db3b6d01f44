"""GPT-Neo -> moe_ray's GPTNeoMoe, with local and global attention unchanged."""

from collections.abc import Mapping
from typing import Any, ClassVar

from moe_ray.moe.families.base import TensorRole
from moe_ray.moe.families.own import OwnFamily


class GptNeo(OwnFamily):
    """Refused: nothing."""

    model_type = "gpt_neo"
    layer_prefix = "transformer.h"
    ffn_names: ClassVar[Mapping[TensorRole, str]] = {
        "up": "mlp.c_fc.weight",
        "up_bias": "mlp.c_fc.bias",
        "down": "mlp.c_proj.weight",
        "down_bias": "mlp.c_proj.bias",
    }

    def ffn_size(self, dense: Any) -> int:
        return int(dense.intermediate_size if dense.intermediate_size is not None else 4 * dense.hidden_size)
