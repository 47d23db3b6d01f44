"""Any metric of the `evaluate` library that compares texts, as a grader: `evaluate:NAME`, or `evaluate:./script.py`.

A metric that returns one value for each text (BERTScore) is computed for many answers in one call. Any other one is
computed on one answer and its reference alone, so that answers can be paired, filtered and bootstrapped. A metric whose
value for a corpus differs from the mean over its texts (BLEU) is therefore not its corpus figure. Each numeric result
becomes a metric of its own: `NAME` where the result has the name of the metric or is the only one, else `NAME.RESULT`.
Results that are neither a number nor a list of one number for each text (BLEU's precisions) are left out.

Settings of the grader that are not fields of `EvaluateSettings` are arguments of the metric.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from moe_ray.config.schema import is_local_path
from moe_ray.domains.example import Example
from moe_ray.domains.sources import require_file, resolve_path
from moe_ray.errors import ConfigError, first_line
from moe_ray.scoring.reading import parsed
from moe_ray.scoring.samples import Item, UnscorableError, sample_detail, score, unscored, usable_texts
from moe_ray.scoring.score import Metric, Score
from moe_ray.store.answers import Answer

LOWER_IS_BETTER = frozenset({"wer", "cer", "mer", "ter", "charcut_mt", "character", "perplexity"})
TEXTS_AT_A_TIME = 1000

AnswerPair = tuple[str, Example]
MetricValues = tuple[float, ...]

_PROBE = Example(
    id="probe",
    domain="probe",
    prompts={},
    reference="the quick answer to a short question",
    grading={"question": "what is quick?"},
)
# A list of this length for so many texts, and of length 1 for one, holds one value for each text.
_NUM_PROBES = 3

# What third-party metric scripts raise on texts that they were not written for; an empty answer is the usual one.
_METRIC_ERRORS = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError, OSError)


class EvaluateSettings(BaseModel):
    """Settings of a metric of `evaluate`. All others are arguments of the metric, such as `lang: en`."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    keep: Annotated[tuple[str, ...], BeforeValidator(lambda value: _as_tuple(value))] | None = Field(
        None, description="the results that become metrics; default: all that can"
    )
    higher_is_better: bool | None = Field(None, description="default: true, except for error rates that are known")
    worst: float | None = Field(
        None, description="what a failed answer counts as in comparisons; default: 0 where higher is better"
    )
    metric_name: str | None = Field(None, min_length=1, description="name of the metric in scores and report")
    config_name: str | None = Field(None, description="configuration of the metric, such as a BLEURT checkpoint")

    @property
    def arguments(self) -> dict[str, Any]:
        """The metric's own arguments."""
        return dict(self.model_extra or {})


def _as_tuple(value: object) -> object:
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value


