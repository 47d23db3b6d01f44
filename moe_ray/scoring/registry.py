"""The graders that an experiment file can name."""

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from moe_ray.config.schema import DecodingConfig, DomainConfig, SandboxConfig
from moe_ray.errors import ConfigError
from moe_ray.fingerprint import file_sha256
from moe_ray.registry import Registry
from moe_ray.scoring.decisions import DecisionGrader, DecisionSettings, LikelihoodDecisionGrader
from moe_ray.scoring.numbers import FinalNumberGrader, NumberSettings
from moe_ray.scoring.reading import ReadingSettings, parsed
from moe_ray.scoring.references import BitsPerByteGrader, CompletenessGrader, RelevanceGrader, RougeLGrader
from moe_ray.scoring.score import Grader

EVALUATE_PREFIX = "evaluate:"

_MODULE_CLASS = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")

NEEDS_LIKELIHOOD = frozenset({"decision_loglik", "bits_per_byte"})


@dataclass(frozen=True, slots=True, kw_only=True)
class GraderSettings:
    """What a grader may depend on beside its name."""

    num_samples: int
    sandbox: SandboxConfig
    base_dir: Path
    reading: ReadingSettings | None = None


def _code_grader(settings: GraderSettings) -> Grader:
    # Imported when wanted: it brings the sandbox, which most domains never need.
    from moe_ray.scoring.code import CodeGrader

    return CodeGrader(settings.sandbox, settings.num_samples)


GRADERS: Registry[Callable[[GraderSettings], Grader]] = Registry("grader")
GRADERS.add("decision", lambda settings: DecisionGrader(settings.num_samples, settings.reading))
GRADERS.add("decision_loglik", lambda _: LikelihoodDecisionGrader())
GRADERS.add("rouge_l", lambda settings: RougeLGrader(settings.num_samples))
GRADERS.add("completeness", lambda settings: CompletenessGrader(settings.num_samples))
GRADERS.add("relevance", lambda settings: RelevanceGrader(settings.num_samples))
GRADERS.add("final_number", lambda settings: FinalNumberGrader(settings.num_samples, settings.reading))
GRADERS.add("bits_per_byte", lambda _: BitsPerByteGrader())
GRADERS.add("code", _code_grader)


# The settings of the graders that take some.
SETTINGS: Mapping[str, type[ReadingSettings]] = {"decision": DecisionSettings, "final_number": NumberSettings}


def check_grader_names(names: Sequence[str], *, where: str, domain: DomainConfig | None = None) -> None:
    """Raise `ConfigError` for an unknown name, and for settings in `domain` that a shipped grader does not take.

    Loads nothing, so that a plan can ask.
    """
    for at, (name, settings) in enumerate(zip(names, settings_of(names, domain), strict=True)):
        if not _is_of_evaluate(name) and not is_class(name):
            GRADERS.get(name, where=where)
            _reading_settings(name, settings, where=f"{where}.{at}.settings")


def settings_of(names: Sequence[str], domain: DomainConfig | None) -> list[Mapping[str, Any]]:
    """Return the settings of each of `names`: those that `domain` gives to the grader of that name at that place."""
    given = (domain.grader_configs if domain else None) or ()
    return [given[at].settings if at < len(given) and given[at].name == name else {} for at, name in enumerate(names)]


def is_class(name: str) -> bool:
    """Say whether `name` is spelled as a class, `module:Class`."""
    return not name.startswith(EVALUATE_PREFIX) and _MODULE_CLASS.fullmatch(name) is not None


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
    experiment file's folder), `module:Class` a class of the user's whose module may lie there. `domain` holds their
    settings. Without `likelihood` a task's own graders that need log-likelihoods are left out.

    Raises `ConfigError` for an unknown name, for wrong settings, for two graders with one metric, and for a grader that
    the experiment file names although it measures no log-likelihoods.
    """
    shared = GraderSettings(num_samples=decoding.samples_per_example, sandbox=sandbox, base_dir=base_dir)
    settings = dict(enumerate(settings_of(names, domain)))
    kept = set(names) if likelihood else set(_without_likelihood(names, domain, where))
    graders = [
        _make(name, settings[at], shared, f"{where}.{at}" if settings[at] else where)
        for at, name in enumerate(names)
        if name in kept
    ]
    _require_distinct_metrics(graders, where)
    return graders


def is_own_code(name: str) -> bool:
    """Say whether the grader called `name` is code that is not part of moe_ray, which making the grader would run.

    That is a class (`module:Class`), a path, and any metric of `evaluate`: it comes from the hub as a script.
    """
    return ":" in name or "/" in name or name.endswith(".py")


def _is_of_evaluate(name: str) -> bool:
    return name.startswith(EVALUATE_PREFIX) and name != EVALUATE_PREFIX


def _make(name: str, settings: Mapping[str, Any], shared: GraderSettings, where: str) -> Grader:
    if is_class(name):
        from moe_ray.scoring.own_graders import make_own_grader

        return make_own_grader(name, settings, shared.base_dir, where=where)
    if not _is_of_evaluate(name):
        reading = _reading_settings(name, settings, where=f"{where}.settings")
        return GRADERS.get(name, where=where)(replace(shared, reading=reading))
    from moe_ray.scoring.evaluate_metrics import EvaluateGrader

    spec = name.removeprefix(EVALUATE_PREFIX)
    return EvaluateGrader(spec, shared.base_dir, shared.num_samples, settings=settings, where=where)


def _reading_settings(name: str, settings: Mapping[str, Any], *, where: str) -> ReadingSettings | None:
    if not settings:
        return None
    kind = SETTINGS.get(name)
    if kind is None:
        raise ConfigError(
            f"grader {name} takes no settings", where=where, remedy=f"remove them; {', '.join(SETTINGS)} take some"
        )
    return parsed(kind, settings, where=where)


def _without_likelihood(names: Sequence[str], domain: DomainConfig, where: str) -> list[str]:
    explicit = set(domain.grader_names or ())
    if NEEDS_LIKELIHOOD & explicit:
        named = ", ".join(sorted(NEEDS_LIKELIHOOD & explicit))
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
            raise ConfigError(
                f"two graders give the metric {metric.name}",
                where=where,
                remedy="name each grader once; the setting metric_name gives a metric of evaluate another name",
            )
        seen.add(metric.name)


def code_of(names: Sequence[str]) -> dict[str, str]:
    """Return the SHA-256 of the files that the user's own graders among `names` were made from, once they are made."""
    files = {}
    for name in names:
        module = sys.modules.get(name.partition(":")[0]) if is_class(name) else None
        path = Path(
            name.removeprefix(EVALUATE_PREFIX) if _is_of_evaluate(name) else getattr(module, "__file__", "") or ""
        )
        if path.suffix == ".py" and path.is_file():
            files[name] = file_sha256(path)
    return files
