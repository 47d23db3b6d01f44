"""Own transformers classes, for mixtures that transformers has no class for. Each modelling file stands alone.

`register` puts them into AutoConfig and AutoModelForCausalLM, so that their checkpoints load like any other.
"""


def register() -> None:
    """Make the Auto classes know the architectures of this package; calling it again changes nothing."""
