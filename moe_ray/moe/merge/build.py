"""Merge fine-tunes of one model behind a gate, tensor by tensor: no model is in memory, and none half on disk."""

import time
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import moe_ray
from moe_ray import architectures
from moe_ray.checkpoints.source import SourceCheckpoint, copy_companions, open_source, read_config, source_record
from moe_ray.checkpoints.tensors import DEFAULT_MAX_SHARD_BYTES, TensorReader, TensorWriter
from moe_ray.errors import ModelError
from moe_ray.files import require_free, require_space, write_directory_atomically
from moe_ray.moe.certificate import Certificate, TensorOrigin, own_files, write_card, write_certificate
from moe_ray.moe.exactness import experts_exactness
from moe_ray.moe.merge.gate import GateRecord
from moe_ray.moe.merge.plan import MergedTensor, MergePlan, _pieces, differences, naming_of
from moe_ray.moe.verify import Finding, compare_copies, compare_exactness, compare_layers, finding

# In float32: the same products in the same order, so that nothing but a last digit could move.
MAX_LOGIT_DIFFERENCE = 1e-5


def build_merge(
    plan: MergePlan,
    out_dir: Path,
    *,
    check: bool = True,
    max_shard_bytes: int = DEFAULT_MAX_SHARD_BYTES,
    on_bytes: Callable[[int], object] | None = None,
) -> Certificate:
    """Write the mixture of `plan` to `out_dir`, with its certificate, which is returned.

    At most one tensor is held while writing; `on_bytes` gets the bytes of each. With `check` the result is loaded, held
    against each source, and not kept where an expert alone is not its source. `out_dir` must not be there, or be
    empty; it appears whole at the end. Raises `ModelError` before any work when it cannot.
    """
    require_free(out_dir)
    require_space(out_dir, plan.num_bytes)
    certificates: list[Certificate] = []

    def write(directory: Path) -> None:
        _write_checkpoint(plan, directory, max_shard_bytes, on_bytes)
        certificates.append(_certificate(plan, directory, check=check))
        write_certificate(directory, certificates[-1])
        write_card(directory, certificates[-1], name=out_dir.name)

    write_directory_atomically(out_dir, write)
    return certificates[-1]


def _write_checkpoint(
    plan: MergePlan, directory: Path, max_shard_bytes: int, on_bytes: Callable[[int], object] | None
) -> None:
    writer = TensorWriter(directory, max_shard_bytes)
    try:
        for name, tensor in _pieces(plan.sources, plan.gate, plan.naming):
            writer.add(name, tensor)
            if on_bytes is not None:
                on_bytes(tensor.nbytes)
        writer.finish()
    finally:
        writer.close()
    copy_companions(plan.sources[0], directory)
    plan.config.auto_map = architectures.auto_map(plan.config.model_type)
    plan.config.save_pretrained(directory)


def _certificate(plan: MergePlan, directory: Path, *, check: bool) -> Certificate:
    paths = {source.name: source.directory for source in plan.sources}
    certificate = Certificate(
        kind="merged",
        model_type=plan.config.model_type,
        moe_ray_version=moe_ray.__version__,
        transformers_version=version("transformers"),
        created_at=time.time(),
        settings=_settings(plan),
        sources=[source_record(source) for source in plan.sources],
        layers=plan.naming.verdicts(),
        tensors=[_origin(tensor, plan.sources) for tensor in plan.naming.tensors],
        exactness=experts_exactness(directory, paths) if check else [],
        tensors_sha256=own_files(directory),
    )
    _require_exact(certificate, plan)
    return certificate


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


def _require_exact(certificate: Certificate, plan: MergePlan) -> None:
    """Raise `ModelError` for an expert that is not its source, though all that they share is equal."""
    for one in certificate.exactness:
        is_exact = one.max_logit_difference <= MAX_LOGIT_DIFFERENCE and one.reload_equal
        if not is_exact and not plan.differences:
            raise ModelError(
                f"expert {one.against} alone differs from its source by {one.max_logit_difference:.3g} in a logit",
                where=str(plan.sources[0].directory),
                remedy="this architecture cannot be merged: please report it",
            )


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


def _compare_differences(on_bytes: list[str], found: list[str]) -> Finding:
    wrong = [f"not in the certificate: {line}" for line in found if line not in on_bytes]
    wrong += [f"in the certificate, but not found: {line}" for line in on_bytes if line not in found]
    return finding("differences between the sources", wrong, f"{len(on_bytes)}, all in the certificate")
