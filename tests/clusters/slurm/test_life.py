"""The files through which the nodes of a job meet."""

import errno
import stat
from pathlib import Path

import pytest

from moe_ray.clusters.slurm.life import RESERVE_BYTES, HeadRecord, Life, LifeRecord, state_path
from moe_ray.clusters.slurm.ray_node import job_environment
from moe_ray.errors import RunDirectoryError


def test_the_token_can_be_read_by_its_owner_alone(tmp_path: Path) -> None:
    life = Life(tmp_path, "7", 0)
    path = life.make_token()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(life.folder.stat().st_mode) & 0o077 == 0
    first = path.read_text()
    assert len(first) == 64
    assert life.make_token().read_text() != first


def test_a_link_in_place_of_the_token_is_not_followed(tmp_path: Path) -> None:
    life = Life(tmp_path / "run", "7", 0)
    life.folder.mkdir(parents=True)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("mine")
    (life.folder / "token").symlink_to(elsewhere)
    with pytest.raises(RunDirectoryError):
        life.make_token()
    assert elsewhere.read_text() == "mine"


def test_records_are_read_back_and_damaged_ones_are_missing(tmp_path: Path) -> None:
    life = Life(tmp_path, "7", 0)
    assert life.names() == set()
    assert life.read("head.json", HeadRecord) is None
    life.write("head.json", HeadRecord(host="10.0.0.1", port=20000))
    assert life.read("head.json", HeadRecord) == HeadRecord(host="10.0.0.1", port=20000)
    assert life.names() == {"head.json"}
    life.path("head.json").write_text('{"host": "10')
    assert life.read("head.json", HeadRecord) is None


def test_an_ipv6_address_gets_brackets() -> None:
    assert HeadRecord(host="fd00::1", port=1).address == "[fd00::1]:1"


def test_earlier_lives_are_those_of_the_same_job(tmp_path: Path) -> None:
    for job_id, restart in (("7", 10), ("7", 2), ("7", 11), ("77", 0), ("8", 0)):
        record = LifeRecord(job_id=job_id, restart=restart, started_at=0.0, saved_before=0)
        Life(tmp_path, job_id, restart).write("record.json", record)
    assert [life.restart for life in Life(tmp_path, "7", 11).earlier()] == [2, 10]


def test_the_jobs_of_a_chain_are_lives_of_one_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "9")
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
    assert Life.of_environment(tmp_path).folder.name == "9.0"
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")
    assert Life.of_environment(tmp_path).folder.name == "7.2"


def test_the_jobs_ray_sees_no_variable_of_the_users_ray(tmp_path: Path) -> None:
    before = {"PATH": "/bin", "RAY_ADDRESS": "other:1", "RAY_AUTH_TOKEN": "secret", "RAY_TMPDIR": "/shared"}
    found = job_environment(before, token=tmp_path / "token", temp_dir=tmp_path, is_head=False)
    assert found["RAY_AUTH_TOKEN_PATH"] == str(tmp_path / "token")
    assert found["RAY_TMPDIR"] == str(tmp_path)
    assert "RAY_ADDRESS" not in found
    assert "secret" not in found.values()


def test_a_life_keeps_room_for_its_last_records_and_notices_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    life = Life(tmp_path, "7", 0)
    life.reserve()
    assert life.path("reserve").stat().st_size == RESERVE_BYTES
    assert life.release() is None
    assert life.names() == set()
    life.reserve()

    def refuse(_path: Path, _write: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("moe_ray.clusters.slurm.life.write_atomically", refuse)
    assert life.release() == "No space left on device"
    assert life.names() == set()


def test_the_elements_of_an_array_that_share_a_run_have_lives_and_states_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("SLURM_JOB_ID", "7"), ("SLURM_ARRAY_JOB_ID", "7"), ("SLURM_ARRAY_TASK_ID", "3")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    life = Life.of_environment(tmp_path, shares=True)
    assert (life.job_id, life.folder.name, state_path(tmp_path, life.job_id).name) == ("7_3", "7_3.1", "state-3.json")
    for job_id in ("7_3", "7_30", "7"):
        record = LifeRecord(job_id=job_id, restart=0, started_at=0.0, saved_before=0)
        Life(tmp_path, job_id, 0).write("record.json", record)
    assert [earlier.job_id for earlier in life.earlier()] == ["7_3"]
