"""Commands below `moe-ray moe`, as a person gives them."""

from collections.abc import Callable

import pytest

from moe_ray.cli.main import app
from moe_ray.cli.terminal import reported

Command = Callable[..., tuple[int, str]]


@pytest.fixture
def moe_ray(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command in this process; returns its exit code and what it printed."""

    def command(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["moe-ray", "moe", *map(str, arguments)])
        code = reported(app)
        shown = capsys.readouterr()
        return code, shown.out + shown.err

    return command
