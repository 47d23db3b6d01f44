"""Who may ask: API keys, and the Host and Origin of a request, so that a web page cannot drive a local server."""

import hashlib
import hmac
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from moe_ray.errors import ConfigError
from moe_ray.serving.calls import ApiError

MIN_KEY_CHARACTERS = 16
LOOPBACK = ("localhost", "127.0.0.1", "::1")
_KEY = re.compile(r"[\x21-\x7e]+")
ANY_HOST = ("0.0.0.0", "::")


def read_keys(path: Path) -> tuple[bytes, ...]:
    """Return the SHA-256 of each key in a file of one key a line; `#` begins a comment.

    Raises `ConfigError` for a file that cannot be read, holds no key or a short one, or that others may read.
    """
    where = f"serving.api_keys_file: {path}"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        others_may_read = bool(path.stat().st_mode & 0o077) and os.name == "posix"
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot be read: {error}", where=where, remedy="name a file of keys, one a line") from error
    if others_may_read:
        raise ConfigError("other users of this machine may read it", where=where, remedy=f"chmod 600 {path}")
    keys = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    for number, key in enumerate(keys, start=1):
        if len(key) < MIN_KEY_CHARACTERS or not _KEY.fullmatch(key):
            raise ConfigError(
                f"key {number} is not {MIN_KEY_CHARACTERS} or more printable characters without spaces",
                where=where,
                remedy="make one with: python -c 'import secrets; print(secrets.token_urlsafe(32))'",
            )
    if not keys:
        raise ConfigError("holds no key", where=where, remedy="write one key a line")
    return tuple(_digest(key.encode()) for key in keys)


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


class AccessGate:
    """Refuses a request by its headers alone.

    Args:
        digests: SHA-256 of the API keys; empty for none.
        hosts: names that a Host header may give, without port; "0.0.0.0" or "::" lets any through.
    """

    def __init__(self, digests: Sequence[bytes], hosts: Sequence[str]) -> None:
        self._digests = tuple(digests)
        self._hosts = frozenset(host.lower().strip("[]") for host in (*LOOPBACK, *hosts))
        self._any_host = any(host in hosts for host in ANY_HOST)

    def require_host(self, headers: Mapping[str, str]) -> None:
        """Raise `ApiError` for a name that is not this server's, and for a page of another origin."""
        host = headers.get("host", "")
        if not self._any_host and _name(f"//{host}") not in self._hosts:
            raise ApiError(
                403,
                "this server does not answer to that Host; name it in serving.allowed_hosts",
                kind="permission_error",
                code="host_not_allowed",
            )
        origin = headers.get("origin")
        if origin is not None and _netloc(origin) != host.lower():
            raise ApiError(
                403,
                "pages of other origins may not use this server",
                kind="permission_error",
                code="origin_not_allowed",
            )

    def require_key(self, headers: Mapping[str, str]) -> None:
        """Raise `ApiError` unless a key is given that is known, or none is needed."""
        if not self._digests:
            return
        given = [headers.get("x-api-key", "")]
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            given.append(token.strip())
        # Every key is compared, so that the time tells nothing.
        known = [
            hmac.compare_digest(_digest(key.encode("utf-8", "surrogateescape")), digest)
            for key in given
            if key
            for digest in self._digests
        ]
        if not any(known):
            raise ApiError(
                401,
                "no API key, or one that is not known: send it as Authorization: Bearer KEY",
                kind="authentication_error",
                code="invalid_api_key",
            )


def _netloc(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc.lower() or None
    except ValueError:
        return None


def _name(address: str) -> str | None:
    try:
        return urlsplit(address).hostname
    except ValueError:
        return None
