"""A node's folder for copies of checkpoints: where it is, and what is left of it after a job."""

import os
from pathlib import Path

import pytest

from moe_ray.checkpoints.staging import FOLDER_VARIABLE, MAX_BYTES_VARIABLE
from moe_ray.clusters.slurm.node_copies import CopyOptions, NodeCopies
from moe_ray.errors import UserError

UID = os.getuid()


def test_without_staging_no_variable_is_set() -> None:
    copies = NodeCopies(CopyOptions(), "7.0.0")
    assert copies.open({}) == {}
    copies.close()


@pytest.mark.parametrize("text", ["$LOCAL", "${LOCAL}", "$LOCAL/x", "$HERE/$NAME"])
def test_variables_are_those_of_the_node(tmp_path: Path, text: str) -> None:
    environment = {"LOCAL": str(tmp_path / "local"), "HERE": str(tmp_path), "NAME": "local"}
    copies = NodeCopies(CopyOptions(text, max_gib=0.5), "7.0.0")
    found = copies.open(environment)
    folder = Path(found[FOLDER_VARIABLE])
    assert folder.name.startswith(f"moe-ray-{UID}-7.0.0-")
    assert tmp_path / "local" in folder.parents
    assert folder.stat().st_mode & 0o077 == 0
    assert found[MAX_BYTES_VARIABLE] == str(1 << 29)
    copies.close()
    assert not folder.exists()


def test_jobs_of_two_clusters_with_one_id_have_folders_of_their_own(tmp_path: Path) -> None:
    first, second = (NodeCopies(CopyOptions(str(tmp_path)), "1.0.0") for _ in range(2))
    kept, removed = (Path(one.open({})[FOLDER_VARIABLE]) for one in (first, second))
    second.close()
    assert (kept.is_dir(), removed.exists()) == (True, False)
    first.close()


def test_kept_copies_are_shared_by_jobs_and_stay(tmp_path: Path) -> None:
    folders = []
    for marker in ("7.0.0", "8.0.0"):
        copies = NodeCopies(CopyOptions(str(tmp_path), keep=True), marker)
        folder = Path(copies.open({})[FOLDER_VARIABLE])
        folder.mkdir(exist_ok=True)
        copies.close()
        folders.append(folder)
    assert folders == [tmp_path / f"moe-ray-{UID}"] * 2
    assert folders[0].is_dir()


def test_what_a_killed_job_left_is_removed_and_a_live_jobs_copies_are_not(tmp_path: Path) -> None:
    live, killed = (NodeCopies(CopyOptions(str(tmp_path)), marker) for marker in ("1.0.0", "2.0.0"))
    lives_in, left = (Path(one.open({})[FOLDER_VARIABLE]) for one in (live, killed))
    assert killed._lock is not None
    os.close(killed._lock)  # as the kernel does when a process is killed
    other = tmp_path / f"moe-ray-{UID}-of-another-program"
    other.mkdir()
    third = NodeCopies(CopyOptions(str(tmp_path)), "3.0.0")
    third.open({})
    assert (lives_in.is_dir(), left.exists(), other.is_dir()) == (True, False, True)
    live.close()
    third.close()
    assert [path.name for path in tmp_path.iterdir()] == [other.name]


@pytest.mark.parametrize(
    ("folder", "words"),
    [("$NOT_SET/x", "NOT_SET is not set on the node"), ("$RELATIVE", "is not an absolute path")],
)
def test_a_folder_that_a_node_does_not_have_is_named_with_a_remedy(folder: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as raised:
        NodeCopies(CopyOptions(folder), "7.0.0").open({"RELATIVE": "x"})
    assert "staging.folder" in str(raised.value)
    assert raised.value.remedy


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be used") as raised:
        NodeCopies(CopyOptions(str(tmp_path / "file" / "x")), "7.0.0").open({})
    assert str(tmp_path / "file") in str(raised.value)
