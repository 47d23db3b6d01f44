"""The records of summary.json; those of its `routing` are in routing_records.py.

docs/reference/summary.md explains them; change both together.
"""

from typing import Any, Literal

from pydantic import Field

from moe_ray.comparison.resampling import IntervalMethod
from moe_ray.comparison.routing_records import RoutingSummary
from moe_ray.comparison.statistics import Test
from moe_ray.comparison.systems import SystemKind
from moe_ray.files import StoredRecord
from moe_ray.scoring.score import Aggregation
from moe_ray.store.records import GivenUp, SessionRecord

Verdict = Literal["a_better", "b_better", "no_difference_shown", "not_concluded", "not_tested"]
LatencyQuantity = Literal["total_s", "time_to_first_token_s"]
MemoryKind = Literal["gpu_process", "torch", "gpu_device", "resident"]


class MetricInfo(StoredRecord):
    """How a metric is read."""

    definition: str
    aggregation: Aggregation
    higher_is_better: bool
    binary: bool
    worst: float | None
    unit: str


class SystemInfo(StoredRecord):
    """A system, and how many examples of each domain each model answers in it."""

    name: str
    kind: SystemKind
    definition: str
    picks: dict[str, dict[str, int]]


class AnsweredValue(StoredRecord):
    """A metric over the examples that the system answered alone, its failures left out."""

    value: float | None
    low: float | None
    high: float | None
    n: int


class MetricValue(StoredRecord):
    """One metric of one system on one domain. `value` is None when nothing was scored, or `not_concluded` says why.

    `value` counts each of the `n_failed` failures as the metric's worst value; `answered` is the figure without them,
    None where nothing failed.
    """

    system: str
    domain: str
    metric: str
    value: float | None
    low: float | None
    high: float | None
    interval: IntervalMethod | None
    n: int
    n_unscored: int
    unscored_reasons: dict[str, int]
    n_failed: int = 0
    failed_reasons: dict[str, int] = Field(default_factory=dict)
    answered: AnsweredValue | None = None
    not_concluded: str | None = None


class AnsweredDifference(StoredRecord):
    """A paired difference over the examples that both systems answered alone, failures left out."""

    value_a: float | None
    value_b: float | None
    difference: float | None
    low: float | None
    high: float | None
    n_pairs: int


class PairedComparison(StoredRecord):
    """System a minus system b on the same examples, failures counted as the metric's worst value.

    `answered` is the difference where both answered, None where neither failed. `detectable` is the smallest difference
    that these pairs would have shown with a probability of 80 %. `not_concluded` says why there is no test.
    """

    system_a: str
    system_b: str
    domain: str
    metric: str
    value_a: float | None
    value_b: float | None
    difference: float | None
    low: float | None
    high: float | None
    p_value: float | None
    p_adjusted: float | None
    test: Test | None
    n_pairs: int
    n_dropped: int
    n_failed_a: int = 0
    n_failed_b: int = 0
    answered: AnsweredDifference | None = None
    detectable: float | None = None
    not_concluded: str | None = None
    verdict: Verdict


class Spread(StoredRecord):
    """A handful of measurements."""

    n: int
    minimum: float
    median: float
    maximum: float


class LatencyDistribution(StoredRecord):
    """Exact order statistics over all answers, and a histogram that merges by adding counts."""

    quantity: LatencyQuantity
    n: int
    p50_s: float
    p90_s: float
    p99_s: float
    maximum_s: float
    histogram: dict[int, int]


class ProbeSummary(StoredRecord):
    """The batch-size-1 probe: what one user alone would wait."""

    total_s: Spread
    time_to_first_token_s: Spread | None
    completion_tokens_per_s: float | None


class PeakMemory(StoredRecord):
    """Largest figure of any replica, in bytes; None where no replica could say.

    `client_bytes` is the resident set of a process that asks an endpoint: the model's own memory is not known then.
    """

    weights_bytes: int | None
    resident_bytes: int | None
    torch_bytes: int | None
    gpu_process_bytes: int | None
    gpu_device_bytes: int | None
    gpu_not_returned_bytes: int | None
    client_bytes: int | None = None


