"""Copies of checkpoints on a node's disk: whole or not used, one per node, and never a reason for a run to fail."""

import errno
import os
import shutil
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest

from moe_ray.checkpoints import staging, staging_folder
from moe_ray.checkpoints.identity import FileHashes, inspect_checkpoint
from moe_ray.checkpoints.staged_files import NotStagedError, checkpoint_files
from moe_ray.checkpoints.staging import FOLDER_VARIABLE, named_by_source, stage_model
from moe_ray.checkpoints.staging_folder import StagedCopy, StagingFolder
from moe_ray.config.schema import ModelConfig
from moe_ray.errors import ModelError
from moe_ray.hub import hub_answers
from moe_ray.mounts import Mount
from tests.checkpoints.checkpoint_files import FILES, tree, write, write_snapshot

Usage = namedtuple("Usage", "total used free")

NOT_READ = {
    "pytorch_model.bin": b"x" * 999,
    "optimizer.pt": b"x",
    "model.gguf": b"x",
    "checkpoint-5/config.json": b"{}",
}


def test_a_copy_has_what_transformers_reads_and_is_made_once(source: Path, local: Path) -> None:
    write(source, NOT_READ)
    model = ModelConfig(path=str(source))
    first = stage_model(model)
    assert tree(Path(first.model.path)) == FILES
    assert Path(first.model.path).name == "model"
    assert local in Path(first.model.path).parents
    assert "was copied to" in str(first.notice)
    assert stage_model(model) == (first.model, None)
    assert local.stat().st_mode & 0o077 == 0


