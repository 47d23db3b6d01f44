"""Entry point of ``python -m moe_ray``."""

from moe_ray.entry import main

main()
