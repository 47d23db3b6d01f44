"""What a comparison of traces holds."""

from typing import Literal

from pydantic import Field

from moe_ray.files import StoredRecord

DifferenceMeasure = Literal["lift", "load_entropy", "generalised_js"]


class LayerMatch(StoredRecord):
    """How well the experts of two layers match: the mean `similarity` of matched experts, and its null.

    `similarity` is the mean correlation of profiles; `null_mean` to `null_high` are those of rotated axes. `q_value`
    is adjusted over the layers. `unmatched_a` and `unmatched_b` are experts without a partner.
    """

    layer_a: int
    layer_b: int
    num_experts_a: int
    num_experts_b: int
    similarity: float
    null_mean: float
    null_low: float
    null_high: float
    p_value: float
    q_value: float | None = None
    unmatched_a: list[int] = Field(default_factory=list)
    unmatched_b: list[int] = Field(default_factory=list)


class ExpertMatch(StoredRecord):
    """Two matched experts. `q_value` is adjusted over all pairs; a pair that is not significant is a chance match."""

    layer_a: int
    layer_b: int
    expert_a: int
    expert_b: int
    similarity: float
    null_mean: float
    null_high: float
    p_value: float
    q_value: float | None = None


class UseDifference(StoredRecord):
    """B less A: log2 lift of a class in two matched experts, or a measure of a whole layer.

    `low` and `high` bound the 95 % interval over texts of the difference corrected for bias. Differences of lift are
    tested where the match is not chance; `q_value` is adjusted over all differences of the measure.
    """

    measure: DifferenceMeasure
    unit: str
    layer_a: int
    layer_b: int
    expert_a: int | None = None
    expert_b: int | None = None
    label: str | None = None
    value_a: float | None
    value_b: float | None
    difference: float | None
    low: float | None
    high: float | None
    p_value: float | None
    q_value: float | None = None


class TraceComparison(StoredRecord):
    """One trace B compared with the reference A. `is_paired`: differences are over the `num_shared` texts of both."""

    a: str
    b: str
    model_a: str
    model_b: str
    matched_by: Literal["texts", "classes"]
    is_paired: bool
    num_shared: int
    classes: dict[str, tuple[int, int]]
    layers: list[LayerMatch]
    experts: list[ExpertMatch]
    differences: list[UseDifference]
    families: dict[str, int] = Field(default_factory=dict)
    notes: list[str] = Field(default_factory=list)


class ComparisonReport(StoredRecord):
    """Comparisons of traces with the first one."""

    format: Literal[1] = 1
    comparisons: list[TraceComparison]
