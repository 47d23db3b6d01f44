"""Build a merged mixture tensor by tensor, without loading a model, and recompute its certificate."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from moe_ray import architectures
from moe_ray.checkpoints.source import SourceCheckpoint, copy_companions, open_source, read_config
from moe_ray.checkpoints.tensors import DEFAULT_MAX_SHARD_BYTES, TensorReader, write_tensors
from moe_ray.errors import ModelError
from moe_ray.files import require_free, require_space, write_directory_atomically
from moe_ray.moe.certificate import Certificate, ExactnessRecord, TensorOrigin, certify
from moe_ray.moe.exactness import experts_exactness
from moe_ray.moe.merge.gate import GateRecord
from moe_ray.moe.merge.plan import MergedTensor, MergePlan, differences, naming_of, pieces
from moe_ray.moe.verify import Finding, compare_copies, compare_exactness, compare_layers, finding

# In float32: the same operations in the same order, so that at most the last digit differs.
MAX_LOGIT_DIFFERENCE = 1e-5


def build_merge(
    plan: MergePlan,
    out_dir: Path,
    *,
    check: bool = True,
    max_shard_bytes: int = DEFAULT_MAX_SHARD_BYTES,
    on_bytes: Callable[[int], object] = lambda _: None,
) -> Certificate:
    """Write the mixture of `plan` to `out_dir` atomically, with certificate and card, and return the certificate.

    At most one tensor is in memory while writing; `on_bytes` receives the size of each. With `check` the result is
    loaded and compared with each source. Raises `ModelError` if `out_dir` is not empty, the disk is too small, or an
    expert differs from its source.
    """
    require_free(out_dir)
    require_space(out_dir, plan.num_bytes)
    certificates: list[Certificate] = []

    def write(directory: Path) -> None:
        _write_checkpoint(plan, directory, max_shard_bytes, on_bytes)
        certificates.append(_certify(plan, directory, name=out_dir.name, check=check))

    write_directory_atomically(out_dir, write)
    return certificates[0]


def _write_checkpoint(
    plan: MergePlan, directory: Path, max_shard_bytes: int, on_bytes: Callable[[int], object]
) -> None:
    tensors = pieces(plan.sources, plan.gate, plan.naming)
    write_tensors(directory, tensors, max_shard_bytes=max_shard_bytes, on_bytes=on_bytes)
    copy_companions(plan.sources[0], directory)
    plan.config.auto_map = architectures.auto_map(plan.config.model_type)
    plan.config.save_pretrained(directory)


def _certify(plan: MergePlan, directory: Path, *, name: str, check: bool) -> Certificate:
    paths = {source.name: source.directory for source in plan.sources}
    exactness = experts_exactness(directory, paths) if check else []
    _require_exact(exactness, plan)
    return certify(
        directory,
        name=name,
        kind="merged",
        model_type=plan.config.model_type,
        settings=_settings(plan),
        sources=plan.sources,
        layers=plan.naming.verdicts(),
        tensors=[_origin(tensor, plan.sources) for tensor in plan.naming.tensors],
        exactness=exactness,
    )


def _settings(plan: MergePlan) -> dict[str, Any]:
    return {
        "mixture_mode": plan.config.mixture_mode,
        "gate": plan.gate.record.model_dump(mode="json"),
        "taken_from_first": list(plan.differences),
    }


def _origin(tensor: MergedTensor, sources: tuple[SourceCheckpoint, ...]) -> TensorOrigin:
    if tensor.dense is None:
        return TensorOrigin(tensor=tensor.name, source=None, source_tensor=None, how="gate")
    source = sources[tensor.expert or 0].name
    how = "shared, from the first source" if tensor.expert is None else "copied"
    return TensorOrigin(tensor=tensor.name, source=source, source_tensor=tensor.dense, how=how)


def _require_exact(exactness: Sequence[ExactnessRecord], plan: MergePlan) -> None:
    """Raise `ModelError` if an expert differs from its source although the sources share all other tensors."""
    for one in exactness:
        is_exact = one.max_logit_difference <= MAX_LOGIT_DIFFERENCE and one.reload_equal
        if not is_exact and not plan.differences:
            raise ModelError(
                f"expert {one.against} alone differs from its source by {one.max_logit_difference:.3g} in a logit",
                where=str(plan.sources[0].directory),
                remedy="this architecture cannot be merged: please report it",
            )


def recompute(directory: Path, certificate: Certificate, paths: Mapping[str, Path]) -> Iterator[Finding]:
    """Compare the mixture with its sources: tensors, recorded differences, layers, and each expert alone.

    `paths` maps the sources' names to folders. The gate comes from no source; the file hashes cover it.
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


def _compare_differences(recorded: list[str], found: list[str]) -> Finding:
    wrong = [f"not in the certificate: {line}" for line in found if line not in recorded]
    wrong += [f"in the certificate, but not found: {line}" for line in recorded if line not in found]
    return finding("differences between the sources", wrong, f"{len(recorded)}, all in the certificate")
