"""The one way from a folder or hub id to what transformers makes of it: data, never code, unless the user says so."""

from pathlib import Path
from typing import Any


class OwnCodeError(ValueError):
    """The files name code of their own (`auto_map`), which was not allowed to run."""


def read_pretrained(reader: Any, place: str | Path, *, trust_remote_code: bool = False, **settings: Any) -> Any:
    """Return `reader.from_pretrained(place)`. Raises `OwnCodeError`, and whatever transformers raises.

    Left to itself, transformers asks on standard input whether it may run the code that comes with the files.
    """
    try:
        return reader.from_pretrained(place, trust_remote_code=trust_remote_code, **settings)
    except ValueError as error:
        if trust_remote_code or "trust_remote_code" not in str(error):
            raise
        what = "it needs the code that comes with it (auto_map in its JSON files), which is not run here"
        raise OwnCodeError(what) from error
