"""certificate.json of a mixture: written when it is made, read when it is verified."""

from pathlib import Path

from pydantic import ValidationError

from moe_ray.atomic import write_text_atomically
from moe_ray.errors import ModelError
from moe_ray.fingerprint import file_sha256
from moe_ray.moe.records import Certificate
from moe_ray.planning.checkpoints import CERTIFICATE_FILE, identity_files


def own_files(directory: Path) -> dict[str, str]:
    """Return the SHA-256 of every file that decides what the mixture says, by name; the certificate is none of them."""
    return {path.name: file_sha256(path) for path in identity_files(directory)}


def write_certificate(directory: Path, certificate: Certificate) -> None:
    write_text_atomically(directory / CERTIFICATE_FILE, certificate.model_dump_json(indent=1) + "\n")


def read_certificate(directory: Path) -> Certificate:
    """Read the certificate of the mixture in `directory`. Raises `ModelError` when there is none, or a damaged one."""
    path = directory / CERTIFICATE_FILE
    if not path.is_file():
        raise ModelError(
            f"has no {CERTIFICATE_FILE}",
            where=str(directory),
            remedy="name the folder of a mixture that moe-ray made",
        )
    try:
        return Certificate.model_validate_json(path.read_text(encoding="utf-8"))
    except (ValidationError, UnicodeDecodeError) as error:
        raise ModelError(
            f"is no certificate: {str(error).splitlines()[0]}", where=str(path), remedy="copy the whole folder again"
        ) from error
