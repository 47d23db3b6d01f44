"""Which of a repository's files a model needs: its weights once, its tokenizer and its configuration."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

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
    """A file of a repository. `sha256` is known of large files; `blob_id` is git's hash of small ones."""

    name: str
    num_bytes: int
    sha256: str | None
    blob_id: str | None


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
