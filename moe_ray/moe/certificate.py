"""certificate.json of a mixture, and the model card that is written from it."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import yaml
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


CARD_FILE = "README.md"
FENCE = "---\n"
KINDS = {
    "upcycled": "a dense model whose feed-forward networks were turned into experts",
    "merged": "fine-tunes of one model behind a gate",
    "trained_apart": "experts that were trained apart and then mixed",
}


def write_card(directory: Path, certificate: Certificate, *, name: str) -> None:
    """Write README.md of the mixture `name` into `directory`, with a licence only where a source's own card has one."""
    metadata = yaml.safe_dump(_metadata(certificate), sort_keys=False, allow_unicode=True)
    body = "\n".join(_body(name, certificate))
    write_text_atomically(directory / CARD_FILE, f"{FENCE}{metadata}{FENCE}\n{body}")


def _metadata(certificate: Certificate) -> dict[str, Any]:
    licences = sorted({licence for source in certificate.sources if (licence := _licence(Path(source.path)))})
    found: dict[str, Any] = {
        "base_model": [source.name for source in certificate.sources],
        "base_model_relation": "merge" if len(certificate.sources) > 1 else "finetune",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["moe_ray", "mixture-of-experts", certificate.kind, certificate.model_type],
    }
    if len(licences) == 1:
        found["license"] = licences[0]
    elif licences:
        found |= {"license": "other", "license_name": " and ".join(licences)}
    return found


def _licence(source: Path) -> str | None:
    licence = card_metadata(source).get("license")
    return licence if isinstance(licence, str) else None


def card_metadata(directory: Path) -> Mapping[str, Any]:
    """Return the metadata at the head of a checkpoint's card; nothing where there is none that can be read."""
    try:
        text = (directory / CARD_FILE).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return {}
    if not text.startswith(FENCE) or FENCE not in text[len(FENCE) :]:
        return {}
    try:
        found = yaml.safe_load(text[len(FENCE) : text.index(FENCE, len(FENCE))])
    except yaml.YAMLError:
        return {}
    return found if isinstance(found, dict) else {}


def _body(name: str, certificate: Certificate) -> Iterator[str]:
    yield f"# {name}\n"
    yield f"A mixture of experts inside one checkpoint: {KINDS[certificate.kind]}.\n"
    made = datetime.fromtimestamp(certificate.created_at, UTC).strftime("%Y-%m-%d %H:%M UTC")
    yield f"Made by moe_ray {certificate.moe_ray_version}, {made}, as {certificate.model_type}, of:\n"
    for source in certificate.sources:
        yield f"- {source.name} ({source.model_type}), fingerprint `{source.fingerprint}`"
    yield "\n## How to load it\n"
    own_code = any(file.endswith(".py") for file in certificate.tensors_sha256)
    code = ", trust_remote_code=True" if own_code else ""
    yield f"`transformers.AutoModelForCausalLM.from_pretrained(DIR{code})`"
    yield "\n## How it agrees with its sources\n"
    yield from _agreement(certificate.exactness)
    yield "\n## Layers\n"
    yield from _layers(certificate.layers)
    yield f"\nWhere every tensor came from, and what was measured: {CERTIFICATE_FILE}."
    yield "To check all of it against the sources: `moe-ray moe verify DIR`."
    yield ""


def _agreement(records: Sequence[ExactnessRecord]) -> Iterator[str]:
    if not records:
        yield "This was not measured."
        return
    yield "| source | tokens | largest logit difference | same greedy token | reload |"
    yield "| --- | ---: | ---: | ---: | --- |"
    for record in records:
        reload = "bit-equal" if record.reload_equal else "differs"
        figures = f"{record.num_tokens} | {record.max_logit_difference:.3g} | {record.greedy_agreement:.2%}"
        yield f"| {record.against} | {figures} | {reload} |"


def _layers(verdicts: list[LayerVerdict]) -> Iterator[str]:
    converted = [str(verdict.layer) for verdict in verdicts if verdict.state == "converted"]
    yield f"{len(verdicts)} decoder layers; with experts: {', '.join(converted) or 'none'}."
    for verdict in verdicts:
        if verdict.state == "reverted":
            yield f"Layer {verdict.layer} was reverted: {verdict.reason}."
