"""The commented starter file that `moe-ray init` writes."""

from importlib.resources import files


def starter_text() -> str:
    """Return a complete experiment as YAML, with a comment for each key. It loads as it is."""
    return files("moe_ray.config").joinpath("starter.yaml").read_text(encoding="utf-8")
