"""Pretraining from texts to a mixture: a base checkpoint, an expert for each domain, one mixture. Resumable."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from pydantic import ValidationError

from moe_ray.checkpoints.identity import identity_hashes
from moe_ray.checkpoints.source import copy_companions, open_source
from moe_ray.config.schema import RuntimeConfig
from moe_ray.domains.sources import read_text
from moe_ray.errors import ConfigError, ModelError, RunDirectoryError
from moe_ray.files import StoredRecord, require_space, safetensors_bytes, write_directory_atomically, write_json
from moe_ray.fingerprint import fingerprint
from moe_ray.moe.btx.build import build_btx, plan_btx
from moe_ray.moe.btx.request import ExpertTraining, PretrainConfig
from moe_ray.moe.btx.state import REMEDY
from moe_ray.moe.btx.texts import ExpertTexts, read_expert_texts
from moe_ray.moe.btx.tokens import DEFAULT_VOCABULARY_SIZE, bits_by_expert, learn_tokenizer
from moe_ray.moe.btx.training import ExpertTrainingJob, RunTrainings, complete, in_turn
from moe_ray.moe.families import FAMILIES, family_of
from moe_ray.moe.families.own import OwnFamily
from moe_ray.moe.running import load_for_construction, load_tokenizer
from moe_ray.progress import TrainingProgress

BASE, ANCHOR, EXPERTS, MIXTURE = "base", "anchor", "experts", "mixture"
IDENTITY_FILE, RECORD_FILE = "identity.txt", "pretrain.json"


class PretrainRecord(StoredRecord):
    """pretrain.json: settings, numbers of texts, and bits per held-out byte by model and expert.

    The models are the base, the anchor if configured, each expert alone, and the mixture.
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
    on_progress: Callable[[str], object] = lambda _: None,
    on_step: Callable[[TrainingProgress], object] = lambda _: None,
) -> PretrainRecord:
    """Train the experts of `config` separately, and mix them. Relative paths are resolved against `base_dir`.

    Writes base/, anchor/ (if configured), experts/NAME/ (dense checkpoints), mixture/ and pretrain.json to `out`.
    Finished parts are kept and interrupted trainings resume. `on_progress` receives a line for each stage, `on_step`
    the trainings' progress. Raises `RunDirectoryError` if `out` belongs to another pretraining.
    """
    on_progress("Reading texts")
    texts = read_expert_texts(config.experts, base_dir, held_out_fraction=config.held_out_fraction)
    _claim(out, config, texts)
    if (record := _record(out)) is not None:
        return record
    on_progress("Preparing the model that all experts start from")
    everything = tuple(text for one in texts.values() for text in one.train)
    write_base(config, everything, out / BASE)
    _require_room(config, out)
    start = out / BASE
    if config.anchor is not None:
        anchor = _anchor_job(config.anchor, everything, out, config.runtime)
        complete(
            [anchor],
            run,
            on_start=lambda jobs: on_progress(f"Training the whole model: {_named(jobs)}"),
            on_step=on_step,
        )
        start = anchor.out_dir
    jobs = [_expert_job(config, start, out, expert, one) for expert, one in texts.items()]
    complete(jobs, run, on_start=lambda jobs: on_progress(f"Training the experts: {_named(jobs)}"), on_step=on_step)
    directories = [job.out_dir for job in jobs]
    if not (out / MIXTURE).exists():
        on_progress("Mixing the experts, and comparing each with its own checkpoint")
        _mix(config, start, directories, texts, out)
    on_progress("Measuring bits per byte on held-out texts")
    record = PretrainRecord(
        settings=_settings(config),
        num_texts={name: {"train": len(one.train), "held_out": len(one.held_out)} for name, one in texts.items()},
        bits_per_byte=_measured([*dict.fromkeys((out / BASE, start)), *directories, out / MIXTURE], texts),
    )
    write_json(out / RECORD_FILE, record)
    return record


