"""Upcycling: a dense checkpoint becomes a mixture that computes the same until its experts are varied or trained."""

from moe_ray.moe.upcycle.build import upcycle_model
from moe_ray.moe.upcycle.convert import convert, upcycle
from moe_ray.moe.upcycle.experts import Copies, FineTunes, Gates, random_gates
from moe_ray.moe.upcycle.plan import UpcyclePlan, plan_upcycle
from moe_ray.moe.upcycle.request import GateRequest, Limits, UpcycleRequest, UpcycleSettings

__all__ = [
    "Copies",
    "FineTunes",
    "GateRequest",
    "Gates",
    "Limits",
    "UpcyclePlan",
    "UpcycleRequest",
    "UpcycleSettings",
    "convert",
    "plan_upcycle",
    "random_gates",
    "upcycle",
    "upcycle_model",
]
