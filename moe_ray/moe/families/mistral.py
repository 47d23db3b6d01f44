"""Mistral: as Llama, with its sliding window, which both classes of mixtures take over."""

from moe_ray.moe.families.llama import Llama


class Mistral(Llama):
    """Mistral has no biases, so that nothing of it is refused."""

    model_type = "mistral"
