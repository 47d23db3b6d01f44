"""A made-up run of any size on disk, shaped as a real one: for measuring what reads run directories.

Six models answer every example of a decision domain and a free-text domain, each with one generated text and one
measured likelihood, through the real experiment file, plan and `RunDirectory`. There is no code domain: its sandbox
would take all the time. Texts are as long as abstracts and answers are, made of a pool of sentences.
"""

import json
import multiprocessing
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from moe_ray.config.load import LoadedExperiment, load_experiment
from moe_ray.planning.cells import Cell, Shard
from moe_ray.runs.manifest import begin
from moe_ray.runs.work import prepare
from moe_ray.store.answers import Answer
from moe_ray.store.opening import begin_session, end_session
from moe_ray.store.records import ProbeTiming, ReplicaTelemetry
from moe_ray.store.run_directory import RunDirectory

NAME = "scale"
MODELS = ("general", "medic", "jurist", "medic-large", "jurist-large", "general-large")
LABELS = ("yes", "no", "maybe")
DOMAINS = ("decisions", "texts")
ANSWERS_PER_EXAMPLE = 2 * len(MODELS)
SHARD_SIZE = 32
BATCH_ROWS = 16
NUM_SENTENCES = 2000
NUM_WORDS = 3000
ERROR_SHARE = 0.005


