"""Experts trained apart on one frozen backbone, then mixed: each domain's feed-forward networks are its expert."""

from moe_ray.moe.btx.config import FinetuneSettings, PretrainConfig, TrainingSettings, load_pretrain_config
from moe_ray.moe.btx.finetune import FinetuneRecord, finetune
from moe_ray.moe.btx.pretrain import PretrainRecord, pretrain
from moe_ray.moe.btx.texts import ExpertTexts, read_expert_texts

__all__ = [
    "ExpertTexts",
    "FinetuneRecord",
    "FinetuneSettings",
    "PretrainConfig",
    "PretrainRecord",
    "TrainingSettings",
    "finetune",
    "load_pretrain_config",
    "pretrain",
    "read_expert_texts",
]
