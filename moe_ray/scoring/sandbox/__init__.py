"""Run generated programs safely, without letting them forge their verdict."""

from moe_ray.scoring.sandbox.program import Program, ProgramOutcome, ProgramVerdict, Protections
from moe_ray.scoring.sandbox.sandbox import Sandbox, shared_sandbox

__all__ = ["Program", "ProgramOutcome", "ProgramVerdict", "Protections", "Sandbox", "shared_sandbox"]
