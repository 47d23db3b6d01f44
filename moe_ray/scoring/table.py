"""The score table: one row per (model, domain, example, metric), in Parquet, with the metrics in its schema."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from moe_ray.atomic import write_atomically
from moe_ray.errors import RunDirectoryError
from moe_ray.scoring.score import Metric, Score

METRICS_KEY = b"moe_ray.metrics"

SCORE_SCHEMA = pa.schema(
    [
        pa.field("model", pa.string(), nullable=False),
        pa.field("domain", pa.string(), nullable=False),
        pa.field("example_id", pa.string(), nullable=False),
        pa.field("metric", pa.string(), nullable=False),
        pa.field("value", pa.float64()),
        pa.field("reason", pa.string()),
        pa.field("weight", pa.float64(), nullable=False),
        pa.field("label", pa.string()),
        pa.field("gold", pa.string()),
        pa.field("detail", pa.string()),
    ]
)


def write_scores(path: Path, scores: Sequence[Score], metrics: Mapping[str, Metric]) -> None:
    """Write the score table, whole or not at all. `metrics` go into the schema's metadata, as JSON, by name."""
    described = json.dumps({name: asdict(metric) for name, metric in metrics.items()})
    columns = {name: [getattr(score, name) for score in scores] for name in SCORE_SCHEMA.names}
    table = pa.table(columns, schema=SCORE_SCHEMA.with_metadata({METRICS_KEY: described.encode()}))
    write_atomically(path, lambda temporary: pq.write_table(table, temporary, compression="zstd"))


def read_scores(path: Path) -> tuple[list[Score], dict[str, Metric]]:
    """Return the scores, and the metrics by name. Raises `RunDirectoryError` when there is no readable table."""
    if not path.is_file():
        raise RunDirectoryError(
            "no scores here", where=str(path), remedy="run moe-ray evaluate (it scores answers that are there already)"
        )
    try:
        table = pq.read_table(path)
        described = json.loads(table.schema.metadata[METRICS_KEY])
        rows = table.select([field.name for field in fields(Score)]).to_pylist()
        metrics = {name: Metric(**metric) for name, metric in described.items()}
    except (pa.ArrowException, OSError, LookupError, TypeError, ValueError) as error:
        raise RunDirectoryError(
            f"the score table cannot be read: {error}",
            where=str(path),
            remedy="delete it; scoring again makes it anew from the answers",
        ) from error
    return [Score(**row) for row in rows], metrics
