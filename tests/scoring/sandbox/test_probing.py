"""The probe claims what held when it was tried, and names what did not."""

from dataclasses import replace
from pathlib import Path

import pytest

from moe_ray.scoring.sandbox import Program, boxes, execution
from moe_ray.scoring.sandbox.boxes import Box, candidates, package_paths, readable_parts
from moe_ray.scoring.sandbox.execution import run_once
from moe_ray.scoring.sandbox.probing import probe
from moe_ray.scoring.sandbox.program import Protections
from tests.support.sandbox.suite import HONEST

LIMIT_BYTES = 64 << 20


@pytest.fixture
def filters() -> Box:
    return next(box for box in candidates(LIMIT_BYTES) if box.backend == "filters")


def test_filters_hold_memory(filters: Box) -> None:
    found = probe(filters, 2)
    assert found.memory_gaps == ()
    assert "memory" not in found.missing


def test_memory_is_not_claimed_where_the_warden_cannot_count(filters: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "_open_proc", lambda: None)
    found = probe(filters, 2)
    assert found.memory_gaps == ("page tables",)
    assert "memory" in found.missing
    assert "memory (page tables)" in found.explain_missing()


def test_memory_is_not_claimed_where_nothing_is_filtered(filters: Box) -> None:
    found = probe(replace(filters, settings={**filters.settings, "filters": False}), 2)
    assert {"shared memory", "child processes"} <= set(found.memory_gaps)
    assert "memory" in found.missing


def test_only_protections_can_be_missing() -> None:
    held = Protections(
        backend="filters", network=True, filesystem_writes=True, filesystem_reads=True, processes=True, time=True,
        memory=True, output=True, environment=True,
    )  # fmt: skip
    assert held.missing == ()
    assert held.explain_missing() == ""
    assert held.describe()["memory_gaps"] == []


@pytest.fixture
def python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree like an installed Python's, seen through a link."""
    home = tmp_path / "python3.11.7" / "lib" / "python3.11"
    (home / "site-packages" / "numpy").mkdir(parents=True)
    (home / "json").mkdir()
    (home / "os.py").touch()
    (home / "linked.py").symlink_to("/etc/passwd")
    (tmp_path / "python").symlink_to(tmp_path / "python3.11.7")
    monkeypatch.setattr(boxes, "read_paths", lambda: (str(tmp_path / "python" / "lib"), "/dev/null"))
    monkeypatch.setattr(boxes, "package_paths", package_paths.__wrapped__)
    return tmp_path


def test_installed_packages_are_found_and_left_out_of_what_can_be_read(python: Path) -> None:
    assert package_paths.__wrapped__() == (str(python / "python/lib/python3.11/site-packages"),)
    whole, listed = readable_parts.__wrapped__()
    lib = python / "python3.11.7" / "lib"
    assert whole == ("/dev/null", str(lib / "python3.11" / "json"), str(lib / "python3.11" / "os.py"))
    assert listed == (str(lib), str(lib / "python3.11"))


def test_a_program_sees_the_standard_library_in_the_box_whose_rules_cannot_exclude(filters: Box) -> None:
    code = "import sqlite3, json, decimal, email.mime.text, concurrent.futures, encodings.idna\ndef f(x): return x + 40"
    assert run_once(filters, Program(code=code, tests=HONEST.tests), timeout_s=5, worker=0).passed
    code = "import pip\ndef f(x): return x + 40"
    verdict = run_once(filters, Program(code=code, tests=HONEST.tests), timeout_s=5, worker=0)
    assert verdict.outcome == "error"
