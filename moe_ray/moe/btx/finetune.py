"""Train the gates of a mixture, and optionally its experts, with a frozen backbone."""

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from moe_ray.errors import ModelError
from moe_ray.files import (
    StoredRecord,
    require_free,
    require_space,
    safetensors_bytes,
    write_directory_atomically,
    write_json,
)
from moe_ray.fingerprint import fingerprint
from moe_ray.moe.btx.build import KIND, TRAINED, require_exact
from moe_ray.moe.btx.request import FinetuneSettings
from moe_ray.moe.btx.state import HistoryPoint
from moe_ray.moe.btx.tokens import bits_by_expert
from moe_ray.moe.btx.training import ExpertTrainingJob, RunTrainings, complete, in_turn
from moe_ray.moe.certificate import (
    Certificate,
    TensorOrigin,
    own_files,
    read_certificate,
    write_card,
    write_certificate,
)
from moe_ray.moe.exactness import experts_exactness
from moe_ray.moe.verify import GATE
from moe_ray.progress import TrainingProgress

RECORD_FILE = "finetune.json"
EXPERTS_NAME = ".mlp.experts."


class FinetuneRecord(StoredRecord):
    """finetune.json beside the weights: settings, history, and bits per held-out byte before and after."""

    settings: dict[str, Any]
    num_texts: dict[str, int]
    history: list[HistoryPoint]
    bits_per_byte: dict[str, dict[str, float]]


def finetune(
    directory: Path,
    out: Path,
    texts: Sequence[str],
    settings: FinetuneSettings,
    *,
    held_out: Mapping[str, Sequence[str]],
    num_threads: int = 1,
    run: RunTrainings = in_turn,
    on_step: Callable[[TrainingProgress], object] = lambda _: None,
) -> FinetuneRecord:
    """Train the mixture in `directory` on `texts`, and write it with its own certificate to the new folder `out`.

    `held_out` maps names to texts for bits per byte. The `work_folder` of `out` holds the resumable state, and is
    removed at the end. Raises `ModelError` if `directory` is not a branch-train-mix mixture, or if checkpoints of its
    experts are missing.
    """
    certificate = _certificate(directory)
    require_free(out)
    # The trained mixture, its copy in `out`, and the state of a training of the experts.
    require_space(out, safetensors_bytes(directory) * (5 if settings.with_experts else 2))
    work = work_folder(out)
    job = ExpertTrainingJob(
        model_dir=directory,
        out_dir=work / "mixture",
        texts=tuple(texts),
        settings=settings,
        part=settings.part,
        losses={"router_aux_loss_coef": settings.balancing, "router_z_loss_coef": settings.z},
        num_threads=num_threads,
    )
    (finished,) = complete([job], run, on_step=on_step)
    record = FinetuneRecord(
        settings=settings.model_dump(mode="json"),
        num_texts={"train": len(texts), **{f"held out, {name}": len(own) for name, own in held_out.items()}},
        history=finished.history,
        bits_per_byte={
            name: bits_by_expert(path, held_out) for name, path in (("before", directory), ("after", job.out_dir))
        },
    )
    request = {**record.settings, "texts": fingerprint(list(texts))}
    write_directory_atomically(
        out, lambda folder: _write(folder, job.out_dir, record, _trained(certificate, request, settings), name=out.name)
    )
    shutil.rmtree(work)
    return record


def work_folder(out: Path) -> Path:
    """Return the folder of an unfinished finetuning: OUT.training, beside `out`."""
    return out.with_name(f"{out.name}.training")


def _certificate(directory: Path) -> Certificate:
    certificate = read_certificate(directory)
    if certificate.kind != KIND:
        raise ModelError(
            f"is {certificate.kind}: finetune trains mixtures of experts that were trained apart",
            where=str(directory),
            remedy="name the folder `mixture` of moe-ray moe pretrain",
        )
    gone = [source.path for source in certificate.sources if not Path(source.path).is_dir()]
    if gone:
        raise ModelError(
            f"its sources {', '.join(gone)} do not exist",
            where=str(directory),
            remedy="put the experts' checkpoints back: the new certificate says how far each expert is from its own",
        )
    return certificate


def _trained(certificate: Certificate, request: dict[str, Any], settings: FinetuneSettings) -> Certificate:
    """Return the certificate of the trained mixture, before its files and exactness are known."""
    finetuned = [*certificate.settings.get("finetuned", []), request]
    tensors = [_origin(origin) if settings.with_experts else origin for origin in certificate.tensors]
    return certificate.model_copy(
        update={
            "settings": {**certificate.settings, "finetuned": finetuned},
            "tensors": tensors,
            "created_at": time.time(),
        }
    )


def _origin(origin: TensorOrigin) -> TensorOrigin:
    is_trained = EXPERTS_NAME in origin.tensor and origin.how != GATE and not origin.how.endswith(TRAINED)
    return origin.model_copy(update={"how": origin.how + TRAINED}) if is_trained else origin


def _write(folder: Path, trained: Path, record: FinetuneRecord, certificate: Certificate, *, name: str) -> None:
    shutil.copytree(trained, folder, dirs_exist_ok=True)
    write_json(folder / RECORD_FILE, record)
    experts = {source.name: Path(source.path) for source in certificate.sources[1:]}
    exactness = experts_exactness(folder, experts)
    if not any(origin.how.endswith(TRAINED) for origin in certificate.tensors):
        require_exact(exactness)
    whole = certificate.model_copy(update={"exactness": exactness, "tensors_sha256": own_files(folder)})
    write_certificate(folder, whole)
    write_card(folder, whole, name=name)
