"""moe_ray's side: the experiment files, the command, and what it answered."""

import itertools
import json
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.peers.environment import Setting
from benchmarks.peers.models import GENERALIST, LONGEST_ANSWER, RUNNING_ON, STOPPING, Materials
from benchmarks.tiny_experiment import evaluate_command
from moe_ray.config.load import LoadedExperiment, load_experiment
from moe_ray.store.run_directory import RunDirectory

EARLY, FULL_LENGTH, STRINGS, ABSTRACTS, DECISIONS, CODE, STORIES = (
    "early-stops", "full-length", "stop-strings", "abstracts", "decisions", "programs", "stories",
)  # fmt: skip
FULL_TOKENS = 128
BATCH_ROWS = 16
# The second ends the random texts early, often in the middle of a token or across two.
STOP_STRINGS = ("[DONE]", "ku")
STORY_NAMES = ("Lily", "Tom", "Mia", "Ben", "Sue", "Max")
STORY_ANIMALS = ("dog", "cat", "bird", "frog")


def agreement_experiment(setting: Setting, materials: Materials) -> Path:
    """Write the experiment whose every answer is held against the peer's; return its path.

    Free texts that end by the end token, by length or by a stop string; choices and references after completion and
    chat prompts; MBPP's and PubMedQA's formats with a trained model. Each model answers its own domains.
    """
    styles = {STOPPING: "completion", RUNNING_ON: "completion", GENERALIST: "chat", STORIES: "completion"}
    records = materials.test_records
    domains = {
        EARLY: _texts(materials.prompts_file, STOPPING, LONGEST_ANSWER),
        FULL_LENGTH: _texts(materials.prompts_file, RUNNING_ON, FULL_TOKENS),
        STRINGS: _texts(materials.prompts_file, RUNNING_ON, FULL_TOKENS, stop=STOP_STRINGS),
        ABSTRACTS: _published("pubmedqa", records / "pubmedqa.json", STOPPING, 16),
        DECISIONS: _published("pubmedqa", records / "pubmedqa.json", GENERALIST, 24, "{question}\n{context}"),
        CODE: _published("mbpp", records / "mbpp.jsonl", GENERALIST, 48, "{question}"),
    }
    if STORIES in materials.checkpoints:
        domains[STORIES] = _texts(_story_beginnings(setting.folder), STORIES, FULL_TOKENS)
    models = {name: _model(path, styles[name]) for name, path in materials.checkpoints.items()}
    return _write(setting, "agreement", models, domains, likelihood=True)


def speed_experiment(setting: Setting, materials: Materials, domain: str) -> Path:
    """Write the experiment of one model and one domain, `EARLY` or `FULL_LENGTH`, that is timed; return its path."""
    model, num_tokens = {EARLY: (STOPPING, LONGEST_ANSWER), FULL_LENGTH: (RUNNING_ON, FULL_TOKENS)}[domain]
    models = {model: _model(materials.checkpoints[model], "completion")}
    domains = {domain: _texts(materials.prompts_file, model, num_tokens)}
    return _write(setting, f"speed-{domain}", models, domains, likelihood=False)


def _write(
    setting: Setting, name: str, models: Mapping[str, Any], domains: Mapping[str, Any], *, likelihood: bool
) -> Path:
    experiment = {
        "name": name,
        "models": dict(models),
        "domains": dict(domains),
        "likelihood": likelihood,
        # The probe answers examples one by one, which the peer does not.
        "runtime": {
            "gpus": 0,
            "cpu_slots": 1,
            "cpu_threads": setting.num_threads,
            "batch_size": BATCH_ROWS,
            "probe_examples": 0,
            "sandbox": {"allow_weak": True},
        },
    }
    path = setting.folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(experiment, sort_keys=False), encoding="utf-8")
    return path


def _model(checkpoint: Path, style: str) -> dict[str, Any]:
    return {"path": str(checkpoint.resolve()), "dtype": "float32", "prompt_style": style}


def _texts(file: Path, model: str, max_new_tokens: int, stop: tuple[str, ...] = ()) -> dict[str, Any]:
    return {
        "task": "free_text",
        "expert": model,
        "data": {"source": str(file.resolve())},
        "columns": {"id": "id", "question": "question", "reference": "reference"},
        "prompt": {"completion_template": "{question}", "stop": list(stop)},
        "graders": ["rouge_l"],
        "max_new_tokens": max_new_tokens,
    }


def _published(task: str, file: Path, model: str, max_new_tokens: int, template: str | None = None) -> dict[str, Any]:
    section: dict[str, Any] = {
        "task": task,
        "expert": model,
        "data": {"source": str(file.resolve())},
        "max_new_tokens": max_new_tokens,
    }
    return section if template is None else {**section, "prompt": {"template": template}}


def _story_beginnings(folder: Path) -> Path:
    """Write beginnings of children's stories, each with a reference to measure; return the file."""
    beginnings = [
        f"Once upon a time, there was a {size} {animal} named {name}. One day, {name} went to the {place}"
        for name, animal, place, size in itertools.product(
            STORY_NAMES, STORY_ANIMALS, ("park", "sea"), ("big", "little")
        )
    ]
    path = folder / "story-beginnings.jsonl"
    lines = [
        {"id": f"s{index}", "question": text, "reference": " and was very happy. The end."}
        for index, text in enumerate(beginnings)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


@dataclass(frozen=True, slots=True, kw_only=True)
class OurRun:
    """A run that has ended: its directory, its wall in seconds, and when each line of its output came."""

    run: RunDirectory
    wall_s: float
    lines: tuple[tuple[float, str], ...]

    @property
    def engine_s(self) -> float:
        """Seconds inside the engine, over all replicas."""
        return sum(record.busy_s for record in self.run.telemetry())

    @property
    def num_tokens(self) -> int:
        """Tokens of all answers."""
        return sum(record.num_completion_tokens for record in self.run.telemetry())


def evaluate(setting: Setting, experiment: Path, results: Path, max_examples: int | None) -> OurRun:
    """Run `moe-ray evaluate` as a process of its own, Ray and report included.

    Raises `SystemExit` with the end of its output when it fails.
    """
    command = evaluate_command(experiment, results, temp_dir=setting.temp_dir)
    if max_examples is not None:
        command += ["--max-examples", str(max_examples)]
    lines: list[tuple[float, str]] = []
    started = time.perf_counter()
    with subprocess.Popen(
        command, env=dict(setting.environment), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        lines.extend((time.perf_counter() - started, line.rstrip()) for line in process.stdout)
    wall_s = time.perf_counter() - started
    if process.returncode != 0:
        raise SystemExit("\n".join(["moe-ray evaluate failed:", *(text for _, text in lines[-30:])]))
    return OurRun(run=RunDirectory(results / experiment.stem), wall_s=wall_s, lines=tuple(lines))


def loaded(experiment: Path, max_examples: int | None) -> LoadedExperiment:
    """Read an experiment file as `evaluate` does with the same limit."""
    config = load_experiment(experiment).config
    limits = [] if max_examples is None else [f"domains.{name}.max_examples={max_examples}" for name in config.domains]
    return load_experiment(experiment, limits)
