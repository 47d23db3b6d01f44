"""The record of a submitted run: written whole, read back, and refused where it is not one."""

from pathlib import Path

import pytest

from moe_ray.clusters.submission import SUBMISSION_FILE, Submission, read_submission, write_submission
from moe_ray.errors import RunDirectoryError, UserError


def submission() -> Submission:
    return Submission(
        kind="slurm",
        id="17",
        target="",
        command=("evaluate", "experiment.yaml"),
        submitted_at="2026-01-01T00:00:00Z",
        details={"partition": "main"},
    )


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    run = tmp_path / "results" / "run"
    write_submission(run, submission())
    assert read_submission(run) == submission()


def test_a_run_that_was_not_submitted_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="was not submitted") as raised:
        read_submission(tmp_path)
    assert raised.value.where == str(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", '{"kind": "slurm"}', '{"kind": "pbs"}', "\x00"])
def test_a_file_that_is_no_record_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / SUBMISSION_FILE).write_text(text, encoding="utf-8")
    with pytest.raises(RunDirectoryError, match="not the record of a submission"):
        read_submission(tmp_path)


def test_a_link_out_of_the_run_directory_is_refused(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.json"
    elsewhere.write_text("secret", encoding="utf-8")
    run = tmp_path / "run"
    run.mkdir()
    (run / SUBMISSION_FILE).symlink_to(elsewhere)
    with pytest.raises(RunDirectoryError, match="leads out of"):
        read_submission(run)
    with pytest.raises(RunDirectoryError, match="leads out of"):
        write_submission(run, submission())
    assert elsewhere.read_text(encoding="utf-8") == "secret"
