"""Any metric of the `evaluate` library that compares texts, as a grader: `evaluate:NAME`, or `evaluate:./script.py`.

A score is the metric computed on one answer and its reference alone, so that answers can be paired, filtered and
bootstrapped; a metric that a corpus gives another value than the mean over its texts (BLEU) is therefore not its
corpus figure. Each numeric result becomes a metric of its own: `NAME` where the result has the name of the metric or
is the only one, else `NAME.RESULT`. Results that are no single number (BLEU's precisions) are left out.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from moe_ray.config.schema import is_local_path
from moe_ray.domains.example import Example
from moe_ray.domains.sources import require_file, resolve_path
from moe_ray.errors import ConfigError, first_line
from moe_ray.scoring.samples import TextGrader, UnscorableError
from moe_ray.scoring.score import Metric

LOWER_IS_BETTER = frozenset({"wer", "cer", "mer", "ter", "charcut_mt", "character", "perplexity"})

_PROBE = "the quick answer to a short question"

# What third-party metric scripts raise on texts that they were not written for; an empty answer is the usual one.
_METRIC_ERRORS = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError, OSError)


class EvaluateGrader(TextGrader):
    """One metric of `evaluate`. It is loaded, and tried on a pair of equal texts, when the grader is made.

    Raises `ConfigError` when there is no such metric, when it lacks a package, or when it cannot compare two texts.
    """

    def __init__(self, spec: str, base_dir: Path, num_samples: int = 1, *, where: str = "graders") -> None:
        super().__init__(num_samples)
        self._name = Path(spec).stem if is_local_path(spec) or spec.endswith(".py") else spec
        self._metric = _load(spec, base_dir, where)
        self._nests_references, result = _probe(self._metric, self._name, where)
        self._keys = tuple(key for key, value in result.items() if _is_number(value))
        if not self._keys:
            raise ConfigError(
                f"evaluate:{self._name} gives no number, but {', '.join(result) or 'nothing'}",
                where=where,
                remedy="name a metric whose result is a number",
            )
        self.metrics = tuple(self._describe(key) for key in self._keys)

    def measure(self, example: Example, text: str) -> Sequence[float]:
        """Return the metric's numbers for `text` against the example's reference."""
        try:
            result = _compute(self._metric, text, example.reference, self._nests_references)
        except _METRIC_ERRORS as error:
            raise UnscorableError(f"evaluate:{self._name} failed: {error}") from error
        if not all(_is_number(result.get(key)) for key in self._keys):
            raise UnscorableError(f"evaluate:{self._name} gave no number")
        return [float(result[key]) for key in self._keys]

    def _describe(self, key: str) -> Metric:
        alone = len(self._keys) == 1 or key == self._name
        return Metric(
            name=self._name if alone else f"{self._name}.{key}",
            definition=f"{key} of the evaluate metric {self._name}, computed answer by answer; mean over the examples",
            higher_is_better=self._name not in LOWER_IS_BETTER,
        )


def _load(spec: str, base_dir: Path, where: str) -> Any:
    import evaluate

    place = spec
    if is_local_path(spec) or spec.endswith(".py"):
        path = resolve_path(spec, base_dir)
        require_file(path)
        place = str(path)
    else:
        _require_no_script_here(spec, where)
    try:
        # In memory, and with one seed: no lock between two runs, and the same value each time.
        return evaluate.load(place, keep_in_memory=True, seed=0)
    except ImportError as error:
        raise ConfigError(
            f"evaluate:{spec} lacks a package: {error}",
            where=where,
            remedy="install it into the environment of moe-ray",
        ) from error
    except (OSError, ValueError, LookupError) as error:
        raise ConfigError(
            f"evaluate has no metric {spec!r} that can be loaded here: {first_line(error)}",
            where=where,
            remedy="check the name; without network name a script: evaluate:./FILE.py",
        ) from error


def _require_no_script_here(name: str, where: str) -> None:
    """Refuse the name of a script in the working directory, which `evaluate` would run in place of the hub's metric."""
    script = Path(name, f"{Path(name).name}.py")
    if script.is_file():
        raise ConfigError(
            f"evaluate would run {script} of the working directory as {name!r}",
            where=where,
            remedy=f"to use that script, name it with its path: evaluate:./{script}; else run from another directory",
        )


def _probe(metric: Any, name: str, where: str) -> tuple[bool, Mapping[str, Any]]:
    """Try the metric on two equal texts. Return whether it wants several references for each answer, and its result."""
    failures: list[Exception] = []
    for nests_references in (False, True):
        try:
            return nests_references, _compute(metric, _PROBE, _PROBE, nests_references)
        except _METRIC_ERRORS as error:
            failures.append(error)
    raise ConfigError(
        f"evaluate:{name} cannot compare two texts: {first_line(failures[0])}",
        where=where,
        remedy="name a metric whose predictions and references are texts",
    )


def _compute(metric: Any, text: str, reference: str, nests_references: bool) -> Mapping[str, Any]:
    result = metric.compute(predictions=[text], references=[[reference] if nests_references else reference])
    if not isinstance(result, Mapping):
        raise TypeError(f"its result is {type(result).__name__}, not a mapping")
    return result


def _is_number(value: object) -> bool:
    """Say whether `value` is one finite-sized number (Python's or NumPy's), and no truth value."""
    return hasattr(value, "__float__") and not isinstance(value, bool | str) and getattr(value, "ndim", 0) == 0
