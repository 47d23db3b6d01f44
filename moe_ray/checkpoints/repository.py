"""A hub repository: its commit and its files, or the reason why it is unavailable."""

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

from moe_ray.config.schema import ExperimentConfig, ModelConfig, is_local_path
from moe_ray.engines.registry import settings_class
from moe_ray.errors import ModelError
from moe_ray.hub import hub_answers, hub_errors

WEIGHTS = (
    re.compile(r"model(-\d+-of-\d+)?\.safetensors"),
    re.compile(r".*\.safetensors"),
    re.compile(r"pytorch_model(-\d+-of-\d+)?\.bin"),
)
OTHER_WEIGHTS = re.compile(r".*\.(safetensors|bin|pth|pt|gguf|onnx|h5|msgpack|ot|ckpt|index\.json)")
SETTINGS_SUFFIXES = (".json", ".txt", ".model", ".jinja", ".tiktoken")
CODE_SUFFIX = ".py"


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFile:
    """A file of a repository. `sha256` is None for small files."""

    name: str
    num_bytes: int
    sha256: str | None


def wanted_files(files: Sequence[RemoteFile], *, weights: bool, code: bool) -> list[RemoteFile] | None:
    """The files of a model, or without `weights` those of a tokenizer; None when there are no weights to load.

    Only the repository's top folder counts, as for transformers. Where there are safetensors, the same weights in
    other formats are left out; python files are wanted with `code` alone.
    """
    top = [file for file in files if len(PurePosixPath(file.name).parts) == 1]
    chosen = [file for file in top if _is_setting(file.name) or (code and file.name.endswith(CODE_SUFFIX))]
    if not weights:
        return chosen
    found = next(filter(None, ([file for file in top if kind.fullmatch(file.name)] for kind in WEIGHTS)), None)
    if found is None:
        return None
    stem = "pytorch_model.bin" if found[0].name.endswith(".bin") else "model.safetensors"
    return chosen + found + [file for file in top if file.name == f"{stem}.index.json"]


def _is_setting(name: str) -> bool:
    return name.endswith(SETTINGS_SUFFIXES) and not OTHER_WEIGHTS.fullmatch(name)


LOOK_UP_TIMEOUT_S = 30.0
LOG_IN = "accept its licence on its page, then hf auth login (or set HF_TOKEN); then run the same command again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Repository:
    """A repository that an experiment names, as a checkpoint (`path`) or as a tokenizer. `key` is the config key."""

    key: str
    role: Literal["path", "tokenizer"]
    repo: str
    revision: str | None
    code: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A repository at one commit, with the files to download."""

    repository: Repository
    commit: str
    files: tuple[RemoteFile, ...]


def repositories_of(config: ExperimentConfig, only: str | None) -> list[Repository]:
    """Return the repositories of all models, or of the model `only`."""
    return [
        repository
        for name, model in config.models.items()
        if only in (None, name) and settings_class(model.engine).has_files
        for repository in _of_model(name, model)
    ]


def _of_model(name: str, model: ModelConfig) -> Iterator[Repository]:
    """A separate tokenizer has no revision: it is loaded from its default branch."""
    code = model.trust_remote_code
    if not is_local_path(model.path):
        yield Repository(key=f"models.{name}.path", role="path", repo=model.path, revision=model.revision, code=code)
    if model.tokenizer is not None and not is_local_path(model.tokenizer):
        yield Repository(
            key=f"models.{name}.tokenizer", role="tokenizer", repo=model.tokenizer, revision=None, code=code
        )


def look_up(repository: Repository) -> Snapshot:
    """Request the commit and the list of files from the hub. Raises `ModelError` if they are unavailable."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError

    if not hub_answers():
        raise _unreachable(repository)
    try:
        info = HfApi().model_info(
            repository.repo, revision=repository.revision, files_metadata=True, timeout=LOOK_UP_TIMEOUT_S
        )
    except HFValidationError as error:
        raise _no_hub_id(repository) from error
    except hub_errors() as error:
        raise refused(repository, error) from error
    files = [
        RemoteFile(
            name=sibling.rfilename,
            num_bytes=sibling.size or 0,
            sha256=sibling.lfs.sha256 if sibling.lfs else None,
        )
        for sibling in info.siblings or ()
    ]
    wanted = wanted_files(files, weights=repository.role == "path", code=repository.code)
    if wanted is None or info.sha is None:
        raise ModelError(
            f"{repository.repo} holds no weights that transformers loads (it holds {_kinds(files)})",
            where=repository.key,
            remedy="name the repository of the checkpoint itself, with .safetensors files",
        )
    return Snapshot(repository=repository, commit=info.sha, files=tuple(wanted))


def refused(repository: Repository, error: Exception) -> ModelError:
    """Translate the hub's `error` to the experiment's terms."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    match error:
        case GatedRepoError():
            what, remedy = f"{repository.repo} is gated: this account may not read it", LOG_IN
        case RepositoryNotFoundError():
            what = f"the hub has no {repository.repo}, or it is private and this account may not read it"
            remedy = "check the spelling (owner/name); for a private one, hf auth login or set HF_TOKEN"
        case RevisionNotFoundError():
            what = f"{repository.repo} has no revision {repository.revision}"
            remedy = _revisions_remedy(repository)
        case HfHubHTTPError() if error.response.status_code in (401, 403):
            what, remedy = f"the hub does not let this account read {repository.repo}", LOG_IN
        case HfHubHTTPError():
            what = f"the hub answered {error.response.status_code} for {repository.repo}"
            remedy = "run the same command again later; what is there is kept"
        case _:
            return _unreachable(repository)
    return ModelError(what, where=repository.key, remedy=remedy)


def _no_hub_id(repository: Repository) -> ModelError:
    return ModelError(
        f"{repository.repo!r} is neither a hub id nor a path that starts with ./, ../, / or ~",
        where=repository.key,
        remedy="a hub id is owner/name; write a local folder as ./name",
    )


def _unreachable(repository: Repository) -> ModelError:
    from huggingface_hub import constants

    return ModelError(
        f"the hub cannot be reached at {constants.ENDPOINT}, so {repository.repo} cannot be fetched",
        where=repository.key,
        remedy="run this where there is a network (HF_ENDPOINT names a mirror, HF_HUB_OFFLINE must not be set), "
        "with --to FOLDER if it must be carried over",
    )


def _revisions_remedy(repository: Repository) -> str:
    """Name the branch or tag that is meant, or those that there are."""
    from huggingface_hub import HfApi

    try:
        refs = HfApi().list_repo_refs(repository.repo)
    except hub_errors():
        return "name a branch, a tag or a whole commit hash of it"
    names = [ref.name for ref in (*refs.branches, *refs.tags)]
    close = difflib.get_close_matches(repository.revision or "", names, n=1)
    return f"did you mean {close[0]}?" if close else f"it has {', '.join(names[:8])}; or name a whole commit hash"


def _kinds(files: Sequence[RemoteFile]) -> str:
    kinds = sorted({file.name.rpartition(".")[2] for file in files if "." in file.name})
    return ", ".join(f".{kind}" for kind in kinds) or "no files"