def num_examples_for(num_answers: int) -> int:
    """Examples of each domain that give `num_answers`, or a few less."""
    return max(1, num_answers // (ANSWERS_PER_EXAMPLE * len(DOMAINS)))


class Language:
    """Sentences of made-up words; the same for a seed."""

    def __init__(self, seed: int = 0) -> None:
        rng = random.Random(seed)
        syllables = [a + b for a in "bcdfglmnprstv" for b in "aeiou"]
        words = ["".join(rng.choices(syllables, k=rng.randint(1, 4))) for _ in range(NUM_WORDS)]
        weights = [1 / (rank + 3) for rank in range(NUM_WORDS)]
        self._sentences = [
            " ".join(rng.choices(words, weights, k=rng.randint(8, 24))).capitalize() + "." for _ in range(NUM_SENTENCES)
        ]

    def text(self, rng: random.Random, num_sentences: int) -> str:
        """So many sentences."""
        return " ".join(rng.choices(self._sentences, k=num_sentences))


@lru_cache(maxsize=1)
def the_language() -> Language:
    """The one language of all made-up runs."""
    return Language()


def write_experiment(folder: Path, num_answers: int) -> Path:
    """Write the data and the experiment file; return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    language, num_examples = the_language(), num_examples_for(num_answers)
    for domain in DOMAINS:
        with (folder / f"{domain}.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(record) + "\n" for record in _records(domain, num_examples, language))
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump(_experiment(folder), sort_keys=False))
    return path


def _records(domain: str, num_examples: int, language: Language) -> Iterator[dict[str, str]]:
    rng = random.Random(domain)
    for number in range(num_examples):
        record = {
            "id": f"{domain}-{number:07d}",
            "question": f"{language.text(rng, 2)} {number}?",
            "context": language.text(rng, 12),
            "reference": language.text(rng, 3),
        }
        yield record | ({"label": rng.choices(LABELS, (55, 34, 11))[0]} if domain == "decisions" else {})


def _experiment(folder: Path) -> dict[str, Any]:
    columns = {name: name for name in ("id", "question", "context", "reference")}
    decisions = {
        "task": "decision",
        "data": {"source": "./decisions.jsonl"},
        "columns": {**columns, "label": "label"},
        "choices": list(LABELS),
        "expert": "medic",
    }
    texts = {"task": "free_text", "data": {"source": "./texts.jsonl"}, "columns": columns, "expert": "jurist"}
    return {
        "name": NAME,
        "models": {name: {"path": f"scripted/{name}", "engine": "scripted"} for name in MODELS},
        "baseline": MODELS[0],
        "matrix": "full",
        "domains": {"decisions": decisions, "texts": texts},
        "decoding": {"max_new_tokens": 256},
        "runtime": {"shard_size": SHARD_SIZE, "batch_size": BATCH_ROWS, "cpu_threads": 1, "probe_examples": 3},
        "output": {"results_dir": str(folder / "results")},
    }


def fill_store(experiment: LoadedExperiment, num_processes: int) -> RunDirectory:
    """Commit an answer for every cell, shard by shard, as a session that ended before it merged its files would."""
    prepared = prepare(experiment)
    run, work = prepared.run, prepared.work
    run.prepare()
    manifest = begin(prepared).manifest
    session = begin_session(manifest, 0)
    parts = [work.shards[start::num_processes] for start in range(num_processes)]
    workers = [multiprocessing.get_context("fork").Process(target=_write_shards, args=(run, part)) for part in parts]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if any(worker.exitcode for worker in workers):
        raise SystemExit("a writer died")
    for model in MODELS:
        run.write_telemetry(_telemetry(model, session.session, len(work.cells) // len(MODELS)))
    end_session(session, "complete", len(work.cells))
    run.write_manifest(manifest)
    return run


def _write_shards(run: RunDirectory, shards: Sequence[Shard]) -> None:
    language = the_language()
    for shard in shards:
        rng = random.Random(shard.id)
        run.write_shard([_answer(cell, shard, language, rng) for cell in shard.cells])


def _answer(cell: Cell, shard: Shard, language: Language, rng: random.Random) -> Answer:
    content = _generated(cell, language, rng) if cell.kind == "generate" else _measured(cell, rng)
    total_s = rng.lognormvariate(1.0, 0.4)
    messages = [{"role": message.role, "content": message.content} for message in cell.prompt.messages]
    return Answer(
        key=cell.key,
        kind=cell.kind,
        model=cell.model,
        domain=cell.domain,
        example_id=cell.example_id,
        sample_index=cell.sample_index,
        messages=json.dumps(messages),
        num_prompt_tokens=sum(len(message.content) for message in cell.prompt.messages) // 4,
        batch_rows=BATCH_ROWS,
        time_to_first_token_s=total_s / 10 if cell.kind == "generate" else None,
        total_s=total_s,
        replica=f"{cell.model}-0",
        shard=shard.id,
        finished_at=time.time(),
        **content,
    )


def _generated(cell: Cell, language: Language, rng: random.Random) -> Mapping[str, Any]:
    failed = rng.random() < ERROR_SHARE
    text = language.text(rng, rng.randint(2, 8))
    if cell.domain == "decisions":
        text = f"{rng.choices((*LABELS, 'perhaps'), (50, 30, 15, 5))[0].capitalize()}. {text}"
    token_ids = [int(32_000 * rng.random() ** 3) for _ in range(len(text) // 4)]
    return {
        "settings": json.dumps({"prompt_style": "chat", "max_new_tokens": 256, "temperature": 0.0, "seed": 0}),
        "text": None if failed else text,
        "token_ids": None if failed else token_ids,
        "finish_reason": "error" if failed else "stop",
        "num_completion_tokens": 0 if failed else len(token_ids),
        "loglikelihoods": None,
        "loglikelihood_tokens": None,
        "error": "the prompt does not fit the context" if failed else None,
    }


def _measured(cell: Cell, rng: random.Random) -> Mapping[str, Any]:
    texts = cell.prompt.continuations
    return {
        "settings": json.dumps({"prompt_style": "chat", "continuations": list(texts)}),
        "text": None,
        "token_ids": None,
        "finish_reason": "stop",
        "num_completion_tokens": 0,
        "loglikelihoods": [-len(text) * rng.uniform(0.2, 0.8) for text in texts],
        "loglikelihood_tokens": [max(1, len(text) // 4) for text in texts],
        "error": None,
    }


def _telemetry(model: str, session: str, num_answers: int) -> ReplicaTelemetry:
    rng = random.Random(model)
    probe = [
        ProbeTiming(
            example_id=str(number),
            num_prompt_tokens=300,
            num_completion_tokens=100,
            time_to_first_token_s=0.05,
            total_s=rng.uniform(0.6, 0.9),
        )
        for number in range(3)
    ]
    return ReplicaTelemetry(
        replica=f"{model}-0",
        model=model,
        session=session,
        node="node",
        pid=1,
        device="cuda:0",
        started_at=1.0,
        load_s=rng.uniform(5, 30),
        unload_s=rng.uniform(0.5, 2),
        busy_s=num_answers * rng.uniform(0.05, 0.4),
        num_answers=num_answers,
        num_prompt_tokens=300 * num_answers,
        num_completion_tokens=60 * num_answers,
        weights_bytes=14 << 30,
        peak_resident_bytes=3 << 30,
        peak_gpu_process_bytes=18 << 30,
        probe=probe,
        end="finished",
    )


def load(folder: Path) -> LoadedExperiment:
    """The experiment that `write_experiment` wrote."""
    return load_experiment(folder / "experiment.yaml")
