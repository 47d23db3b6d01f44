"""Checkpoints in the hub cache, as a machine without network finds them."""

from pathlib import Path

from moe_ray.checkpoints.files import INDEX_FILE, tensor_files
from moe_ray.checkpoints.repository import WEIGHTS
from moe_ray.errors import ModelError

PICKLE_INDEX_FILE = "pytorch_model.bin.index.json"


def cached_snapshot(repo: str, revision: str | None, *, weights: bool) -> Path | None:
    """Return the folder of a repository in the hub cache; None where it is not there, or lacks a file of its weights.

    Without `weights`, only a tokenizer is looked for. Makes no request.
    """
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    names = ["config.json"] if weights else ["tokenizer_config.json", "tokenizer.json", "config.json"]
    try:
        found = [try_to_load_from_cache(repo, name, revision=revision) for name in names]
    except HFValidationError:
        return None
    folder = next((Path(place).parent for place in found if isinstance(place, str)), None)
    return folder if folder is not None and (not weights or _has_weights(folder)) else None


def _has_weights(folder: Path) -> bool:
    for name in (INDEX_FILE, PICKLE_INDEX_FILE):
        index = folder / name
        if index.is_file():
            try:
                wanted = set(tensor_files(index).values())
            except ModelError:
                return False
            return all((folder / file).is_file() for file in wanted)
    return any(kind.fullmatch(path.name) and path.is_file() for path in folder.iterdir() for kind in WEIGHTS)