class ModelResources(StoredRecord):
    """What one model cost, over all its replicas and sessions."""

    num_replicas: int
    num_replicas_lost: int
    devices: list[str]
    num_answers: int
    num_completion_tokens: int
    busy_s: float
    completion_tokens_per_busy_s: float | None
    answers_per_busy_s: float | None
    batch_rows_median: float | None
    load_s: Spread | None
    unload_s: Spread | None
    peak_memory: PeakMemory
    gpu_energy_j: float | None
    num_replicas_with_energy: int
    latency: list[LatencyDistribution]
    probe: ProbeSummary | None


class CostRatio(StoredRecord):
    """A mean cost over the baseline's, with a 95 % interval; `num_batches` is the smaller number of either side.

    Batches are the units, since the answers of one share its time. What differs between two starts of a replica does
    not show within one run: both bounds have an allowance for it. None without two batches on either side.
    """

    value: float
    low: float | None
    high: float | None
    num_batches: int


class ExampleCost(StoredRecord):
    """What one example of a domain costs a system: time on a slot, and memory held for that time.

    `router_s` is the part of `busy_s` that the router takes; None for systems without one. `resident_bytes` is the
    memory of all models that the system may pick on any domain, kept loaded together; None where one is not measured.
    `time_ratio` and `memory_ratio` are over the baseline's, None for it and without it.
    """

    system: str
    domain: str
    n: int
    busy_s: float
    memory_byte_s: float | None
    memory_kind: MemoryKind | None
    router_s: float | None = None
    resident_bytes: int | None = None
    time_ratio: CostRatio | None = None
    memory_ratio: CostRatio | None = None


class TruncatedPrompts(StoredRecord):
    """Of the answers of one model to one domain that say so: how many had their prompt cut from the left."""

    model: str
    domain: str
    num_answers: int
    num_truncated: int
    max_truncated_tokens: int


class CutAnswers(StoredRecord):
    """Of the generated answers of one model to one domain: how many ended at the limit on new tokens."""

    model: str
    domain: str
    num_answers: int
    num_cut: int


class RunInfo(StoredRecord):
    """Which run this summarises, and how far it came."""

    name: str
    description: str = ""
    moe_ray_version: str
    created_at: float
    complete: bool
    num_cells_done: int
    num_answers_with_error: int
    num_cells_given_up: int
    given_up: list[GivenUp]
    sessions: list[SessionRecord]
    notes: list[str]
    baseline: str | None
    experts: dict[str, str]
    identity: dict[str, Any]
    models: dict[str, dict[str, Any]]
    domains: dict[str, dict[str, Any]]
    prompts: dict[str, dict[str, Any]]
    sandbox: dict[str, Any] | None


class Summary(StoredRecord):
    """Everything that a run concluded."""

    schema_version: Literal[2] = 2
    run: RunInfo
    metrics: dict[str, MetricInfo]
    domain_metrics: dict[str, list[str]]
    systems: list[SystemInfo]
    values: list[MetricValue]
    comparisons: list[PairedComparison]
    models: dict[str, ModelResources]
    costs: list[ExampleCost]
    truncated_prompts: list[TruncatedPrompts]
    cut_answers: list[CutAnswers] = Field(default_factory=list)
    routing: RoutingSummary | None = None

    def value(self, system: str, domain: str, metric: str) -> MetricValue | None:
        """The value of one metric, None when that system does not answer that domain."""
        wanted = (system, domain, metric)
        return next((item for item in self.values if (item.system, item.domain, item.metric) == wanted), None)

    def cost(self, system: str, domain: str) -> ExampleCost | None:
        """The cost of one example, None where it was not measured."""
        return next((item for item in self.costs if (item.system, item.domain) == (system, domain)), None)
