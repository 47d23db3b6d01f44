"""Compare small domain experts behind a router with one general model, on your data and your hardware.

The names in `__all__` are the public interface; docs/reference/api.md describes them. They load when they are first
used, so that `import moe_ray` stays fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moe_ray.api import (
        compare,
        compare_systems,
        evaluate,
        finetune,
        load_experiment,
        merge,
        open_run,
        plan,
        pretrain,
        score,
        train_gate,
        upcycle,
        verify,
        write_report,
    )
    from moe_ray.config.load import LoadedExperiment
    from moe_ray.config.schema import DomainConfig, ModelConfig
    from moe_ray.domains.example import Example, Task
    from moe_ray.engines.base import (
        BatchLimits,
        Engine,
        EngineMemory,
        GenerateRequest,
        Generation,
        Likelihood,
        LikelihoodRequest,
        Timing,
    )
    from moe_ray.engines.settings import EngineSettings
    from moe_ray.errors import MoeRayError, RunFailedError, UserError
    from moe_ray.execution.observer import RunObserver
    from moe_ray.moe.upcycle.request import UpcycleRequest
    from moe_ray.prompts.messages import Message, Prompt
    from moe_ray.routing.router import Route, Router
    from moe_ray.runs.stored import Run
    from moe_ray.scoring.score import Grader, Metric, Score
    from moe_ray.store.answers import Answer

__version__ = "0.1.0"

_HOMES = {
    "api": (
        "compare compare_systems evaluate finetune load_experiment merge open_run plan pretrain score train_gate "
        "upcycle verify write_report"
    ),
    "config.load": "LoadedExperiment",
    "config.schema": "DomainConfig ModelConfig",
    "domains.example": "Example Task",
    "engines.base": ("BatchLimits Engine EngineMemory GenerateRequest Generation Likelihood LikelihoodRequest Timing"),
    "engines.settings": "EngineSettings",
    "errors": "MoeRayError RunFailedError UserError",
    "execution.observer": "RunObserver",
    "moe.upcycle.request": "UpcycleRequest",
    "prompts.messages": "Message Prompt",
    "routing.router": "Route Router",
    "runs.stored": "Run",
    "scoring.score": "Grader Metric Score",
    "store.answers": "Answer",
}
_HOME_OF = {name: f"moe_ray.{module}" for module, names in _HOMES.items() for name in names.split()}

__all__ = [
    "Answer",
    "BatchLimits",
    "DomainConfig",
    "Engine",
    "EngineMemory",
    "EngineSettings",
    "Example",
    "GenerateRequest",
    "Generation",
    "Grader",
    "Likelihood",
    "LikelihoodRequest",
    "LoadedExperiment",
    "Message",
    "Metric",
    "ModelConfig",
    "MoeRayError",
    "Prompt",
    "Route",
    "Router",
    "Run",
    "RunFailedError",
    "RunObserver",
    "Score",
    "Task",
    "Timing",
    "UpcycleRequest",
    "UserError",
    "__version__",
    "compare",
    "compare_systems",
    "evaluate",
    "finetune",
    "load_experiment",
    "merge",
    "open_run",
    "plan",
    "pretrain",
    "score",
    "train_gate",
    "upcycle",
    "verify",
    "write_report",
]


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'moe_ray' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOME_OF[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
