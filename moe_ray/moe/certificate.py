"""certificate.json of a mixture, and the model card that is written from it."""

import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import ConfigDict, Field, ValidationError

import moe_ray
from moe_ray.checkpoints.identity import CERTIFICATE_FILE as CERTIFICATE_FILE
from moe_ray.checkpoints.identity import identity_hashes
from moe_ray.checkpoints.source import SourceCheckpoint, SourceRecord, source_record
from moe_ray.errors import ModelError
from moe_ray.files import StoredRecord, write_text_atomically

MixtureKind = Literal["upcycled", "merged", "trained_apart"]
LayerState = Literal["converted", "reverted", "dense"]


class LayerVerdict(StoredRecord):
    """One decoder layer. `measured` holds the test results by name, and `limits` their bounds.

    "reverted": converted, failed a test for `reason`, and made dense again. "dense": conversion was not requested.
    """

    model_config = ConfigDict(ser_json_inf_nan="strings")  # a layer that outputs NaN differs infinitely

    layer: int
    state: LayerState
    reason: str | None = None
    measured: dict[str, float] = Field(default_factory=dict)
    limits: dict[str, float] = Field(default_factory=dict)


class TensorOrigin(StoredRecord):
    """Origin of a tensor of the mixture: the source, the tensor's name there, and the transformation."""

    tensor: str
    source: str | None
    source_tensor: str | None
    how: str


class ExactnessRecord(StoredRecord):
    """Agreement of the mixture with a source at construction, over `num_tokens` tokens.

    `max_logit_difference`: largest absolute logit difference in float32. `greedy_agreement`: share of tokens with the
    same most likely next token. `reload_equal`: the reloaded checkpoint gives bit-equal logits.
    """

    against: str
    num_tokens: int
    max_logit_difference: float
    greedy_agreement: float
    reload_equal: bool


class Certificate(StoredRecord):
    """certificate.json. `settings` are the command's; `tensors_sha256` has the hashes of the mixture's files."""

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
    """Return the SHA-256 of every file that affects the mixture's answers, by name; the certificate is excluded."""
    return identity_hashes(directory)


def certify(
    directory: Path,
    *,
    name: str,
    kind: MixtureKind,
    model_type: str,
    settings: dict[str, Any],
    sources: Sequence[SourceCheckpoint],
    layers: list[LayerVerdict],
    tensors: list[TensorOrigin],
    exactness: list[ExactnessRecord],
) -> Certificate:
    """Write certificate and card of the finished mixture `name` in `directory`, and return the certificate."""
    certificate = Certificate(
        kind=kind,
        model_type=model_type,
        moe_ray_version=moe_ray.__version__,
        transformers_version=version("transformers"),
        created_at=time.time(),
        settings=settings,
        sources=[source_record(source) for source in sources],
        layers=layers,
        tensors=tensors,
        exactness=exactness,
        tensors_sha256=own_files(directory),
    )
    write_certificate(directory, certificate)
    write_card(directory, certificate, name=name)
    return certificate


def write_certificate(directory: Path, certificate: Certificate) -> None:
    write_text_atomically(directory / CERTIFICATE_FILE, certificate.model_dump_json(indent=1) + "\n")


def read_certificate(directory: Path) -> Certificate:
    """Read the certificate of the mixture in `directory`. Raises `ModelError` if it is missing or damaged."""
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
    """Write README.md of the mixture `name` into `directory`. The licence is taken from the sources' own cards."""
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
    """Return the metadata of a checkpoint's card; empty if it has no readable metadata."""
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
