"""The record of a submitted run: written whole, read back, refused where it is not one, and obeyed within limits."""

from pathlib import Path

import pytest

from moe_ray.clusters.submission import (
    SUBMISSION_FILE,
    Submission,
    open_submission,
    read_submission,
    write_submission,
)
from moe_ray.errors import RunDirectoryError, UserError


@pytest.fixture(autouse=True)
def own_list_of_clusters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOE_RAY_CACHE", str(tmp_path / "cache"))


def remote(*, target: str = "http://localhost:8265", **details: str) -> Submission:
    return submission().model_copy(update={"kind": "ray-job", "target": target, "details": details})


def put(run: Path, record: Submission) -> None:
    """Write a record as another user would have."""
    run.mkdir()
    (run / SUBMISSION_FILE).write_text(record.model_dump_json(), encoding="utf-8")


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


def test_a_cluster_that_this_user_submitted_to_is_reached_with_the_token_of_that_time(tmp_path: Path) -> None:
    write_submission(tmp_path / "run", remote(token_file="/home/me/token"))
    assert open_submission(tmp_path / "run").details == {"token_file": "/home/me/token"}


def test_a_record_of_another_user_opens_no_connection_to_a_cluster_of_its_choice(tmp_path: Path) -> None:
    put(tmp_path / "run", remote(target="http://attacker.example:8265"))
    with pytest.raises(UserError, match="not submitted to") as raised:
        open_submission(tmp_path / "run")
    assert "--trust" in str(raised.value)


def test_a_record_of_another_user_names_no_file_that_is_sent_as_a_token(tmp_path: Path) -> None:
    write_submission(tmp_path / "mine", remote())
    put(tmp_path / "run", remote(token_file="/home/me/.ssh/id_ed25519", results="/shared"))
    assert open_submission(tmp_path / "run").details == {"results": "/shared"}


def test_a_cluster_that_is_trusted_once_is_remembered_without_the_records_token(tmp_path: Path) -> None:
    put(tmp_path / "run", remote(target="https://cluster.example", token_file="/home/me/.ssh/id_ed25519"))
    assert open_submission(tmp_path / "run", trust=True).details == {}
    assert open_submission(tmp_path / "run").target == "https://cluster.example"


def test_one_kind_of_cluster_does_not_vouch_for_another(tmp_path: Path) -> None:
    write_submission(tmp_path / "mine", remote(target="login"))
    put(tmp_path / "run", submission().model_copy(update={"target": "login"}))
    with pytest.raises(UserError, match="not submitted to"):
        open_submission(tmp_path / "run")
