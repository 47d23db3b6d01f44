"""Where the router sent each example of a run: routes.parquet, one row an example."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Routes:
    """What a router said of n examples of a run.

    `domains` are the names behind the columns of `probabilities` [n, num_domains]; what a row lacks to 1 is the
    probability of no domain. `scores` [n] say how much a query looks like the domains' own: below `threshold` it
    counts as foreign. `seconds` [n]: the time that routing it took, its share of its batch.
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
    def is_foreign(self) -> npt.NDArray[np.bool_]:
        """True [n] where the score is below the threshold."""
        return np.asarray(self.scores < self.threshold, dtype=np.bool_)
