"""The interface of a domain: records in, examples out, and the graders that its answers get."""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from moe_ray.config.schema import DomainConfig
from moe_ray.domains.example import Example

Record = Mapping[str, Any]


class Task(Protocol):
    """How the records of a data set become examples. A class named in the YAML implements this.

    It is constructed as `Task(name, config)` with the domain's name and its section of the experiment file.
    """

    default_graders: tuple[str, ...]

    def __init__(self, name: str, config: DomainConfig) -> None: ...

    def examples(self, records: Iterable[Record]) -> Iterable[Example]:
        """Turn records, in the data set's published format, into examples.

        Raises `DataError` naming the record and the column when a record is malformed.
        """
        ...
