"""A checkpoint on a shared disk, and a node's folder for copies."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from moe_ray.checkpoints import staging
from moe_ray.checkpoints.staging import FOLDER_VARIABLE
from tests.checkpoints.checkpoint_files import FILES, write


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write(tmp_path / "shared" / "model", FILES)


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The node's folder; copies that a test used are given back at its end."""
    folder = tmp_path / "local" / "copies"
    monkeypatch.setenv(FOLDER_VARIABLE, str(folder))
    monkeypatch.setattr(staging, "_USED", [])
    yield folder
    for copy in staging._USED:
        copy.close()
