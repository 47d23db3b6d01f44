"""The router: text -> probabilities over domains. Data, training, calibration, and what it does with a query."""

from moe_ray.routing.router import Route, Router

__all__ = ["Route", "Router"]
