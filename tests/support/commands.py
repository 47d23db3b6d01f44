"""Commands run in this process."""

import contextlib
import io
from collections.abc import Callable
from unittest import mock

from moe_ray.cli.main import app
from moe_ray.cli.terminal import reported

# Takes the arguments of `moe-ray`; returns its exit code and what it printed.
Command = Callable[..., tuple[int, str]]


def run(*arguments: object) -> tuple[int, str]:
    """Run `moe-ray ARGUMENTS` and return its exit code and all that it printed. Any exception passes through."""
    shown = io.StringIO()
    with (
        contextlib.redirect_stdout(shown),
        contextlib.redirect_stderr(shown),
        mock.patch("sys.argv", ["moe-ray", *map(str, arguments)]),
    ):
        code = reported(app)
    return code, shown.getvalue()
