"""The routes of a run's examples: routes.parquet, one row per example."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from moe_ray.arrays import FloatArray
from moe_ray.files import parse_json


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Routes:
    """What a router said of n examples of a run.

    `domains` are the names behind the columns of `probabilities` [n, num_domains]; what a row lacks to 1 is the
    probability of no domain. `scores` [n] say how much a query looks like the domains' own: below `threshold` it
    counts as out-of-domain. `seconds` [n]: the time that routing it took, its share of its batch.
    """

    router: str
    domains: tuple[str, ...]
    threshold: float
    example_domains: tuple[str, ...]
    example_ids: tuple[str, ...]
    probabilities: FloatArray
    scores: FloatArray
    seconds: FloatArray
    _places: Mapping[tuple[str, str], int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        places = {key: at for at, key in enumerate(zip(self.example_domains, self.example_ids, strict=True))}
        object.__setattr__(self, "_places", places)

    def rows(self, domain: str, example_ids: Sequence[str]) -> npt.NDArray[np.intp]:
        """The row of each of `example_ids`; -1 where the router was not asked."""
        return np.array([self._places.get((domain, example_id), -1) for example_id in example_ids], dtype=np.intp)

    @property
    def chosen(self) -> npt.NDArray[np.intp]:
        """The most probable domain's place in `domains` [n]."""
        return np.asarray(self.probabilities.argmax(axis=1), dtype=np.intp)

    @property
    def is_out_of_domain(self) -> npt.NDArray[np.bool_]:
        """True [n] where the score is below the threshold."""
        return np.asarray(self.scores < self.threshold, dtype=np.bool_)


ROUTE_SCHEMA = pa.schema(
    [
        pa.field("domain", pa.string(), nullable=False),
        pa.field("example_id", pa.string(), nullable=False),
        pa.field("chosen", pa.string(), nullable=False),
        pa.field("is_out_of_domain", pa.bool_(), nullable=False),
        pa.field("score", pa.float64(), nullable=False),
        pa.field("seconds", pa.float64(), nullable=False),
        pa.field("probabilities", pa.list_(pa.float64()), nullable=False),
    ]
)
_ABOUT = b"moe_ray"
TOLERANCE = 1e-6
MAX_SECONDS = 1e6


def routes_to_table(routes: Routes) -> pa.Table:
    """Routes as a table that pandas and DuckDB open: `chosen` and `is_out_of_domain` are written out for them."""
    columns = {
        "domain": list(routes.example_domains),
        "example_id": list(routes.example_ids),
        "chosen": [routes.domains[at] for at in routes.chosen],
        "is_out_of_domain": routes.is_out_of_domain,
        "score": routes.scores,
        "seconds": routes.seconds,
        "probabilities": list(routes.probabilities),
    }
    about = {"router": routes.router, "domains": list(routes.domains), "threshold": routes.threshold}
    return pa.table(columns, schema=ROUTE_SCHEMA.with_metadata({_ABOUT: json.dumps(about)}))


def routes_of_table(table: pa.Table) -> Routes:
    """The routes of a table that `routes_to_table` made. Raises `LookupError`, `TypeError` or `ValueError` for another.

    Probabilities from 0 to 1, finite scores, and seconds from 0 are checked, so that no damaged number is drawn.
    """
    about = parse_json(table.schema.metadata[_ABOUT])
    flat = table.column("probabilities").combine_chunks().flatten().to_numpy(zero_copy_only=False)
    routes = Routes(
        router=str(about["router"]),
        domains=tuple(str(name) for name in about["domains"]),
        threshold=float(about["threshold"]),
        example_domains=tuple(table.column("domain").to_pylist()),
        example_ids=tuple(table.column("example_id").to_pylist()),
        probabilities=flat.reshape(table.num_rows, len(about["domains"])),
        scores=table.column("score").to_numpy(),
        seconds=table.column("seconds").to_numpy(),
    )
    for name, numbers, least, most in (
        ("a probability", routes.probabilities, -TOLERANCE, 1 + TOLERANCE),
        ("a score", routes.scores, -np.finfo(np.float64).max, np.finfo(np.float64).max),
        ("seconds", routes.seconds, 0.0, MAX_SECONDS),
    ):
        if not bool(((numbers >= least) & (numbers <= most)).all()):  # NaN is neither
            raise ValueError(f"{name} outside [{least:g}, {most:g}]")
    if not set(routes.example_domains) <= set(routes.domains):
        raise ValueError("an example of a domain that the router does not know")
    return routes
