"""certificate.json of a mixture: what it was made of and how exact it is."""

from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field, ValidationError

from moe_ray.checkpoints.identity import CERTIFICATE_FILE as CERTIFICATE_FILE
from moe_ray.checkpoints.identity import identity_hashes
from moe_ray.checkpoints.source import SourceRecord
from moe_ray.errors import ModelError
from moe_ray.files import StoredRecord, write_text_atomically

MixtureKind = Literal["upcycled", "merged", "trained_apart"]
LayerState = Literal["converted", "reverted", "dense"]


class LayerVerdict(StoredRecord):
    """One decoder layer. `measured` holds what was tested (by name) and `limits` what it had to stay within.

    "reverted": converted, tested, found wanting for `reason`, and dense again. "dense": never asked to be converted.
    """

    model_config = ConfigDict(ser_json_inf_nan="strings")  # a layer that gives no numbers differs infinitely

    layer: int
    state: LayerState
    reason: str | None = None
    measured: dict[str, float] = Field(default_factory=dict)
    limits: dict[str, float] = Field(default_factory=dict)


class TensorOrigin(StoredRecord):
    """Where one tensor of the mixture came from: the source's name and its tensor, and what was done to it."""

    tensor: str
    source: str | None
    source_tensor: str | None
    how: str


class ExactnessRecord(StoredRecord):
    """How the mixture agrees with its source at construction, over `num_tokens` tokens.

    `max_logit_difference`: largest absolute difference of a logit in float32. `greedy_agreement`: share of greedy
    tokens that are the same. `reload_equal`: the saved checkpoint, loaded again, gives bit-equal logits.
    """

    against: str
    num_tokens: int
    max_logit_difference: float
    greedy_agreement: float
    reload_equal: bool


class Certificate(StoredRecord):
    """certificate.json. `settings` are the command's; `tensors_sha256` names the mixture's own files."""

    format: Literal[1] = 1
    kind: MixtureKind
    model_type: str
    moe_ray_version: str
    transformers_version: str
    created_at: float
    settings: dict[str, Any]
    sources: list[SourceRecord]
    layers: list[LayerVerdict]
    tensors: list[TensorOrigin]
    exactness: list[ExactnessRecord]
    tensors_sha256: dict[str, str]


def own_files(directory: Path) -> dict[str, str]:
    """Return the SHA-256 of every file that decides what the mixture says, by name; the certificate is none of them."""
    return identity_hashes(directory)


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
            f"is not a certificate: {str(error).splitlines()[0]}", where=str(path), remedy="copy the whole folder again"
        ) from error
