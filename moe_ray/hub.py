"""Check once, quickly, if the model hub can be reached."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

ANSWER_TIMEOUT_S = 3.0


@lru_cache(maxsize=1)
def hub_answers() -> bool:
    """Say whether the hub answers at all; asked once in a process, within seconds.

    huggingface_hub and datasets retry for half a minute before they give up on a file or a data set, each time again.
    """
    from huggingface_hub import constants, get_session

    if os.environ.get("HF_HUB_OFFLINE", "0") not in ("0", ""):
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=ANSWER_TIMEOUT_S)
    except hub_errors():
        return False
    return True


@contextmanager
def without_retries() -> Iterator[None]:
    """Where the hub does not answer, let its libraries read their caches alone, without a request."""
    from huggingface_hub import constants

    if hub_answers():
        yield
        return
    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def hub_errors() -> tuple[type[Exception], ...]:
    """What a request to the hub raises when it fails: no connection, a time-out, a refusal, an unusable answer."""
    from huggingface_hub import errors

    http_error: type[Exception] = errors.HTTPError  # type: ignore[attr-defined]  # of httpx, or of its successor
    return (http_error, OSError)
