"""Branch-train-mix: feed-forward experts trained separately on one frozen backbone, then mixed."""

from moe_ray.moe.btx.config import ExpertTraining, FinetuneSettings, PretrainConfig, load_pretrain_config
from moe_ray.moe.btx.finetune import FinetuneRecord, finetune
from moe_ray.moe.btx.pretrain import PretrainRecord, pretrain
from moe_ray.moe.btx.texts import ExpertTexts, read_expert_texts

__all__ = [
    "ExpertTexts",
    "ExpertTraining",
    "FinetuneRecord",
    "FinetuneSettings",
    "PretrainConfig",
    "PretrainRecord",
    "finetune",
    "load_pretrain_config",
    "pretrain",
    "read_expert_texts",
]
