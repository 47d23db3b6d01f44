"""What stands beside every mixture: certificate.json says what it was made of and how exact it is."""

from typing import Any, Literal

from pydantic import ConfigDict, Field

from moe_ray.planning.checkpoints import CERTIFICATE_FILE as CERTIFICATE_FILE
from moe_ray.store.records import StoredRecord

MixtureKind = Literal["upcycled", "merged", "trained_apart"]
LayerState = Literal["converted", "reverted", "dense"]


class SourceRecord(StoredRecord):
    """A checkpoint that a mixture was made of. `files_sha256` names the files that decide it."""

    name: str
    path: str
    fingerprint: str
    model_type: str
    files_sha256: dict[str, str]


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