class EvaluateGrader:
    """One metric of `evaluate`. It is loaded, and tried on equal texts, when the grader is made.

    Raises `ConfigError` when there is no such metric, when it lacks a package or an argument, or when it cannot compare
    two texts.
    """

    def __init__(
        self,
        spec: str,
        base_dir: Path,
        num_samples: int = 1,
        *,
        settings: Mapping[str, Any] | None = None,
        where: str = "graders",
    ) -> None:
        self.num_samples = num_samples
        self._spec = Path(spec).stem if is_local_path(spec) or spec.endswith(".py") else spec
        self._settings = parsed(EvaluateSettings, settings or {}, where=f"{where}.settings")
        self._metric = _load(spec, base_dir, self._settings.config_name, where)
        self._nests_references, result = self._probe(where)
        listed = self._listed(result)
        self._keys = self._chosen(result, listed, where)
        self._is_batched = set(self._keys) <= set(listed)
        self.metrics: tuple[Metric, ...] = tuple(self._describe(key) for key in self._keys)

    def grade(self, example: Example, model: str, answers: Sequence[Answer]) -> list[Score]:
        """Return one score for each of `metrics`; see `Grader.grade`."""
        return self.grade_many([(example, model, answers)])[0]

    def grade_many(self, items: Sequence[Item]) -> list[list[Score]]:
        """Grade many examples, in few calls of the metric where it gives one value for each text."""
        texts: list[list[str] | UnscorableError] = [_texts(answers) for _, _, answers in items]
        pairs = [
            (text, example)
            for (example, _, _), found in zip(items, texts, strict=True)
            if not isinstance(found, UnscorableError)
            for text in found
        ]
        values = iter(self._measure_many(pairs))
        return [
            self._scores(example, model, found if isinstance(found, UnscorableError) else [next(values) for _ in found])
            for (example, model, _), found in zip(items, texts, strict=True)
        ]

    def _scores(
        self, example: Example, model: str, rows: Sequence[MetricValues | UnscorableError] | UnscorableError
    ) -> list[Score]:
        if isinstance(rows, UnscorableError):
            return unscored(example, model, self.metrics, rows)
        known = [row for row in rows if not isinstance(row, UnscorableError)]
        for row in rows:
            if isinstance(row, UnscorableError):
                return unscored(example, model, self.metrics, row)
        detail = sample_detail(len(known), self.num_samples)
        return [
            score(example, model, metric, sum(column) / len(column), detail=detail)
            for metric, column in zip(self.metrics, zip(*known, strict=True), strict=True)
        ]

    def _measure_many(self, pairs: Sequence[AnswerPair]) -> list[MetricValues | UnscorableError]:
        if not self._is_batched:
            return [value for pair in pairs for value in self._measured([pair])]
        starts = range(0, len(pairs), TEXTS_AT_A_TIME)
        return [value for start in starts for value in self._measured(pairs[start : start + TEXTS_AT_A_TIME])]

    def _measured(self, pairs: Sequence[AnswerPair]) -> list[MetricValues | UnscorableError]:
        """Measure `pairs` in one call; where that fails, each half by itself, so that one text spoils no other."""
        try:
            result = self._compute(pairs, self._nests_references)
            return [self._values(result, at, len(pairs)) for at in range(len(pairs))]
        except _METRIC_ERRORS as error:
            if len(pairs) == 1:
                return [UnscorableError(f"evaluate:{self._spec} failed: {error}")]
        half = len(pairs) // 2
        return [*self._measured(pairs[:half]), *self._measured(pairs[half:])]

    def _values(self, result: Mapping[str, Any], at: int, num: int) -> MetricValues | UnscorableError:
        found: list[Any] = [result.get(key) for key in self._keys]
        if self._is_batched:
            if any(not _is_list(value, num) for value in found):
                raise ValueError(f"it gave no value for each of {num} texts")
            found = [value[at] for value in found]
        if not all(map(_is_number, found)):
            return UnscorableError(f"evaluate:{self._spec} gave no number")
        return tuple(map(float, found))

    def _compute(self, pairs: Sequence[AnswerPair], nests_references: bool) -> Mapping[str, Any]:
        """Give the metric the inputs that it names."""
        references = [example.reference for _, example in pairs]
        questions = [str(example.grading.get("question", "")) for _, example in pairs]
        known: dict[str, list[Any]] = {
            "predictions": [text for text, _ in pairs],
            "references": [[reference] for reference in references] if nests_references else references,
            "sources": questions,
        }
        names = _input_names(self._metric)
        inputs = {name: values for name, values in known.items() if name in names}
        result = self._metric.compute(**inputs, **self._settings.arguments)
        if not isinstance(result, Mapping):
            raise TypeError(f"its result is {type(result).__name__}, not a mapping")
        return result

    def _probe(self, where: str) -> tuple[bool, Mapping[str, Any]]:
        """Try two equal texts. Return whether the metric wants several references for each answer, and its result."""
        failures: list[Exception] = []
        for nests_references in (False, True):
            try:
                return nests_references, self._compute([(_PROBE.reference, _PROBE)], nests_references)
            except _METRIC_ERRORS as error:
                failures.append(error)
        raise ConfigError(
            f"evaluate:{self._spec} cannot compare two texts: {first_line(failures[0])}",
            where=where,
            remedy="name a metric whose predictions and references are texts, and give the arguments that it needs: "
            "{name: evaluate:NAME, settings: {ARGUMENT: VALUE}}",
        )

    def _listed(self, alone: Mapping[str, Any]) -> list[str]:
        """Return the results that hold one number for each text."""
        if not any(_is_list(value, 1) for value in alone.values()):
            return []
        try:
            several = self._compute([(_PROBE.reference, _PROBE)] * _NUM_PROBES, self._nests_references)
        except _METRIC_ERRORS:
            return []
        return [
            key
            for key, value in several.items()
            if _is_list(value, _NUM_PROBES) and all(map(_is_number, value)) and _is_list(alone.get(key), 1)
        ]

    def _chosen(self, result: Mapping[str, Any], listed: Sequence[str], where: str) -> tuple[str, ...]:
        single = [key for key, value in result.items() if _is_number(value)]
        keep = self._settings.keep
        keys = tuple(listed or single) if keep is None else keep
        known, given = (*listed, *single), ", ".join(result) or "nothing"
        if not known:
            raise ConfigError(
                f"evaluate:{self._spec} gives no number, but {given}",
                where=where,
                remedy="name a metric whose result is a number, or a list of one number for each text",
            )
        if wrong := [key for key in keys if key not in known]:
            raise ConfigError(
                f"evaluate:{self._spec} has no result {wrong[0]} that is a number; it gives {given}",
                where=f"{where}.settings.keep",
                remedy=f"keep some of: {', '.join(known)}",
            )
        if len({key in listed for key in keys}) > 1:
            raise ConfigError(
                f"evaluate:{self._spec}: {', '.join(keys)} are not all one value for each text",
                where=f"{where}.settings.keep",
                remedy=f"keep some of {', '.join(listed)}, or some of {', '.join(single)}",
            )
        return keys

    def _describe(self, key: str) -> Metric:
        settings, name = self._settings, self._settings.metric_name or self._spec
        known = self._spec not in LOWER_IS_BETTER
        higher = known if settings.higher_is_better is None else settings.higher_is_better
        worst = settings.worst if "worst" in settings.model_fields_set else (0.0 if higher else None)
        alone = len(self._keys) == 1 or key == self._spec
        given = "".join(f", {argument}={value!r}" for argument, value in sorted(settings.arguments.items()))
        return Metric(
            name=name if alone else f"{name}.{key}",
            definition=f"{key} of the evaluate metric {self._spec}{given}, computed answer by answer; mean over the "
            "examples",
            higher_is_better=higher,
            worst=worst,
        )


def _texts(answers: Sequence[Answer]) -> list[str] | UnscorableError:
    try:
        return usable_texts(answers)
    except UnscorableError as error:
        return error


def _input_names(metric: Any) -> frozenset[str]:
    """Return the names of the metric's inputs; of several formats, the first one's."""
    features = getattr(metric, "features", None)
    first = features[0] if isinstance(features, list) else features
    return frozenset(first or ("predictions", "references"))


def _load(spec: str, base_dir: Path, config_name: str | None, where: str) -> Any:
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
        return evaluate.load(place, config_name, keep_in_memory=True, seed=0)
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


def _is_number(value: object) -> bool:
    """Say whether `value` is one finite-sized number (Python's or NumPy's), and no truth value."""
    return hasattr(value, "__float__") and not isinstance(value, bool | str) and getattr(value, "ndim", 0) == 0


def _is_list(value: Any, length: int) -> bool:
    """Say whether `value` is a list of so many values (Python's or NumPy's)."""
    return (isinstance(value, list | tuple) or getattr(value, "ndim", 0) == 1) and len(value) == length
