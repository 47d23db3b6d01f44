"""Staging: a replica reads its checkpoint from a copy on its node's own disk, where a job asks for that.

The job says so with two variables of each node's environment, because where files lie is no part of a model.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from moe_ray.checkpoints.hub_cache import cached_snapshot
from moe_ray.checkpoints.staged_files import NotStagedError, checkpoint_files
from moe_ray.checkpoints.staging_folder import StagedCopy, StagingFolder
from moe_ray.config.schema import ModelConfig, is_local_path
from moe_ray.engines.registry import settings_class
from moe_ray.errors import UserError
from moe_ray.formatting import seconds, size
from moe_ray.hub import hub_answers

FOLDER_VARIABLE = "MOE_RAY_STAGING_FOLDER"
MAX_BYTES_VARIABLE = "MOE_RAY_STAGING_MAX_BYTES"
# Copies that this process uses. Their locks are held until it ends.
_USED: list[StagedCopy] = []


class StagedModel(NamedTuple):
    """The model for the engine, whose path may be that of a copy, and a sentence for the user where there is news."""

    model: ModelConfig
    notice: str | None = None


class _Located(NamedTuple):
    """A checkpoint's folder or file, the folder that its links may not leave, and its name."""

    source: Path
    root: Path
    name: str


def stage_model(model: ModelConfig) -> StagedModel:
    """Return `model` with the path of this node's copy of its checkpoint; makes the copy if there is none.

    Whatever keeps a copy from being made is a notice: the model is then read from where it is.
    """
    folder = os.environ.get(FOLDER_VARIABLE)
    engine = settings_class(model.engine)
    if not folder or not engine.reads_path(model):
        return StagedModel(model)
    started = time.monotonic()
    try:
        found = _locate(model)
        everything = model.trust_remote_code or not engine.loads_checkpoint
        files = checkpoint_files(found.source, found.root, everything=everything)
        copy = StagingFolder(Path(folder), _max_bytes()).copy_of(found.source, files, found.name)
    except (NotStagedError, OSError) as error:
        return StagedModel(model, f"{model.path} is read from where it is, not from a copy in {folder}: {error}")
    _USED.append(copy)
    staged = model.model_copy(update={"path": str(copy.path)})
    if copy.copy_s is None:
        return StagedModel(staged)
    waited_s = time.monotonic() - started
    return StagedModel(staged, f"{model.path} was copied to {folder}: {size(copy.num_bytes)} in {seconds(waited_s)}")


@contextmanager
def named_by_source(model: ModelConfig, staged: ModelConfig) -> Iterator[None]:
    """Let a `UserError` name the path that the user wrote, not that of a copy that may be gone when it is read."""
    try:
        yield
    except UserError as error:
        error.what = error.what.replace(staged.path, model.path)
        error.where = error.where and error.where.replace(staged.path, model.path)
        raise


def _locate(model: ModelConfig) -> _Located:
    """Find the checkpoint. Raises `NotStagedError` for a hub id that may be read otherwise than from the cache."""
    if is_local_path(model.path):
        source = Path(os.path.realpath(Path(model.path).expanduser()))
        if not source.exists():
            raise NotStagedError(f"{source} does not exist")
        return _Located(source, source.parent if source.is_file() else source, source.name)
    if hub_answers():
        raise NotStagedError("of hub ids, only those are copied that offline nodes read from the hub cache")
    snapshot = cached_snapshot(model.path, model.revision, weights=True)
    if snapshot is None:
        raise NotStagedError("the hub cache does not have all of it")
    # Without this file, transformers finds a tokenizer in a folder by other rules than in the hub cache.
    if model.tokenizer is None and not (snapshot / "tokenizer.json").is_file():
        raise NotStagedError("its tokenizer has no tokenizer.json")
    return _Located(snapshot, Path(os.path.realpath(snapshot.parents[1])), Path(model.path).name)


def _max_bytes() -> int | None:
    text = os.environ.get(MAX_BYTES_VARIABLE, "")
    return int(text) if text.isdigit() else None
