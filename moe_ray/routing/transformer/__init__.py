"""The transformer router: an encoder with a classification head, trained with transformers' Trainer."""

from moe_ray.routing.transformer.classifier import TransformerClassifier

__all__ = ["TransformerClassifier"]
