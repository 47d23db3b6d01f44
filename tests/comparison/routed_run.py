"""Small runs with a router, from plain values: each test says what every model scored and where the router sent it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from moe_ray.arrays import FloatArray
from moe_ray.comparison.matrix import RunMatrix
from moe_ray.comparison.records import Summary
from moe_ray.comparison.runs import ScoredRun
from moe_ray.comparison.summary import SUMMARY_COLUMNS, analyse, summarise
from moe_ray.scoring.score import Metric, Score
from moe_ray.store.records import Manifest, ReplicaTelemetry
from moe_ray.store.routes import Routes

BASE = "general"
SCORE = Metric(name="accuracy", definition="a mean")
LOSS = Metric(name="accuracy", definition="a mean of which lower is better", higher_is_better=False)
MACRO_F1 = Metric(name="accuracy", definition="macro-F1", aggregation="macro_f1")
ABSENT = float("inf")  # stands where a model was not asked at all
FAILED = float("-inf")  # and this where it failed

Values = Sequence[float | None]


def example_id(at: int) -> str:
    return f"e{at:05d}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutedRun:
    """`values` maps (domain, model) to what the model scored on the domain's examples; None: unscored.

    The baseline is "general", and the expert of a domain "d" is "expert-d", unless said otherwise. Each answer took
    the seconds of `busy_s` for its model, 1 where it says nothing.
    """

    values: Mapping[tuple[str, str], Values]
    metric: Metric = SCORE
    baseline: str | None = BASE
    experts: Mapping[str, str] | None = None
    busy_s: Mapping[str, float] = field(default_factory=dict)
    memory_bytes: Mapping[str, int | None] = field(default_factory=dict)
    labels: Mapping[tuple[str, str], Sequence[str]] = field(default_factory=dict)
    golds: Mapping[str, Sequence[str]] = field(default_factory=dict)
    weights: Sequence[float] | None = None

    @property
    def domains(self) -> list[str]:
        return sorted({domain for domain, _ in self.values})

    @property
    def models(self) -> list[str]:
        return sorted({model for _, model in self.values})

    def scores(self) -> list[Score]:
        return [
            Score(
                model=model,
                domain=domain,
                example_id=example_id(at),
                metric=self.metric.name,
                value=None if value == FAILED else value,
                reason={None: "no answer", FAILED: "error: out of memory"}.get(value),
                failed=value == FAILED,
                weight=1.0 if self.weights is None else self.weights[at],
                label=self.labels[domain, model][at] if self.labels else None,
                gold=self.golds[domain][at] if self.golds else None,
            )
            for (domain, model), values in self.values.items()
            for at, value in enumerate(values)
            if value != ABSENT
        ]

    def num_examples(self, domain: str) -> int:
        return max(len(values) for (name, _), values in self.values.items() if name == domain)

    def manifest(self, **changes: Any) -> Manifest:
        experts = {d: f"expert-{d}" for d in self.domains} if self.experts is None else dict(self.experts)
        facts: dict[str, Any] = {
            "name": "routed",
            "moe_ray_version": "0",
            "created_at": 0.0,
            "identity": {},
            "models": {model: {} for model in self.models},
            "domains": {domain: {} for domain in self.domains},
            "prompts": {},
            "baseline": self.baseline,
            "experts": experts,
        }
        return Manifest(**(facts | changes))

    def matrix(self) -> RunMatrix:
        return analyse(self.scores(), {self.metric.name: self.metric}, self.manifest(), None).run

    def answers(self) -> pa.Table:
        """One answer for each score that has a value, made alone."""
        rows = [
            {
                "model": score.model,
                "domain": score.domain,
                "example_id": score.example_id,
                "kind": "generate",
                "finish_reason": "stop",
                "batch_rows": 1,
                "time_to_first_token_s": 0.0,
                "total_s": self.busy_s.get(score.model, 1.0),
                "num_truncated_tokens": 0,
            }
            for score in self.scores()
            if score.value is not None
        ]
        return pa.Table.from_pylist(rows).select(list(SUMMARY_COLUMNS))

    def telemetry(self) -> list[ReplicaTelemetry]:
        models = self.answers().column("model").to_pylist()
        return [
            ReplicaTelemetry(
                replica=model,
                model=model,
                session="s",
                node="n",
                pid=1,
                device="cuda:0",
                started_at=0.0,
                busy_s=models.count(model) * self.busy_s.get(model, 1.0),
                peak_torch_bytes=self.memory_bytes.get(model),
            )
            for model in self.models
        ]

    def summary(self, routes: Routes | None = None, **changes: Any) -> Summary:
        metrics = {self.metric.name: self.metric}
        return summarise(
            self.scores(), metrics, self.manifest(**changes), self.telemetry(), self.answers(), routes=routes
        )

    def scored(self, routes: Routes | None = None, **changes: Any) -> ScoredRun:
        """The summary with what is behind it, as runs are compared."""
        manifest = self.manifest(**changes)
        metrics = {self.metric.name: self.metric}
        return ScoredRun(self.summary(routes, **changes), analyse(self.scores(), metrics, manifest, routes))

    def routes(
        self,
        chosen: Mapping[str, Sequence[str]],
        scores: Mapping[str, Sequence[float]] | None = None,
        *,
        threshold: float = 0.0,
        seconds: float = 0.25,
    ) -> Routes:
        """Routes that choose `chosen`, by domain; without `scores` all examples score 1."""
        places = [(domain, at) for domain in self.domains for at in range(len(chosen.get(domain, ())))]
        probabilities: FloatArray = np.full((len(places), len(self.domains)), 0.1)
        for row, (domain, at) in enumerate(places):
            probabilities[row, self.domains.index(chosen[domain][at])] = 0.6
        return Routes(
            router="r",
            domains=tuple(self.domains),
            threshold=threshold,
            example_domains=tuple(domain for domain, _ in places),
            example_ids=tuple(example_id(at) for _, at in places),
            probabilities=probabilities,
            scores=np.array([1.0 if scores is None else scores[domain][at] for domain, at in places]),
            seconds=np.full(len(places), seconds),
        )

    def all_to(self, pick: Mapping[str, str]) -> Routes:
        """Routes that send each domain whole to another."""
        return self.routes({domain: [pick[domain]] * self.num_examples(domain) for domain in self.domains})


def labelled_run(golds: Mapping[str, Sequence[str]], labels: Mapping[tuple[str, str], Sequence[str]]) -> RoutedRun:
    """A run whose headline metric is macro-F1; an answer's score says whether its label is the gold one."""
    values = {
        place: [float(label == gold) for label, gold in zip(of_model, golds[place[0]], strict=True)]
        for place, of_model in labels.items()
    }
    return RoutedRun(values=values, metric=MACRO_F1, labels=labels, golds=golds)


