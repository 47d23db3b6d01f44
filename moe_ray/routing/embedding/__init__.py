"""The embedding router, and the gating network that it stands on."""

from moe_ray.routing.embedding.classifier import EmbeddingClassifier
from moe_ray.routing.embedding.gating import GatingNetwork, mean_embeddings

__all__ = ["EmbeddingClassifier", "GatingNetwork", "mean_embeddings"]
