"""Builds a micro-world: its data, its experiment file, and the models that it evaluates."""

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from string import Template

import yaml

from moe_ray.config.paths import cache_directory
from moe_ray.config.schema import DomainConfig
from moe_ray.domains.loading import make_task
from moe_ray.domains.sources import read_file
from moe_ray.microworld.data import DOMAIN_FILES, QuestionAnswer, build_tokenizer, pair_of, write_pairs, write_world
from moe_ray.microworld.mixtures import build_mixtures, feed_forward_specs
from moe_ray.microworld.spec import (
    Budget,
    ModelShape,
    Shape,
    TrainingResult,
    TrainingSpec,
    cached_result,
)
from moe_ray.microworld.worlds import SYNTHETIC, WorldSize

logger = logging.getLogger(__name__)

MapTasks = Callable[[Callable[[TrainingSpec], TrainingResult], Sequence[TrainingSpec]], Iterable[TrainingResult]]

BASELINE = "baseline"

# Ordered by cost, so that two concurrent trainings end together.
ARCHITECTURES: Mapping[str, ModelShape] = {
    "code": "qwen2",
    BASELINE: "mistral",
    "biomedical": "phi3",
    "legal": "mistral",
}
SHAPES: Mapping[WorldSize, Shape] = {
    "demo": Shape(hidden_size=96, intermediate_size=256, num_layers=3, num_heads=4),
    "tiny": Shape(hidden_size=32, intermediate_size=64, num_layers=2, num_heads=2),
}
BUDGETS: Mapping[WorldSize, Budget] = {
    "demo": Budget(num_steps=600, batch_rows=16, learning_rate=3e-3),
    "tiny": Budget(num_steps=60, batch_rows=16, learning_rate=1e-2),
}


def build_microworld(directory: Path, size: WorldSize, map_tasks: MapTasks, *, mixtures: bool = False) -> Path:
    """Write data and experiment file to `directory`, train models that are not cached, and return the experiment file.

    `map_tasks(train_model, specs)` runs the trainings, in this process or elsewhere on this machine, and yields their
    results in any order. `mixtures` adds two models, each one checkpoint for all domains.
    """
    directory = directory.absolute()
    write_world(directory / "data", size)
    specs = training_specs(directory, size)
    _train(specs.values(), map_tasks)
    checkpoints = {name: spec.checkpoint for name, spec in specs.items()}
    if mixtures:
        fine_tunes = feed_forward_specs(specs[BASELINE], {name: specs[name] for name in DOMAIN_FILES})
        _train(fine_tunes.values(), map_tasks)
        checkpoints |= build_mixtures(fine_tunes, directory / "training", specs[BASELINE].checkpoint)
    file = directory / ("mixtures.yaml" if mixtures else "experiment.yaml")
    file.write_text(_experiment_text(size, {name: str(path) for name, path in checkpoints.items()}), "utf-8")
    return file


def _train(specs: Iterable[TrainingSpec], map_tasks: MapTasks) -> None:
    missing = [spec for spec in specs if cached_result(spec) is None]
    if missing:
        from moe_ray.microworld.training import train_model

        for result in map_tasks(train_model, missing):
            logger.info("trained %s: loss %.3f, %.1f s", result.name, result.losses[-1][1], result.train_s)


def training_specs(directory: Path, size: WorldSize) -> dict[str, TrainingSpec]:
    """Render the training pairs of the data in `directory`, and return the four trainings by domain, and baseline.

    The baseline gets the architecture, size, steps and rows per step of an expert, and all domains' pairs.
    """
    training = directory / "training"
    pairs = {domain: _render(domain, config, directory) for domain, config in domain_configs(size).items()}
    for domain, rendered in pairs.items():
        write_pairs(training / f"{domain}.jsonl", rendered)
    texts = [text for rendered in pairs.values() for pair in rendered for text in _texts(pair)]
    build_tokenizer(texts, training / "tokenizer.json")
    return {
        name: TrainingSpec(
            name=name,
            architecture=architecture,
            shape=SHAPES[size],
            budget=BUDGETS[size],
            pairs_files=tuple(str(training / f"{domain}.jsonl") for domain in _domains_of(name)),
            tokenizer_file=str(training / "tokenizer.json"),
            cache_dir=str(cache_directory()),
        )
        for name, architecture in ARCHITECTURES.items()
    }


def domain_configs(size: WorldSize) -> dict[str, DomainConfig]:
    """Return the domains of the experiment file: trained models see the prompts that the evaluation asks."""
    text = _experiment_text(size, dict.fromkeys(ARCHITECTURES, "./untrained"))
    return {name: DomainConfig.model_validate(section) for name, section in yaml.safe_load(text)["domains"].items()}


def _domains_of(name: str) -> tuple[str, ...]:
    return tuple(DOMAIN_FILES) if name == BASELINE else (name,)


def _render(domain: str, config: DomainConfig, directory: Path) -> list[QuestionAnswer]:
    task = make_task(domain, config, directory)
    return [pair_of(example) for example in task.examples(read_file(directory / "data/train" / DOMAIN_FILES[domain]))]


def _texts(pair: QuestionAnswer) -> list[str]:
    return [*(content for _, content in pair.messages), pair.target]


def _experiment_text(size: WorldSize, checkpoints: Mapping[str, str]) -> str:
    """Return the experiment file; JSON strings are YAML, so that any path can be named."""
    quoted = {name: json.dumps(path) for name, path in checkpoints.items()}
    has_mixtures = any(name not in ARCHITECTURES for name in checkpoints)
    values = {**quoted, "size": f"{size}-mixtures" if has_mixtures else size, "note": json.dumps(SYNTHETIC)}
    mixtures = _template("mixtures.yaml").substitute(values) if has_mixtures else ""
    return _template("experiment.yaml").substitute(values, mixtures=mixtures)


def _template(name: str) -> Template:
    return Template(resources.files("moe_ray.microworld").joinpath(name).read_text("utf-8"))
