"""A merged mixture held against the sources that its certificate names."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from moe_ray.moe.comparing import Finding, compare_copies, compare_exactness, compare_layers, finding
from moe_ray.moe.exactness import experts_exactness
from moe_ray.moe.merged.differences import differences
from moe_ray.moe.merged.gate_records import GateRecord
from moe_ray.moe.merged.naming import naming_of
from moe_ray.moe.records import Certificate
from moe_ray.moe.source import open_source, read_config
from moe_ray.moe.tensors import TensorReader


def recompute(directory: Path, certificate: Certificate, paths: Mapping[str, Path]) -> Iterator[Finding]:
    """Compare the mixture with its sources: tensors, what they have otherwise, layers, and each expert alone.

    `paths` are the sources' by name. The gate comes from no source: that it has not changed, the file's hash tells.
    """
    opened = [open_source(paths[source.name], name=source.name) for source in certificate.sources]
    naming = naming_of(read_config(directory), opened[0])
    directories = {source.name: source.directory for source in opened}
    yield compare_copies(TensorReader(directory), directories, certificate.tensors)
    found = differences(opened, GateRecord.model_validate(certificate.settings["gate"]), naming)
    yield _compare_differences(certificate.settings["taken_from_first"], found)
    yield compare_layers(certificate.layers, naming.verdicts())
    measured = experts_exactness(directory, directories) if certificate.exactness else []
    yield from compare_exactness(certificate.exactness, measured)


def _compare_differences(told: list[str], found: list[str]) -> Finding:
    wrong = [f"not told: {line}" for line in found if line not in told]
    wrong += [f"told, and not so: {line}" for line in told if line not in found]
    return finding("differences between the sources", wrong, f"{len(told)}, all told")
