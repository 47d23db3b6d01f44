"""The clean machine of these tests."""

from pathlib import Path

import pytest

from moe_ray.clusters.doctor.machine import Machine
from tests.clusters.doctor.machines import clean_machine


@pytest.fixture
def machine(tmp_path: Path, short_folder: Path) -> Machine:
    """A machine on which all is well."""
    return clean_machine(tmp_path, short_folder)
