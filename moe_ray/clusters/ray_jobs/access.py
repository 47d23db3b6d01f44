"""Where a Ray cluster's Jobs API is, and the token that it asks for."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from moe_ray.errors import UserError
from moe_ray.files import read_text

LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "::1")
TOKEN_PATH_VARIABLE, TOKEN_VARIABLE = "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_TOKEN"
MAX_TOKEN_BYTES = 4096
_WHERE = "--address"
_PYTHON = re.compile(r"([\w.+/-]*/)?python[\d.]*")


class JobsAddress(NamedTuple):
    """The address of a dashboard. `url` has no path."""

    url: str
    host: str


class FoundToken(NamedTuple):
    """A token, and the place it came from, for messages. The token itself is never printed."""

    value: str
    source: str


def parse_address(text: str, *, insecure: bool) -> JobsAddress:
    """Return the address of a Jobs API.

    Raises `UserError` for what is no such address, and for http:// to another machine unless `insecure`: code, data and
    the token would cross the network readable.
    """
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise UserError(f"not an address: {error}", where=f"{_WHERE} {text}", remedy=_SPELLING) from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError("not the address of a dashboard", where=f"{_WHERE} {text}", remedy=_SPELLING)
    if parts.username or parts.password or parts.query or parts.fragment or parts.path.strip("/"):
        raise UserError("holds more than host and port", where=f"{_WHERE} {text}", remedy=_SPELLING)
    host = parts.hostname
    if parts.scheme == "http" and host not in LOOPBACK_HOSTS and not insecure:
        raise UserError(
            f"http:// to {host} sends code, data and the token unencrypted",
            where=f"{_WHERE} {text}",
            remedy=f"open a tunnel (ssh -N -L 8265:localhost:{port or 80} {host}) and use http://localhost:8265, or "
            "add --insecure in a network that you trust",
        )
    shown = f"[{host}]" if ":" in host else host
    return JobsAddress(url=f"{parts.scheme}://{shown}{f':{port}' if port else ''}", host=host)


_SPELLING = "write http://localhost:8265, the address that `ray start --head` prints for its dashboard"


def find_token(token_file: Path | None, environment: Mapping[str, str] = os.environ) -> FoundToken:
    """Return the token for a cluster that asks for one.

    Taken from `token_file`, else in Ray's order from RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH and ~/.ray/auth_token. Raises
    `UserError` where there is none, and for a file that cannot be read, is empty, or that other users may read.
    """
    if token_file is not None:
        return _read(token_file, "--token-file")
    if value := environment.get(TOKEN_VARIABLE, "").strip():
        return FoundToken(_plain(value, TOKEN_VARIABLE), TOKEN_VARIABLE)
    if path := environment.get(TOKEN_PATH_VARIABLE):
        return _read(Path(path).expanduser(), TOKEN_PATH_VARIABLE)
    default = Path("~/.ray/auth_token").expanduser()
    if default.is_file():
        return _read(default, "Ray's default")
    raise UserError(
        "the cluster asks for a token, and there is none here",
        where=_WHERE,
        remedy=f"copy the cluster's token file to this machine (mode 600) and set {TOKEN_PATH_VARIABLE}, or give "
        "--token-file FILE",
    )


def require_python(program: str) -> str:
    """Return the program that runs jobs. Raises `UserError` unless it is a Python: records name it, too."""
    if not _PYTHON.fullmatch(program):
        raise UserError(
            f"{program!r} is not the path of a Python",
            where="--python",
            remedy="write /path/to/python, without options",
        )
    return program


def _read(path: Path, source: str) -> FoundToken:
    where = f"{source} {path}"
    try:
        text = read_text(path, max_bytes=MAX_TOKEN_BYTES).strip()
        others_may_read = path.stat().st_mode & 0o077
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "not text"
        raise UserError(f"the token cannot be read: {reason}", where=where, remedy="check the path") from error
    if others_may_read:
        raise UserError("other users of this machine may read the token", where=where, remedy=f"chmod 600 {path}")
    return FoundToken(_plain(text, where), where)


def _plain(token: str, where: str) -> str:
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise UserError("holds no token", where=where, remedy="write the token alone on one line")
    return token
