"""A router's directory: the classifier's files, and the router's own.

router.json        kind, labels, temperatures, out-of-domain score, threshold, settings, fingerprints
mahalanobis.npz    the domains' means, only for the score `mahalanobis`
test_results.json  results on test texts, if it was tested
data_report.json   how many records were kept and dropped, and why, if a run trained it
"""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tokenize import TokenError
from typing import Annotated, Any, BinaryIO, Literal, TypeVar
from zipfile import BadZipFile, ZipFile

import numpy as np
from pydantic import AliasChoices, Field, field_validator
from safetensors import SafetensorError

from moe_ray.arrays import FloatArray
from moe_ray.config.schema import OTHER
from moe_ray.errors import ModelError, RunDirectoryError, first_line
from moe_ray.files import StoredRecord, open_regular, read_json
from moe_ray.fingerprint import file_sha256, fingerprint
from moe_ray.gating.calibration import Calibration, LabelResult, Temperatures
from moe_ray.routing.classifier import CLASSIFIERS
from moe_ray.routing.out_of_domain import Mahalanobis, ScoreName
from moe_ray.store.run_directory import RunDirectory


class OutOfDomainResult(StoredRecord):
    """How well one score tells a set of out-of-domain queries from the domains' own test texts.

    `auroc`: the chance that an own query scores higher than an out-of-domain one. `fpr95`: share of out-of-domain
    queries kept by the threshold that keeps 95 % of the own. `kept`: share of them that the router's threshold keeps.
    """

    set: str
    score: str
    n: int
    auroc: float
    fpr95: float
    kept: float | None


class RouterTestResults(StoredRecord):
    """A router on test texts that nothing of it has seen before.

    `confusion[i][j]`: texts of label i that the router gives label j, before the threshold. `accuracy_low` and
    `accuracy_high` are the 95 % Wilson interval. `own_kept`: share of the domains' own test texts that the threshold
    keeps. `validation_out_of_domain` holds the measurement by which the out-of-domain score was chosen.
    """

    labels: list[str]
    num_train: int
    num_validation: int
    n: int
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    macro_f1: float
    per_label: list[LabelResult]
    confusion: list[list[int]]
    temperature: float
    confident_temperature: float | None = Field(
        None, validation_alias=AliasChoices("confident_temperature", "sure_temperature")
    )
    before_scaling: Calibration
    after_scaling: Calibration
    out_of_domain_score: str = Field(validation_alias=AliasChoices("out_of_domain_score", "foreign_score"))
    threshold: float
    own_kept: float
    validation_out_of_domain: list[OutOfDomainResult] = Field(
        validation_alias=AliasChoices("validation_out_of_domain", "validation_foreign")
    )
    out_of_domain: list[OutOfDomainResult] = Field(validation_alias=AliasChoices("out_of_domain", "foreign"))
    train_s: float
    seconds_per_text: float


ROUTER_FILE = "router.json"
MAHALANOBIS_FILE = "mahalanobis.npz"
OLD_MAHALANOBIS_FILE = "foreign.npz"  # the name of earlier versions, which the fingerprint of the weights keeps
TEST_RESULTS_FILE = "test_results.json"
DATA_FILE = "data_report.json"
TRAINING_FILE = "training.json"  # a classifier's diary, which decides nothing
FORMAT = 1
LARGEST_MAX_TOKENS = 8192  # of router.training.max_tokens
# What JSON, zipfile, safetensors and NumPy's header parser raise on damaged files.
READING_ERRORS = (
    OSError, ValueError, LookupError, TypeError, EOFError, RuntimeError, SyntaxError, BadZipFile, TokenError,
    SafetensorError,
)  # fmt: skip
_HEADERS: dict[tuple[int, int], Any] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}

RecordT = TypeVar("RecordT", bound=StoredRecord)

# Training sets temperatures between 0.01 and 100. Farther out, logits overflow or say nothing.
Temperature = Annotated[float, Field(ge=1e-4, le=1e4, allow_inf_nan=False, strict=True)]
Finite = Annotated[float, Field(allow_inf_nan=False, strict=True)]


