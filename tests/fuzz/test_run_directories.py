"""Damaged run directories: each command reads what is left, or says in words what is wrong."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.commands import nothing_lost, require_plain_end
from tests.fuzz.damage import damaged_bytes, damaged_json, damaged_json_lines
from tests.fuzz.finished import finished_run
from tests.fuzz.inputs import EXPERIMENT, LINES

Damage = Callable[[bytes], st.SearchStrategy[bytes]]

FILES: dict[str, Damage] = {
    "config.yaml": damaged_bytes,
    "manifest.json": damaged_json,
    "examples/*.jsonl": damaged_json_lines,
    "telemetry/*.json": damaged_json,
    "answers/*.parquet": damaged_bytes,
    "scores/scores.parquet": damaged_bytes,
    "routes.parquet": damaged_bytes,
}
# What a command that succeeds may write again.
WRITTEN = ("report.html", "summary.json", "manifest.json", "scores/scores.parquet", "scores/graded.txt", ".lock")


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(tmp_path_factory.mktemp("fuzz"), EXPERIMENT, LINES).path


@pytest.mark.parametrize("pattern", FILES)
@settings(max_examples=settings().max_examples // 8)
@given(drawn=st.data())
def test_commands_on_a_damaged_run_end_in_words(pattern: str, valid: Path, drawn: st.DataObject) -> None:
    original = sorted(valid.glob(pattern))[0]
    content = drawn.draw(FILES[pattern](original.read_bytes()))
    command = drawn.draw(st.sampled_from([["report"], ["score"], ["compare", str(valid)]]))
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        shutil.copytree(valid, run)
        (run / original.relative_to(valid)).write_bytes(content)
        with nothing_lost(run, but=WRITTEN):
            require_plain_end(*command, str(run))
