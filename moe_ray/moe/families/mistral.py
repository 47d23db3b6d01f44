"""Mistral -> as Llama; both mixture classes support its sliding window."""

from moe_ray.moe.families.llama import Llama


class Mistral(Llama):
    """Refused: nothing; Mistral has no biases."""

    model_type = "mistral"