def random_values(
    rng: np.random.Generator, domains: Sequence[str], num_examples: int, *, num_unscored: int = 0, levels: int = 5
) -> dict[tuple[str, str], list[float | None]]:
    """Scores of the baseline and every expert on every domain, of a few levels so that there are ties."""
    models = [BASE, *(f"expert-{domain}" for domain in domains)]
    values: dict[tuple[str, str], list[float | None]] = {}
    for domain in domains:
        for model in models:
            drawn: list[float | None] = (rng.integers(0, levels, num_examples) / (levels - 1)).tolist()
            for at in rng.integers(0, num_examples, num_unscored).tolist():
                drawn[at] = None
            values[domain, model] = drawn
    return values


def random_routes(
    run: RoutedRun, rng: np.random.Generator, *, threshold: float = 0.4, num_levels: int | None = None
) -> Routes:
    """A router that knows nothing: its choices are drawn evenly, its scores too (of `num_levels` different ones)."""
    chosen, scores = {}, {}
    for domain in run.domains:
        num = run.num_examples(domain)
        chosen[domain] = [run.domains[at] for at in rng.integers(0, len(run.domains), num)]
        drawn = rng.random(num)
        scores[domain] = (np.floor(drawn * num_levels) / num_levels if num_levels else drawn).tolist()
    return run.routes(chosen, scores, threshold=threshold)


def mean(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return sum(known) / len(known)
