"""Whether the model hub can be reached, found out once and quickly."""

import os
from functools import lru_cache

ANSWER_TIMEOUT_S = 3.0


@lru_cache(maxsize=1)
def hub_answers() -> bool:
    """Say whether the hub answers at all; asked once in a process, within seconds.

    huggingface_hub itself retries for half a minute before it gives up on a file, for every model anew.
    """
    from huggingface_hub import constants, get_session

    if os.environ.get("HF_HUB_OFFLINE", "0") not in ("0", ""):
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=ANSWER_TIMEOUT_S)
    except hub_errors():
        return False
    return True


def hub_errors() -> tuple[type[Exception], ...]:
    """What a request to the hub raises when it fails: no connection, a time-out, a refusal, an unusable answer."""
    from huggingface_hub import errors

    http_error: type[Exception] = errors.HTTPError  # type: ignore[attr-defined]  # of httpx, or of its successor
    return (http_error, OSError)
