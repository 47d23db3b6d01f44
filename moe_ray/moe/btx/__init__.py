"""Experts trained apart on one frozen backbone, then mixed: each domain's feed-forward networks are its expert."""

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
