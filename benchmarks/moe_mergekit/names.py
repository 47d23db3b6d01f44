"""Whether a mixture's experts bear the names that vLLM's loaders map.

The rule: in a Mixtral each expert's matrices stand apart as block_sparse_moe.experts.E.w1, w2 and w3, beside
block_sparse_moe.gate (vllm/model_executor/models/mixtral.py: expert_params_mapping and the module's own name); in a
Qwen2Moe as mlp.experts.E.gate_proj, up_proj and down_proj, beside mlp.gate, mlp.shared_expert and
mlp.shared_expert_gate (vllm/model_executor/models/qwen2_moe.py). All else in a layer is the dense model's.
"""

import re
from collections.abc import Iterable

LAYER = r"model\.layers\.\d+\."
EXPERTS = {
    "mixtral": r"block_sparse_moe\.(gate|experts\.\d+\.w[123])\.weight",
    "qwen2_moe": (r"mlp\.(gate|shared_expert_gate|((experts\.\d+|shared_expert)\.)?(gate|up|down)_proj)\.weight"),
}
KEPT = (
    r"(model\.embed_tokens|model\.norm|lm_head)\.weight|"
    rf"{LAYER}(self_attn\.([qkv]_proj\.(weight|bias)|o_proj\.weight)|(input|post_attention)_layernorm\.weight)"
)


def unmapped(model_type: str, names: Iterable[str]) -> list[str]:
    """The tensors that vLLM's class of `model_type` (mixtral or qwen2_moe) has no place for."""
    known = re.compile(rf"{KEPT}|{LAYER}{EXPERTS[model_type]}")
    return [name for name in names if not known.fullmatch(name)]
