"""The attacks, of an ordinary user of the machine, with bubblewrap and without it."""

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.sandbox.ordinary import CANNOT, NOBODY, run_as_ordinary_user

EVERY = "6"
PATHS = "/usr/local/bin:/usr/bin:/bin"

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")]


@pytest.fixture
def home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="moe-ray-nobody-", dir="/tmp") as name:
        os.chown(name, NOBODY, NOBODY)
        Path(name).chmod(0o755)
        yield Path(name)


def findings_of(home: Path, *backend: str, path: str = PATHS) -> dict[str, Any]:
    outside = home / "outside"
    outside.mkdir()
    outside.chmod(0o777)
    done = run_as_ordinary_user(home, "tests.support.sandbox.suite", str(outside), EVERY, *backend, path=path)
    if done.returncode == CANNOT:
        pytest.skip(f"even root may not mount here: {done.stderr}")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    if "refused" in found:
        pytest.skip(found["refused"])
    return found


@pytest.mark.parametrize("backend", ["bubblewrap", "namespaces", "filters", "limits"])
def test_every_attack_on_an_ordinary_user_fails_and_leaves_nothing(home: Path, backend: str) -> None:
    found = findings_of(home, backend)
    assert found["backend"] == backend
    assert (found["surprises"], found["left"], found["still_works"]) == ({}, [], True)


def test_an_ordinary_user_without_bubblewrap_gets_the_next_box(home: Path) -> None:
    empty = home / "bin"
    empty.mkdir()
    found = findings_of(home, path=str(empty))
    assert found["backend"] != "bubblewrap"
    assert (found["surprises"], found["left"], found["still_works"]) == ({}, [], True)
