"""The router: text -> probabilities over domains. Training, calibration, out-of-domain scores, files."""

from moe_ray.routing.router import Route, Router

__all__ = ["Route", "Router"]
