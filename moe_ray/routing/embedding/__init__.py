"""The embedding router, and the gating network that it stands on."""

from moe_ray.architectures.gating_network import GatingNetwork, mean_embeddings
from moe_ray.routing.embedding.classifier import EmbeddingClassifier

__all__ = ["EmbeddingClassifier", "GatingNetwork", "mean_embeddings"]
