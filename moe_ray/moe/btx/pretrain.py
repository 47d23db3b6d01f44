"""From texts to a mixture: one start, an expert for each domain, all of them in one checkpoint. May be run again."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from moe_ray.checkpoints.identity import identity_hashes
from moe_ray.config.schema import RuntimeConfig
from moe_ray.domains.sources import read_text
from moe_ray.errors import RunDirectoryError
from moe_ray.files import StoredRecord, require_space, safetensors_bytes, write_json
from moe_ray.fingerprint import fingerprint
from moe_ray.moe.btx.base import write_base
from moe_ray.moe.btx.blocks import bits_by_expert
from moe_ray.moe.btx.build import assemble, plan_mixture
from moe_ray.moe.btx.config import ExpertTraining, PretrainConfig
from moe_ray.moe.btx.state import REMEDY
from moe_ray.moe.btx.texts import ExpertTexts, read_expert_texts
from moe_ray.moe.btx.training import ExpertTrainingJob, RunTrainings, TrainingStep, complete, in_turn

BASE, ANCHOR, EXPERTS, MIXTURE = "base", "anchor", "experts", "mixture"
IDENTITY_FILE, RECORD_FILE = "identity.txt", "pretrain.json"


class PretrainRecord(StoredRecord):
    """pretrain.json: what was asked, how many texts there were, and bits per held-out byte, by model and expert.

    The models are the base, the anchor if there is one, each expert alone, and the mixture.
    """

    settings: dict[str, Any]
    num_texts: dict[str, dict[str, int]]
    bits_per_byte: dict[str, dict[str, float]]


def pretrain(
    config: PretrainConfig,
    base_dir: Path,
    out: Path,
    *,
    run: RunTrainings = in_turn,
    told: Callable[[str], object] = lambda _: None,
    heard: Callable[[TrainingStep], object] = lambda _: None,
) -> PretrainRecord:
    """Train the experts that `config` describes apart, and mix them; relative paths are below `base_dir`.

    In `out`: base/, anchor/ where one is asked for, experts/NAME/ (dense checkpoints), mixture/, pretrain.json. What is
    there already is kept, and trainings that were stopped go on. `told` hears of each stage, `heard` of the trainings.
    Raises `RunDirectoryError` when `out` is of another pretraining, and the `UserError` of what is wrong.
    """
    told("Reading texts")
    texts = read_expert_texts(config.experts, base_dir, held_out_fraction=config.held_out_fraction)
    _claim(out, config, texts)
    if (record := _record(out)) is not None:
        return record
    told("Preparing the model that all experts start from")
    everything = tuple(text for one in texts.values() for text in one.train)
    write_base(config, everything, out / BASE)
    _require_room(config, out)
    start = out / BASE
    if config.anchor is not None:
        anchor = _anchor_job(config.anchor, everything, out, config.runtime)
        complete([anchor], run, begun=lambda jobs: told(f"Training the whole model: {_named(jobs)}"), heard=heard)
        start = anchor.out_dir
    jobs = [_expert_job(config, start, out, expert, one) for expert, one in texts.items()]
    complete(jobs, run, begun=lambda jobs: told(f"Training the experts: {_named(jobs)}"), heard=heard)
    directories = [job.out_dir for job in jobs]
    if not (out / MIXTURE).exists():
        told("Mixing them, and holding each against its own checkpoint")
        _mix(config, start, directories, texts, out)
    told("Measuring bits per byte on texts that were held out")
    record = PretrainRecord(
        settings=_settings(config),
        num_texts={name: {"train": len(one.train), "held_out": len(one.held_out)} for name, one in texts.items()},
        bits_per_byte=_measured([*dict.fromkeys((out / BASE, start)), *directories, out / MIXTURE], texts),
    )
    write_json(out / RECORD_FILE, record)
    return record


def _record(out: Path) -> PretrainRecord | None:
    """What a pretraining that is done left, if all is still there; a damaged record is made again."""
    path = out / RECORD_FILE
    if not (path.is_file() and (out / MIXTURE).is_dir()):
        return None
    try:
        return PretrainRecord.model_validate_json(read_text(path))
    except ValidationError:
        return None


def _settings(config: PretrainConfig) -> dict[str, Any]:
    """What decides the weights, of what was asked."""
    settings = config.model_dump(mode="json", exclude={"gpus", "runtime", "finetune"})
    settings["training"] = config.training.deciding()
    settings["anchor"] = config.anchor and config.anchor.deciding()
    return settings


def _claim(out: Path, config: PretrainConfig, texts: Mapping[str, ExpertTexts]) -> None:
    """Mark `out` as this pretraining's. Raises `RunDirectoryError` when it is another's, or something else's."""
    given = {key: Path(value) for key in ("base_model", "tokenizer") if (value := getattr(config, key)) is not None}
    files = {key: identity_hashes(path) for key, path in given.items()}
    asked = {key: value for key, value in _settings(config).items() if key not in {*given, "experts"}}
    words = {name: [one.train, one.held_out] for name, one in texts.items()}
    identity = fingerprint({"settings": asked, "files": files, "texts": words})
    path = out / IDENTITY_FILE
    if path.is_file() and path.read_text(encoding="utf-8").strip() == identity:
        return
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise RunDirectoryError("holds something other than this pretraining", where=str(out), remedy=REMEDY)
    out.mkdir(parents=True, exist_ok=True)
    path.write_text(identity + "\n", encoding="utf-8")