def _record(out: Path) -> PretrainRecord | None:
    """Return the record of a finished pretraining; None if record or mixture are missing or damaged."""
    path = out / RECORD_FILE
    if not (path.is_file() and (out / MIXTURE).is_dir()):
        return None
    try:
        return PretrainRecord.model_validate_json(read_text(path))
    except ValidationError:
        return None


def _settings(config: PretrainConfig) -> dict[str, Any]:
    """Return the settings that determine the weights."""
    settings = config.model_dump(mode="json", exclude={"gpus", "runtime", "finetune"})
    settings["training"] = config.training.deciding()
    settings["anchor"] = config.anchor and config.anchor.deciding()
    return settings


def _claim(out: Path, config: PretrainConfig, texts: Mapping[str, ExpertTexts]) -> None:
    """Mark `out` as this pretraining's. Raises `RunDirectoryError` if it holds anything else."""
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
    """Raise `ModelError` unless the disk has space for everything that is still missing.

    That is the mixture and, for each training, a checkpoint and a state of up to three times its size.
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
    """Return the job that trains all of the base on all texts."""
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
    plan = plan_btx(start, experts, top_k=config.top_k, seed=config.training.seed)
    own = {name: one.train for name, one in texts.items()}
    build_btx(plan, out / MIXTURE, gate=config.gate, texts=own, settings=_settings(config))


def _measured(models: Sequence[Path], texts: Mapping[str, ExpertTexts]) -> dict[str, dict[str, float]]:
    held_out = {name: one.held_out for name, one in texts.items()}
    return {
        f"{EXPERTS}/{path.name}" if path.parent.name == EXPERTS else path.name: bits_by_expert(path, held_out)
        for path in models
    }


def write_base(config: PretrainConfig, texts: Sequence[str], directory: Path) -> None:
    """Write the checkpoint that all experts start from to `directory`, in float32, unless it exists.

    Without a tokenizer in `config`, one is trained on `texts`. Raises `ConfigError` and `ModelError`.
    """
    if directory.exists():
        return
    if config.base_model is not None:
        source = open_source(Path(config.base_model))
        require_own_family(source.config.model_type, where="base_model")
        model = load_for_construction(source.directory)

        def write(folder: Path) -> None:
            model.save_pretrained(folder)
            copy_companions(source, folder)
    else:
        tokenizer = _tokenizer(config, texts)
        model = _untrained(config, tokenizer)

        def write(folder: Path) -> None:
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)

    write_directory_atomically(directory, write)


def require_own_family(model_type: str, *, where: str) -> None:
    """Raise `ModelError` unless mixtures of the model type can run a single expert; transformers' own cannot."""
    if not isinstance(family_of(model_type, where=where), OwnFamily):
        own = [name for name in FAMILIES if isinstance(family_of(name), OwnFamily)]
        raise ModelError(
            f"mixtures of {model_type} have no way to let one expert answer alone",
            where=where,
            remedy=f"take a model of {', '.join(sorted(own))}; moe-ray moe upcycle --experts models mixes fine-tunes",
        )


def _untrained(config: PretrainConfig, tokenizer: Any) -> Any:
    asked = dict(config.architecture or {})
    model_type = asked.pop("model_type", None)
    require_own_family(str(model_type), where="architecture.model_type")
    ids = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), tokenizer.eos_token_id)
    try:
        described = transformers.AutoConfig.for_model(model_type, **{**ids, **asked, "vocab_size": len(tokenizer)})
        torch.manual_seed(config.training.seed)
        return transformers.AutoModelForCausalLM.from_config(described, trust_remote_code=False)
    except Exception as error:
        # Configuration classes raise arbitrary errors; the cause is chained.
        raise ConfigError(
            f"not a configuration of {model_type}: {' '.join(str(error).split())}",
            where="architecture",
            remedy="see the configuration classes of transformers for the keys and their values",
        ) from error


def _tokenizer(config: PretrainConfig, texts: Sequence[str]) -> Any:
    if config.tokenizer is not None:
        return load_tokenizer(Path(config.tokenizer))
    size = (config.architecture or {}).get("vocab_size", DEFAULT_VOCABULARY_SIZE)
    return learn_tokenizer(texts, size)