class RouterRecord(StoredRecord):
    """router.json. `texts` is the fingerprint of what it learned from, `weights` that of the files beside this one.

    `settings` is the experiment's section `router` as it was trained with. `confident_temperature` is None where one
    temperature is enough.
    """

    format: Literal[1] = 1
    moe_ray_version: str
    kind: str
    labels: list[Annotated[str, Field(min_length=1)]]
    temperature: Temperature
    confident_temperature: Temperature | None = Field(
        None, validation_alias=AliasChoices("confident_temperature", "sure_temperature")
    )
    out_of_domain_score: ScoreName = Field(validation_alias=AliasChoices("out_of_domain_score", "foreign_score"))
    threshold: Finite
    query: Literal["question", "prompt"]
    settings: dict[str, Any]
    texts: str
    weights: str | None = None

    @field_validator("labels")
    @classmethod
    def _require_distinct(cls, labels: list[str]) -> list[str]:
        if len(set(labels)) < len(labels) or not set(labels) - {OTHER}:
            raise ValueError("labels are distinct, and one of them at least is a domain")
        return labels

    @property
    def temperatures(self) -> Temperatures:
        return Temperatures(self.temperature, self.confident_temperature)

    @property
    def fingerprint(self) -> str | None:
        """Names what decides the routes; None before a router is saved. Settings do not enter: the weights do."""
        names = ("kind", "labels", "temperature", "threshold", "query", "weights")
        # The names of format 1: a fingerprint does not change with the name of a field.
        fields = {name: getattr(self, name) for name in names} | {"foreign_score": self.out_of_domain_score}
        if self.confident_temperature is not None:
            fields["sure_temperature"] = self.confident_temperature
        return fingerprint(fields) if self.weights else None


def find_router(path: Path) -> Path:
    """The router's directory that `path` names: itself, or the one that a run trained or loaded.

    Raises `ModelError` when there is neither, and `RunDirectoryError` for a run without a router.
    """
    if (path / ROUTER_FILE).is_file():
        return path
    run = RunDirectory(path)
    if not run.exists:
        what = "not a router directory: router.json is missing" if path.exists() else "no such directory"
        raise ModelError(what, where=str(path), remedy="name a trained router's directory, or a run's that has one")
    router = run.manifest().router
    if not router or "path" not in router:
        raise RunDirectoryError(
            "this run has no router",
            where=str(path),
            remedy="give its experiment a section router and run it again, or name a router's directory",
        )
    named = str(router["path"])
    if Path(named).is_absolute():
        raise RunDirectoryError(
            f"this run took its router from elsewhere: {named}",
            where=str(path),
            remedy=f"name that directory, if you trust it: --router {named}",
        )
    return run.router_path(named)


def read_record(directory: Path) -> RouterRecord:
    """Read router.json. Raises `ModelError` where it is missing, damaged, of another version or of an unknown kind."""
    path = directory / ROUTER_FILE
    value = _read_json(path)
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        found = value.get("format") if isinstance(value, dict) else None
        raise ModelError(
            f"a router of format {found!r}; this moe_ray reads format {FORMAT}",
            where=str(path),
            remedy="use the moe_ray that wrote it, or train it again",
        )
    record = _validated(path, value, RouterRecord)
    if record.kind not in CLASSIFIERS:
        raise ModelError(
            f"no kind of router is called {record.kind!r}",
            where=str(path),
            remedy=f"kinds are {', '.join(CLASSIFIERS)}; use the moe_ray that wrote it, or train it again",
        )
    return record


def read_test_results(directory: Path) -> RouterTestResults | None:
    """Read test_results.json; None where there is none."""
    path = directory / TEST_RESULTS_FILE
    return _validated(path, _read_json(path), RouterTestResults) if path.is_file() else None


