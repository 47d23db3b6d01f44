"""From texts to a mixture: one start, an expert for each domain, all of them in one checkpoint. May be run again."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from moe_ray.errors import RunDirectoryError
from moe_ray.fingerprint import file_sha256, fingerprint
from moe_ray.moe.apart.assemble import assemble, plan_mixture
from moe_ray.moe.apart.base import write_base
from moe_ray.moe.apart.config import PretrainConfig
from moe_ray.moe.apart.held_out import bits_by_expert
from moe_ray.moe.apart.state import REMEDY
from moe_ray.moe.apart.texts import ExpertTexts, read_expert_texts
from moe_ray.moe.apart.training import TrainingJob, TrainingStep, train
from moe_ray.moe.running import load_for_construction, load_tokenizer
from moe_ray.planning.checkpoints import identity_files
from moe_ray.routing.files import write_json
from moe_ray.store.records import StoredRecord

BASE, ANCHOR, EXPERTS, MIXTURE = "base", "anchor", "experts", "mixture"
IDENTITY_FILE, RECORD_FILE = "identity.txt", "pretrain.json"

Run = Callable[[Sequence[TrainingJob]], Iterator[TrainingStep]]
"""Runs trainings, all at once or one after the other, and yields how far each is."""


class PretrainRecord(StoredRecord):
    """pretrain.json: what was asked, how many texts there were, and bits per held-out byte, by model and expert.

    The models are the base, the anchor if there is one, each expert alone, and the mixture.
    """

    settings: dict[str, Any]
    num_texts: dict[str, dict[str, int]]
    bits_per_byte: dict[str, dict[str, float]]


def in_turn(jobs: Sequence[TrainingJob]) -> Iterator[TrainingStep]:
    """Train one after the other, in this process."""
    for job in jobs:
        yield from train(job)


def pretrain(
    config: PretrainConfig,
    base_dir: Path,
    out: Path,
    *,
    run: Run = in_turn,
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
    told("Preparing the model that all experts start from")
    everything = tuple(text for one in texts.values() for text in one.train)
    write_base(config, everything, out / BASE)
    start = _start(config, everything, out, run, told, heard)
    told(f"Training {len(texts)} experts apart")
    for step in run([_expert_job(config, start, out, expert, one) for expert, one in texts.items()]):
        heard(step)
    directories = [out / EXPERTS / expert for expert in texts]
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


def _settings(config: PretrainConfig) -> dict[str, Any]:
    """What decides the weights, of what was asked."""
    settings = config.model_dump(mode="json", exclude={"gpus", "runtime"})
    for section in (settings["training"], settings["anchor"]):
        if section is not None:
            del section["checkpoint_every"]
    return settings


def _claim(out: Path, config: PretrainConfig, texts: Mapping[str, ExpertTexts]) -> None:
    """Mark `out` as this pretraining's. Raises `RunDirectoryError` when it is another's, or something else's."""
    given = {key: Path(value) for key in ("base_model", "tokenizer") if (value := getattr(config, key)) is not None}
    files = {key: {one.name: file_sha256(one) for one in identity_files(path)} for key, path in given.items()}
    asked = {key: value for key, value in _settings(config).items() if key not in {*given, "experts"}}
    words = {name: [one.train, one.held_out] for name, one in texts.items()}
    identity = fingerprint({"settings": asked, "files": files, "texts": words})
    path = out / IDENTITY_FILE
    if path.is_file() and path.read_text(encoding="utf-8").strip() == identity:
        return
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise RunDirectoryError("holds something else than this pretraining", where=str(out), remedy=REMEDY)
    out.mkdir(parents=True, exist_ok=True)
    path.write_text(identity + "\n", encoding="utf-8")


def _start(
    config: PretrainConfig,
    texts: tuple[str, ...],
    out: Path,
    run: Run,
    told: Callable[[str], object],
    heard: Callable[[TrainingStep], object],
) -> Path:
    """Return the checkpoint that the experts start from: the base, or the base trained whole on all texts."""
    if config.anchor is None:
        return out / BASE
    told("Training the anchor on all texts")
    job = TrainingJob(
        model_dir=out / BASE,
        out_dir=out / ANCHOR,
        texts=texts,
        settings=config.anchor,
        part="everything",
        num_threads=config.runtime.cpu_threads,
    )
    for step in run([job]):
        heard(step)
    return out / ANCHOR


def _expert_job(config: PretrainConfig, start: Path, out: Path, expert: str, texts: ExpertTexts) -> TrainingJob:
    return TrainingJob(
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
    found = {}
    for path in models:
        name = f"{EXPERTS}/{path.name}" if path.parent.name == EXPERTS else path.name
        found[name] = bits_by_expert(load_for_construction(path), load_tokenizer(path), held_out)
    return found