def test_without_a_folder_and_for_models_without_files_nothing_is_copied(
    source: Path, local: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted = ModelConfig(path="x", engine="scripted")
    by_name = ModelConfig(path=str(source), engine="server", engine_settings={"command": "serve other --port {port}"})
    assert stage_model(scripted) == (scripted, None)
    assert stage_model(by_name) == (by_name, None)
    monkeypatch.delenv(FOLDER_VARIABLE)
    assert stage_model(ModelConfig(path=str(source))).model.path == str(source)
    assert not local.exists()


def test_an_engine_of_another_kind_gets_the_whole_tree_or_all_parts_of_its_file(source: Path, local: Path) -> None:
    write(source, NOT_READ)
    settings = {"command": "serve {path} --port {port}"}
    staged = stage_model(ModelConfig(path=str(source), engine="server", engine_settings=settings))
    assert tree(Path(staged.model.path)) == FILES | NOT_READ
    parts = {f"m-0000{number}-of-00002.gguf": bytes([number]) for number in (1, 2)}
    folder = write(source.parent / "gguf", {**parts, "n-00001-of-00002.gguf": b"x"})
    first = ModelConfig(path=str(folder / "m-00001-of-00002.gguf"), engine="server", engine_settings=settings)
    path = Path(stage_model(first).model.path)
    assert path.name == "m-00001-of-00002.gguf"
    assert tree(path.parent) == parts


def test_a_models_identity_does_not_depend_on_its_copy(tmp_path: Path, source: Path, local: Path) -> None:
    model = ModelConfig(path=str(source))
    write(source, {name: content for name, content in FILES.items() if not name.endswith(".safetensors")})
    for path in source.glob("*.safetensors"):
        path.unlink()
    (source / "model.safetensors.index.json").unlink()
    hashes = FileHashes(tmp_path / "hashes")
    copied = stage_model(model).model
    assert copied != model
    assert inspect_checkpoint("m", copied, hashes).identity == inspect_checkpoint("m", model, hashes).identity


def test_a_replaced_source_of_the_same_size_and_time_is_copied_again(source: Path, local: Path) -> None:
    model, weights = ModelConfig(path=str(source)), source / "model-00001-of-00002.safetensors"
    first, before = stage_model(model), weights.stat()
    weights.write_bytes(FILES["model-00002-of-00002.safetensors"])
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    second = stage_model(model)
    assert second.model.path != first.model.path
    assert (Path(second.model.path) / weights.name).read_bytes() == weights.read_bytes()


def test_a_file_that_a_cleaner_removed_is_copied_again(source: Path, local: Path) -> None:
    model = ModelConfig(path=str(source))
    copy = Path(stage_model(model).model.path)
    (copy / "tokenizer.json").unlink()
    kept = (copy / "config.json").stat().st_ino
    assert stage_model(model).model.path == str(copy)
    assert tree(copy) == FILES
    assert (copy / "config.json").stat().st_ino == kept


def test_a_source_that_changes_meanwhile_is_read_where_it_is(
    source: Path, local: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def copy_and_change(read: Any, written: Any, length: int) -> None:
        written.write(read.read())
        (source / Path(read.name if isinstance(read.name, str) else "config.json").name).write_bytes(b"{} ")

    monkeypatch.setattr(shutil, "copyfileobj", copy_and_change)
    staged = stage_model(ModelConfig(path=str(source)))
    assert staged.model.path == str(source)
    assert tree(local) == {name: b"" for name in tree(local) if name.endswith(".lock")}


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_disk_that_fills_up_leaves_nothing_behind_and_costs_only_the_copy(
    source: Path, local: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def fail(read: Any, written: Any, length: int) -> None:
        written.write(read.read(1))
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(shutil, "copyfileobj", fail)
    staged = stage_model(ModelConfig(path=str(source)))
    assert staged.model.path == str(source)
    assert "is read from where it is" in str(staged.notice)
    assert os.strerror(code) in str(staged.notice)
    assert [path for path in local.rglob("*") if path.suffix != ".lock"] == []


def test_space_is_checked_before_anything_is_copied(source: Path, local: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(100_000, 80_000, 20_000))
    monkeypatch.setattr(staging_folder, "copy_file", lambda *_: pytest.fail("a file was copied"))
    staged = stage_model(ModelConfig(path=str(source)))
    assert staged.model.path == str(source)
    assert "it needs 20.1 KiB, and 14.6 KiB may be used" in str(staged.notice)


def copy_of(folder: StagingFolder, source: Path) -> StagedCopy:
    return folder.copy_of(source, checkpoint_files(source, source, everything=True), source.name)


def test_beyond_the_limit_the_copy_that_was_unused_for_longest_goes_and_never_one_in_use(tmp_path: Path) -> None:
    a, b, c, huge = (
        write(tmp_path / name, {"w": bytes(100 if name != "huge" else 999)}) for name in ("a", "b", "c", "huge")
    )
    folder = StagingFolder(tmp_path / "local", max_bytes=250)
    first, second = copy_of(folder, a), copy_of(folder, b)
    with pytest.raises(NotStagedError, match="would exceed the limit of 250 B"):
        copy_of(folder, c)
    second.close()
    first.close()
    for used_at, copy in enumerate((first, second)):
        os.utime(tmp_path / "local" / f"{copy.path.parents[1].name}.use.lock", (used_at, used_at))
    again = copy_of(folder, a)  # used last, though it came first
    assert again.copy_s is None
    again.close()
    third = copy_of(folder, c)
    assert (first.path.exists(), second.path.exists(), third.path.exists()) == (True, False, True)
    with pytest.raises(NotStagedError, match="would exceed the limit"):
        copy_of(folder, huge)
    assert first.path.exists(), "nothing goes for a copy that could never fit"
    third.close()


def test_an_error_names_the_path_that_the_user_wrote(source: Path, local: Path) -> None:
    model = ModelConfig(path=str(source))
    staged = stage_model(model).model
    with pytest.raises(ModelError) as raised, named_by_source(model, staged):
        raise ModelError(f"{staged.path} is damaged", where=f"{staged.path}/config.json", remedy="x")
    assert (raised.value.what, raised.value.where) == (f"{source} is damaged", f"{source}/config.json")


def test_links_inside_are_followed_and_what_leads_out_is_not_copied(tmp_path: Path, source: Path, local: Path) -> None:
    (tmp_path / "secret").write_text("key")
    (source / "merges.txt").symlink_to("tokenizer.json")
    copy = stage_model(ModelConfig(path=str(source)))
    assert (Path(copy.model.path) / "merges.txt").read_bytes() == FILES["tokenizer.json"]
    (source / "vocab.txt").symlink_to(tmp_path / "secret")
    staged = stage_model(ModelConfig(path=str(source)))
    assert staged.model.path == str(source)
    assert f"vocab.txt is a link that leads out of {source}" in str(staged.notice)
    assert b"key" not in tree(local).values()


@pytest.mark.parametrize("kind", ["pipe", "dangling", "loop", "folder"])
def test_what_is_no_plain_file_blocks_nothing(source: Path, local: Path, kind: str) -> None:
    place = source / ("additional_chat_templates/x" if kind != "folder" else "additional_chat_templates")
    if kind == "pipe":
        os.mkfifo(place)
    elif kind == "folder":
        shutil.rmtree(place)
        place.symlink_to(source, target_is_directory=True)
    else:
        place.symlink_to(place.name if kind == "loop" else "nothing")
    staged = stage_model(ModelConfig(path=str(source)))
    assert staged.model.path == str(source)
    assert str(place) in str(staged.notice)


def test_a_folder_of_others_or_on_a_network_is_not_used(
    source: Path, local: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local.mkdir(parents=True)
    local.chmod(0o777)
    staged = stage_model(ModelConfig(path=str(source)))
    assert "is not a folder that this user alone may change" in str(staged.notice)
    local.chmod(0o700)
    monkeypatch.setattr(staging_folder, "mount_of", lambda _: Mount(Path("/"), "lustre", frozenset()))
    staged = stage_model(ModelConfig(path=str(source)))
    assert staged.model.path == str(source)
    assert "is not on a disk of this node, but on lustre" in str(staged.notice)


def test_a_file_system_that_cannot_lock_costs_only_the_copy(
    source: Path, local: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", flock)
    staged = stage_model(ModelConfig(path=str(source)))
    assert staged.model.path == str(source)
    assert "No locks available" in str(staged.notice)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A hub cache with one repository, in its real layout."""
    root = tmp_path / "cache"
    snapshot = write_snapshot(root, FILES)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(root))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    hub_answers.cache_clear()
    yield snapshot
    hub_answers.cache_clear()


def test_a_hub_id_is_copied_from_the_cache_of_an_offline_node(cache: Path, local: Path) -> None:
    staged = stage_model(ModelConfig(path="owner/tiny"))
    assert tree(Path(staged.model.path)) == FILES
    assert Path(staged.model.path).name == "tiny"
    assert "was copied" in str(staged.notice)


def test_a_hub_id_whose_cache_is_not_complete_or_that_is_read_online_is_left_to_its_engine(
    cache: Path, local: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ModelConfig(path="owner/tiny")
    (cache / "model-00001-of-00002.safetensors").unlink()
    staged = stage_model(model)
    assert staged.model == model
    assert "the hub cache does not have all of it" in str(staged.notice)
    monkeypatch.setattr(staging, "hub_answers", lambda: True)
    assert "only those are copied that offline nodes read" in str(stage_model(model).notice)


def test_a_snapshot_with_a_link_out_of_its_repository_is_not_copied(cache: Path, local: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("key")
    (cache / "tokenizer_config.json").symlink_to(tmp_path / "secret")
    staged = stage_model(ModelConfig(path="owner/tiny"))
    assert staged.model.path == "owner/tiny"
    assert "leads out of" in str(staged.notice)
