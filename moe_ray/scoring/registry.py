"""The graders that an experiment file can name."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from moe_ray.config.schema import DecodingConfig, DomainConfig, SandboxConfig
from moe_ray.domains.registry import Registry
from moe_ray.errors import ConfigError
from moe_ray.scoring.bits import BitsPerByteGrader
from moe_ray.scoring.coverage import CompletenessGrader, RelevanceGrader
from moe_ray.scoring.decisions import DecisionGrader, LikelihoodDecisionGrader
from moe_ray.scoring.numbers import FinalNumberGrader
from moe_ray.scoring.rouge import RougeLGrader
from moe_ray.scoring.score import Grader

EVALUATE_PREFIX = "evaluate:"

NEEDS_LIKELIHOOD = frozenset({"decision_loglik", "bits_per_byte"})


@dataclass(frozen=True, slots=True, kw_only=True)
class GraderSettings:
    """What a grader may depend on beside its name."""

    num_samples: int
    sandbox: SandboxConfig
    base_dir: Path


def _code_grader(settings: GraderSettings) -> Grader:
    # Imported when wanted: it brings the sandbox, which most domains never need.
    from moe_ray.scoring.code import CodeGrader

    return CodeGrader(settings.sandbox, settings.num_samples)


GRADERS: Registry[Callable[[GraderSettings], Grader]] = Registry("grader")
GRADERS.add("decision", lambda settings: DecisionGrader(settings.num_samples))
GRADERS.add("decision_loglik", lambda _: LikelihoodDecisionGrader())
GRADERS.add("rouge_l", lambda settings: RougeLGrader(settings.num_samples))
GRADERS.add("completeness", lambda settings: CompletenessGrader(settings.num_samples))
GRADERS.add("relevance", lambda settings: RelevanceGrader(settings.num_samples))
GRADERS.add("final_number", lambda settings: FinalNumberGrader(settings.num_samples))
GRADERS.add("bits_per_byte", lambda _: BitsPerByteGrader())
GRADERS.add("code", _code_grader)


def check_grader_names(names: Sequence[str], *, where: str) -> None:
    """Raise `ConfigError` when a name is unknown. Loads nothing, so that a plan can ask."""
    for name in names:
        if not _is_of_evaluate(name):
            GRADERS.get(name, where=where)


def make_graders(
    names: Sequence[str],
    domain: DomainConfig,
    decoding: DecodingConfig,
    sandbox: SandboxConfig,
    *,
    base_dir: Path,
    where: str = "graders",
    likelihood: bool = True,
) -> list[Grader]:
    """Return the graders called `names` for one domain.

    `evaluate:NAME` is any metric of the `evaluate` library, `evaluate:./FILE.py` a metric script below `base_dir` (the
    experiment file's folder). Without `likelihood` a task's own graders that need log-likelihoods are left out.

    Raises `ConfigError` for an unknown name, for two graders with one metric, and for a grader that the experiment file
    names although it measures no log-likelihoods.
    """
    settings = GraderSettings(num_samples=decoding.samples_per_example, sandbox=sandbox, base_dir=base_dir)
    if not likelihood:
        names = _without_likelihood(names, domain, where)
    graders = [_make(name, settings, where) for name in names]
    _require_distinct_metrics(graders, where)
    return graders


def is_own_code(name: str) -> bool:
    """Say whether the grader called `name` is code that is not part of moe_ray, which making the grader would run.

    That is a class (`module:Class`), a path, and any metric of `evaluate`: it comes from the hub as a script.
    """
    return ":" in name or "/" in name or name.endswith(".py")


def _is_of_evaluate(name: str) -> bool:
    return name.startswith(EVALUATE_PREFIX) and name != EVALUATE_PREFIX


def _make(name: str, settings: GraderSettings, where: str) -> Grader:
    if not _is_of_evaluate(name):
        return GRADERS.get(name, where=where)(settings)
    from moe_ray.scoring.evaluate_metrics import EvaluateGrader

    return EvaluateGrader(name.removeprefix(EVALUATE_PREFIX), settings.base_dir, settings.num_samples, where=where)


def _without_likelihood(names: Sequence[str], domain: DomainConfig, where: str) -> list[str]:
    if domain.graders is not None and NEEDS_LIKELIHOOD & set(domain.graders):
        named = ", ".join(sorted(NEEDS_LIKELIHOOD & set(domain.graders)))
        raise ConfigError(
            f"{named} need log-likelihoods, which this experiment does not measure",
            where=where,
            remedy="set likelihood: true, or leave these graders out",
        )
    return [name for name in names if name not in NEEDS_LIKELIHOOD]


def _require_distinct_metrics(graders: Sequence[Grader], where: str) -> None:
    seen: set[str] = set()
    for metric in (metric for grader in graders for metric in grader.metrics):
        if metric.name in seen:
            raise ConfigError(f"two graders give the metric {metric.name}", where=where, remedy="name each grader once")
        seen.add(metric.name)
