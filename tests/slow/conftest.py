"""A browser that shows the chat page of a fake server, and a SLURM cluster."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.fake_api import FakeApi, served_api
from tests.support.slurm_lab import SlurmLab, slurm_lab, why_not

if TYPE_CHECKING:  # the browser's driver needs websockets; the other slow tests run without it
    from tests.support.chromium import Tab

READY = "document.querySelectorAll('#experts li').length === 4"


@pytest.fixture(scope="module")
def browser() -> Iterator["Tab"]:
    from tests.support.chromium import opened_browser

    with opened_browser() as opened:
        yield opened


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with served_api() as served:
        yield served


@pytest.fixture
def chat(browser: "Tab", api: FakeApi) -> Iterator["Tab"]:
    """The page freshly opened on a wide screen; left on the way out, so that no request outlives its test."""
    browser.log.clear()
    browser.look_as(1200)
    browser.open(api.url, until=READY)
    yield browser
    browser.call("Page.navigate", url="about:blank")


@pytest.fixture(scope="module")
def lab() -> Iterator[SlurmLab]:
    """A SLURM cluster of three nodes."""
    reason = why_not()
    if reason is not None:
        pytest.skip(f"SLURM: {reason}")
    # Not below /tmp: the paths of Unix sockets end at 107 bytes.
    with slurm_lab(Path(f"/var/tmp/mr-slurm-{os.getpid()}"), num_nodes=3) as cluster:
        yield cluster
