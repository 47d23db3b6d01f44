"""The files of a checkpoint, as bytes by name, and folders of them."""

from pathlib import Path

FILES = {
    "config.json": b"{}",
    "model-00001-of-00002.safetensors": bytes(range(256)) * 40,
    "model-00002-of-00002.safetensors": bytes(range(255, -1, -1)) * 40,
    "model.safetensors.index.json": b'{"weight_map": {"a": "model-00001-of-00002.safetensors"}}',
    "tokenizer.json": b"{ }",
    "chat_template.jinja": b"{{ messages }}",
    "additional_chat_templates/tool.jinja": b"{{ tools }}",
}


def write(folder: Path, files: dict[str, bytes]) -> Path:
    """Write files below a folder, and return it."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def tree(folder: Path) -> dict[str, bytes]:
    """Return the files below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def write_snapshot(cache: Path, files: dict[str, bytes]) -> Path:
    """Write `owner/tiny` into a hub cache in its real layout, where names are links to blobs; return the snapshot."""
    repository = cache / "models--owner--tiny"
    snapshot = repository / "snapshots" / "c0ffee"
    for name, content in files.items():
        blob = f"blob-of-{name.replace('/', '-')}"
        write(repository / "blobs", {blob: content})
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / name).symlink_to(repository / "blobs" / blob)
    write(repository / "refs", {"main": b"c0ffee"})
    return snapshot
