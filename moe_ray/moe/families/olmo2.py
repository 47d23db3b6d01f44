"""OLMo 2 -> FlexOlmo, which has the same post-normalisation."""

from typing import Any

from moe_ray.moe.families import targets
from moe_ray.moe.families.base import MixtureShape
from moe_ray.moe.families.gated import GatedFamily, refuse_dense_layers

VLLM_EPS = 1e-5


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
        """vLLM's FlexOlmo has renormalize=False, a final norm with eps 1e-5 and untied embeddings."""
        cautions = []
        if shape.top_k < shape.num_experts:
            cautions.append(
                "vLLM's FlexOlmo does not renormalise the chosen experts' weights; the normalisation that follows takes"
                " the common factor out again, up to rms_norm_eps"
            )
        if dense.tie_word_embeddings or dense.rms_norm_eps != VLLM_EPS:
            cautions.append("vLLM's FlexOlmo knows no tied embeddings, and no rms_norm_eps but 1e-5 in its last norm")
        return (*super().cautions(dense, shape), *cautions)