def _require_room(config: PretrainConfig, out: Path) -> None:
    """Raise `ModelError` unless the disk holds what is not there yet.

    That is a checkpoint for each training with a state of up to three times its size, and the mixture.
    """
    dense_bytes = safetensors_bytes(out / BASE)
    wanted = [out / EXPERTS / expert for expert in config.experts] + ([out / ANCHOR] if config.anchor else [])
    num_trainings = sum(not path.exists() for path in wanted)
    num_mixed = 0 if (out / MIXTURE).exists() else len(config.experts)
    require_space(out / MIXTURE, dense_bytes * (4 * num_trainings + num_mixed))


def _named(jobs: Sequence[ExpertTrainingJob]) -> str:
    return ", ".join(f"{job.name} ({len(job.texts):,} texts)" for job in jobs)


def _anchor_job(
    settings: ExpertTraining, texts: tuple[str, ...], out: Path, runtime: RuntimeConfig
) -> ExpertTrainingJob:
    """The base, trained whole on all texts."""
    return ExpertTrainingJob(
        model_dir=out / BASE,
        out_dir=out / ANCHOR,
        texts=texts,
        settings=settings,
        part="everything",
        num_threads=runtime.cpu_threads,
    )


def _expert_job(config: PretrainConfig, start: Path, out: Path, expert: str, texts: ExpertTexts) -> ExpertTrainingJob:
    return ExpertTrainingJob(
        model_dir=start,
        out_dir=out / EXPERTS / expert,
        texts=texts.train,
        settings=config.training,
        part="networks",
        num_threads=config.runtime.cpu_threads,
    )


def _mix(
    config: PretrainConfig, start: Path, experts: Sequence[Path], texts: Mapping[str, ExpertTexts], out: Path
) -> None:
    plan = plan_mixture(start, experts, top_k=config.top_k, seed=config.training.seed)
    own = {name: one.train for name, one in texts.items()}
    assemble(plan, out / MIXTURE, gate=config.gate, texts=own, settings=_settings(config))


def _measured(models: Sequence[Path], texts: Mapping[str, ExpertTexts]) -> dict[str, dict[str, float]]:
    held_out = {name: one.held_out for name, one in texts.items()}
    return {
        f"{EXPERTS}/{path.name}" if path.parent.name == EXPERTS else path.name: bits_by_expert(path, held_out)
        for path in models
    }
