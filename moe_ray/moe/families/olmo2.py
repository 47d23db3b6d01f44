"""OLMo 2: to FlexOlmo, which normalises after its networks as OLMo 2 does."""

from typing import Any

from moe_ray.moe.families import targets
from moe_ray.moe.families.base import MixtureShape
from moe_ray.moe.families.gated import GatedFamily, refuse_dense_layers


class Olmo2(GatedFamily):
    """Refused: layers that stay dense."""

    model_type = "olmo2"

    def mixture_config(self, dense: Any, shape: MixtureShape) -> Any:
        refuse_dense_layers(dense, shape)
        return targets.mixture_config(
            "flex_olmo",
            dense,
            ("attention_bias",),
            intermediate_size=shape.expert_size,
            num_experts=shape.num_experts,
            num_experts_per_tok=shape.top_k,
            norm_topk_prob=True,
        )

    def cautions(self, dense: Any, shape: MixtureShape) -> tuple[str, ...]:
        """vLLM's FlexOlmo is written with renormalize=False, whatever norm_topk_prob says."""
        scaled = (
            "vLLM's FlexOlmo does not renormalise the chosen experts' weights; the normalisation that follows takes"
            " the common factor out again, up to rms_norm_eps"
        )
        return super().cautions(dense, shape) + ((scaled,) if shape.top_k < shape.num_experts else ())
