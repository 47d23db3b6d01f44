"""What the report says about a sandbox that lacked a protection."""

from types import SimpleNamespace
from typing import Any, cast

from moe_ray.comparison.records import Summary
from moe_ray.report import cautions


def _texts(sandbox: dict[str, Any] | None) -> list[str]:
    summary = cast("Summary", SimpleNamespace(run=SimpleNamespace(sandbox=sandbox)))
    return [caution.text for caution in cautions._sandbox(summary)]


def test_kinds_of_memory_that_were_not_bounded_are_named() -> None:
    (text,) = _texts({"missing": ["memory"], "memory_gaps": ["page tables", "huge pages"]})
    assert text.endswith("Missing: memory. A program could hold memory beyond its limit: page tables, huge pages.")


def test_a_run_of_a_version_that_did_not_look_for_kinds_of_memory_is_still_shown() -> None:
    (text,) = _texts({"missing": ["network"]})
    assert text.endswith("Missing: network.")
    assert _texts({"missing": []}) == _texts(None) == []
