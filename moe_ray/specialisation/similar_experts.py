"""Similarities of experts as rows of the report."""

from collections.abc import Iterator

from moe_ray.specialisation.measures import MeasuredValue, number_or_none
from moe_ray.specialisation.records import Trace

UNRELATED = "unrelated experts"
COLUMNS = {"weights": "weight_cosine", "outputs": "output_cka"}


def similar_experts(trace: Trace) -> Iterator[MeasuredValue]:
    """Yield both similarities of each pair of experts; both are corrected so that unrelated experts have 0."""
    if trace.similarity is None:
        return
    for row in trace.similarity.to_pylist():
        for column, measure in COLUMNS.items():
            value = number_or_none(row[column])
            yield MeasuredValue(
                measure=measure,
                unit="share",
                layer=row["layer"],
                expert=row["a"],
                other=str(row["b"]),
                value=value,
                null=UNRELATED,
                null_mean=0.0,
                excess=value,
            )
