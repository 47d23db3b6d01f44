"""Generated programs, run where they can do no harm and cannot forge their verdict."""

from moe_ray.scoring.sandbox.program import Outcome, Program, Protections, Verdict
from moe_ray.scoring.sandbox.sandbox import Sandbox, shared_sandbox

__all__ = ["Outcome", "Program", "Protections", "Sandbox", "Verdict", "shared_sandbox"]
