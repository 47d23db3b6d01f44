"""Entry point of ``python -m moe_ray``."""

from moe_ray.cli.main import run

run()
