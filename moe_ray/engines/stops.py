"""Where a text ends."""

from collections.abc import Iterable


def stop_position(text: str, stops: Iterable[str]) -> int | None:
    """Return where the first of `stops` begins in `text`, None when none of them is there."""
    return min((text.find(stop) for stop in stops if stop and stop in text), default=None)
