"""Fixtures that several packages' tests share."""

import logging
import os
import signal
import tempfile
from collections.abc import Callable, Generator, Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Before torch is imported. The models are tiny: threads that wait for each other would only keep the cores busy.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import HealthCheck, Phase, settings

from moe_ray.characters import whole_characters
from moe_ray.cli.main import app
from moe_ray.cli.terminal import reported
from tests.support.commands import Command

if TYPE_CHECKING:
    from tests.support.tiny_models import Architecture

OBJECT_STORE_BYTES = 150 << 20

# "quick": the same inputs in every run, and no judgement by the clock: the tests pass or fail alike on every machine.
# "thorough": thousands of inputs; "random": thousands of others each time (HYPOTHESIS_PROFILE=random).
# A failing input is shown as it is, because shrinking a damaged file takes minutes.
FUZZING: dict[str, Any] = {
    "deadline": None,
    "database": None,
    "phases": [Phase.explicit, Phase.generate],
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.large_base_example, HealthCheck.data_too_large],
}
settings.register_profile("quick", max_examples=40, derandomize=True, **FUZZING)
settings.register_profile("thorough", max_examples=500, derandomize=True, **FUZZING)
settings.register_profile("random", max_examples=500, **FUZZING)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What a test printed is sent between processes, which would end at half a character."""
    report = yield
    report.sections = [(name, whole_characters(text)) for name, text in report.sections]
    return report


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """One small Ray for the whole session: a connection is one per process, and starting takes seconds.

    Its home and its token are its own, so that neither a user's ~/.ray nor another Ray of this machine is touched. Its
    folder has a short name, because the paths of Unix sockets end at 107 bytes.
    """
    with (
        tempfile.TemporaryDirectory(prefix="mr-", dir="/tmp", ignore_cleanup_errors=True) as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("HOME", folder)
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", "1"))
        patch.delenv("RAY_ADDRESS", raising=False)
        import ray

        ray.init(
            address="local",
            num_cpus=4,
            object_store_memory=OBJECT_STORE_BYTES,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _temp_dir=folder,
        )
        yield
        ray.shutdown()


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder for a Ray of its own, whose sockets' paths stay short."""
    with tempfile.TemporaryDirectory(prefix="mr-", dir="/tmp", ignore_cleanup_errors=True) as name:
        yield Path(name)


@pytest.fixture
def moe_ray(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command in this process; returns its exit code and what it printed, as pytest captured it."""

    def command(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["moe-ray", *map(str, arguments)])
        code = reported(app)
        shown = capsys.readouterr()
        return code, shown.out + shown.err

    return command


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> "Callable[[Architecture], Path]":
    """Return the session's tiny checkpoint of an architecture. Tests that change files must copy it."""

    @lru_cache
    def made(architecture: "Architecture") -> Path:
        from tests.support.tiny_models import make_tiny_checkpoint

        return make_tiny_checkpoint(tmp_path_factory.mktemp(architecture), architecture)

    return made


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Stop torch from taking every core, and from summing in an order that depends on how many there are."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def default_sigint() -> Iterator[None]:
    """A shell lets what it starts in the background ignore Ctrl-C, and Python leaves it so."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
