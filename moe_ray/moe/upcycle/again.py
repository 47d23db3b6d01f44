"""An upcycled mixture made again from its certificate, and held against the one that is there."""

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from moe_ray.errors import RunFailedError
from moe_ray.moe.comparing import Finding, compare_exactness, compare_layers, compare_tensors
from moe_ray.moe.records import Certificate, ExactnessRecord
from moe_ray.moe.tensors import TensorReader
from moe_ray.moe.upcycle.build import upcycle_model
from moe_ray.moe.upcycle.request import UpcycleRequest


def recompute(directory: Path, certificate: Certificate, paths: Mapping[str, Path]) -> Iterator[Finding]:
    """Build the mixture of `certificate` again in a temporary folder, and compare tensors, verdicts and exactness.

    `paths` are the sources' by name, and that of "texts" when they have moved. Needs room for one more mixture.
    """
    dense, *fine_tunes = [paths[source.name] for source in certificate.sources]
    request = UpcycleRequest.model_validate(certificate.settings)
    texts = str(paths["texts"]) if "texts" in paths else request.texts
    request = request.model_copy(update={"fine_tunes": [str(path) for path in fine_tunes], "texts": texts})
    with tempfile.TemporaryDirectory(prefix="moe-ray-verify-") as folder:
        again = Path(folder) / directory.resolve().name
        try:
            found = upcycle_model(dense, again, request)
        except RunFailedError as error:
            yield Finding(what="conversion", holds=False, detail=str(error))
            return
        yield compare_tensors(TensorReader(directory), TensorReader(again), certificate.tensors)
        yield compare_layers(certificate.layers, found.layers)
        yield from compare_exactness(certificate.exactness, _named_as_told(certificate, found))


def _named_as_told(certificate: Certificate, found: Certificate) -> list[ExactnessRecord]:
    """The new records under the sources' old names: a folder that has moved may be called otherwise."""
    old = {new.name: told.name for new, told in zip(found.sources, certificate.sources, strict=True)}
    return [record.model_copy(update={"against": old[record.against]}) for record in found.exactness]