def weights_fingerprint(directory: Path) -> str:
    """Fingerprint of the files that decide what a router says, router.json, measurements and reports left out."""
    left_out = {ROUTER_FILE, TEST_RESULTS_FILE, DATA_FILE, TRAINING_FILE}
    files = [path for path in directory.rglob("*") if path.is_file() and path.name not in left_out]
    return fingerprint({_name_in_fingerprint(path, directory): file_sha256(path) for path in files})


def _name_in_fingerprint(path: Path, directory: Path) -> str:
    old = directory / OLD_MAHALANOBIS_FILE
    is_renamed = path == directory / MAHALANOBIS_FILE and not old.exists()
    return str((old if is_renamed else path).relative_to(directory))


def write_mahalanobis(directory: Path, fitted: Mahalanobis) -> None:
    np.savez(directory / MAHALANOBIS_FILE, means=fitted.means, whitening=fitted.whitening)


def require_recorded(directory: Path, record: RouterRecord) -> None:
    """Raise `ModelError` unless the files are those that the record names by their fingerprint."""
    if weights_fingerprint(directory) != record.weights:
        raise ModelError(
            "the router's files are not those that it was saved with: one was changed, added or lost",
            where=str(directory),
            remedy="copy the router's whole directory again, without other files in it, or train it again",
        )


def read_mahalanobis(directory: Path, num_domains: int) -> Mahalanobis:
    """Read the file of `write_mahalanobis`. Raises `ModelError` if it is missing, damaged, or of other domains."""
    old = directory / OLD_MAHALANOBIS_FILE
    path = old if old.is_file() else directory / MAHALANOBIS_FILE
    with reading(path):
        arrays = read_arrays(path)
        means, whitening = arrays["means"], arrays["whitening"]
        require_shape("means", means, (num_domains, len(whitening)))
        require_shape("whitening", whitening, (len(whitening), len(whitening)))
        return Mahalanobis(means=means, whitening=whitening)


def require_shape(name: str, array: FloatArray, shape: tuple[int, ...]) -> None:
    """Raise `ValueError` unless `array` has the `shape` and holds finite numbers alone."""
    if array.shape != shape or array.dtype.kind != "f" or not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite numbers of shape {shape}, not {array.dtype} of shape {array.shape}")


@contextmanager
def reading(path: Path, errors: tuple[type[Exception], ...] = READING_ERRORS) -> Iterator[None]:
    """Turn what goes wrong with a missing or damaged file into a `ModelError` that names `path`.

    Parsers of models and tokenizers raise anything: for them `errors` is `(Exception,)`.
    """
    try:
        yield
    except errors as error:
        raise damaged(path, first_line(error)) from error


def damaged(path: Path, what: str) -> ModelError:
    """Return the error for a file of a router that is missing or cannot be read."""
    return ModelError(
        f"this part of a router is missing or damaged: {what}",
        where=str(path),
        remedy="copy the router's whole directory again, or train it again",
    )


def read_arrays(path: Path) -> dict[str, FloatArray]:
    """Read a NumPy archive of numbers. Objects, thus code, and arrays larger than the file are a `ValueError`."""
    with open_regular(path) as file:
        _require_arrays_that_fit(file)
        with np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)


def _require_arrays_that_fit(file: BinaryIO) -> None:
    """Refuse arrays that are larger than the whole file: a header may claim petabytes, a packed one may hold them."""
    num_bytes = os.fstat(file.fileno()).st_size
    with ZipFile(file) as archive:
        for member in archive.infolist():
            with archive.open(member) as array:
                shape, _, dtype = _HEADERS[np.lib.format.read_magic(array)](array)
            if math.prod(shape) * dtype.itemsize > num_bytes:
                raise ValueError(f"{member.filename} claims the shape {shape}, which does not fit its file")
    file.seek(0)


def _read_json(path: Path) -> Any:
    with reading(path):
        return read_json(path)


def _validated(path: Path, value: object, kind: type[RecordT]) -> RecordT:
    with reading(path):  # pydantic's ValidationError is a ValueError
        return kind.model_validate(value)
