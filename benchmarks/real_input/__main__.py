"""Evaluate five small models of four real architectures on real data, from one YAML, in one command.

    python -m benchmarks.real_input --data DATA --out OUT [--max-examples N]

DATA is a folder with the public data sets (see `texts.py` for the files). What is made goes below OUT: models/, which
later runs use again, data/, real-input.yaml, and results/real-input/ with report.html. A second run trains nothing and,
unless something changed, computes nothing.
"""

import argparse
import multiprocessing
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from benchmarks.real_input.experiment import BASELINE, STORIES, write_experiment
from benchmarks.real_input.texts import STORIES_VOCABULARY, STORIES_WEIGHTS, read_texts, sample_of, write_json_lines
from benchmarks.real_input.training import Architecture, Recipe, Trained, train
from benchmarks.stories260k import convert

NUM_PROCESSES = 2
NUM_STEPS = 160
TOKENIZER_CHARACTERS = 600_000
SOURCES = {"biomedical": "MedQuAD", "legal": "Indian statute questions", "code": "CodeAlpaca"}


def main() -> int:
    """Make data and models, write the YAML, run moe-ray on it. Returns its exit code."""
    arguments = _arguments()
    started = time.perf_counter()
    text_files, legal_file = write_data(arguments.data, arguments.out)
    tokenizer_file = make_tokenizer(arguments.out, text_files)
    recipes = make_recipes(arguments.out, text_files, tokenizer_file, arguments.steps)
    with ProcessPoolExecutor(NUM_PROCESSES, multiprocessing.get_context("spawn")) as pool:
        for trained in pool.map(train, recipes.values()):
            print(describe(trained), flush=True)
    stories = arguments.out / "models" / STORIES
    if not (stories / "tokenizer.json").is_file():
        convert(arguments.data / STORIES_WEIGHTS, arguments.data / STORIES_VOCABULARY, stories)
    models = {name: (recipe.checkpoint, _sources(recipe)) for name, recipe in recipes.items()}
    experiment_file = arguments.out / "real-input.yaml"
    write_experiment(experiment_file, arguments.data, legal_file, {**models, STORIES: (stories, "")})
    prepared_s = time.perf_counter() - started
    code = evaluate(experiment_file, arguments.out / "results", arguments.max_examples)
    total_s = time.perf_counter() - started
    print(f"models and data {prepared_s:.0f} s, moe-ray evaluate {total_s - prepared_s:.0f} s, in all {total_s:.0f} s")
    return code


def write_data(data: Path, out: Path) -> tuple[dict[str, Path], Path]:
    """Write the training texts by domain and the held-out legal records; return their files."""
    texts = read_texts(data)
    text_files = {domain: out / "data" / f"texts-{domain}.jsonl" for domain in texts.documents}
    for domain, documents in texts.documents.items():
        write_json_lines(text_files[domain], documents)
    legal_file = out / "data" / "legal-held-out.jsonl"
    write_json_lines(legal_file, texts.held_out_legal)
    return text_files, legal_file


def make_tokenizer(out: Path, text_files: dict[str, Path]) -> Path:
    """Learn one byte-pair vocabulary from equal parts of all domains, for all trained models; keep it."""
    from moe_ray.microworld.data import build_tokenizer

    file = out / "models" / "tokenizer.json"
    if not file.is_file():
        samples = [sample_of(path, TOKENIZER_CHARACTERS) for path in text_files.values()]
        build_tokenizer([document for sample in samples for document in sample], file)
    return file


def make_recipes(out: Path, text_files: dict[str, Path], tokenizer_file: Path, num_steps: int) -> dict[str, Recipe]:
    """Return what to train: a generalist on all texts, and an expert for each domain, of equal size and budget."""
    biomedical, legal, code = (text_files[domain] for domain in ("biomedical", "legal", "code"))

    def recipe(name: str, architecture: Architecture, *files: Path) -> Recipe:
        return Recipe(
            name=name,
            architecture=architecture,
            text_files=files,
            tokenizer_file=tokenizer_file,
            models_dir=out / "models",
            num_steps=num_steps,
        )

    chosen = (
        recipe(BASELINE, "mistral", biomedical, legal, code),
        recipe("medic", "phi3", biomedical),
        recipe("jurist", "mistral", legal),
        recipe("coder", "qwen2", code),
    )
    return {one.name: one for one in chosen}


def describe(trained: Trained) -> str:
    """Return one line on a training."""
    return (
        f"{trained.name}: {trained.num_parameters:,} parameters, {trained.num_tokens:,} tokens, "
        f"loss {trained.first_loss:.2f} -> {trained.last_loss:.2f} nats a token, "
        f"trained in {trained.train_s:.0f} s"
    )


def evaluate(experiment_file: Path, results_dir: Path, max_examples: int | None) -> int:
    """Run `moe-ray evaluate`, whose tables go to the terminal; return its exit code."""
    command = [sys.executable, "-m", "moe_ray", "evaluate", str(experiment_file), "--results-dir", str(results_dir)]
    if max_examples is not None:
        command += ["--max-examples", str(max_examples)]
    print("$ moe-ray", *command[3:], flush=True)
    return subprocess.run(command, check=False).returncode


def _sources(recipe: Recipe) -> str:
    return ", ".join(SOURCES[path.stem.removeprefix("texts-")] for path in recipe.text_files)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.real_input", description="Evaluate small real models on real data."
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with the public data sets")
    parser.add_argument("--out", type=Path, required=True, help="folder for models, data, the YAML and the results")
    parser.add_argument("--max-examples", type=int, help="limit for each domain")
    parser.add_argument("--steps", type=int, default=NUM_STEPS, help="training steps of each model")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
