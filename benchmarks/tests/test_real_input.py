"""The real-input benchmark's own parts: what is held out, what is learned from, and the file that it writes."""

import json
from pathlib import Path

import pytest

from benchmarks.real_input.experiment import BASELINE, STORIES, write_experiment
from benchmarks.real_input.texts import BLOCK_RECORDS, NUM_HELD_OUT_BLOCKS, read_texts, split_legal, write_json_lines
from benchmarks.real_input.training import BLOCK_TOKENS, Recipe, train
from moe_ray.config.load import load_experiment
from moe_ray.domains.loading import load_domain

DATA = Path(__file__).parents[2] / ".." / "shared" / "data"
needs_data = pytest.mark.skipif(not (DATA / "legal").is_dir(), reason="needs ../shared/data")


def _legal_records(count: int) -> list[dict[str, str]]:
    return [{"id": f"q-{n}", "question": f"Question {n // 2}?", "answer": f"Answer {n // 3}."} for n in range(count)]


def test_nothing_that_is_learned_repeats_a_held_out_question_or_answer() -> None:
    held_out, kept = split_legal(_legal_records(1_000))
    assert len(held_out) == BLOCK_RECORDS * NUM_HELD_OUT_BLOCKS
    for key in ("id", "question", "answer"):
        assert not {record[key] for record in held_out} & {record[key] for record in kept}


def test_records_are_held_out_in_whole_blocks_of_neighbours() -> None:
    held_out, _ = split_legal(_legal_records(1_000))
    places = [int(record["id"].removeprefix("q-")) for record in held_out]
    starts = places[::BLOCK_RECORDS]
    assert all(start % BLOCK_RECORDS == 0 for start in starts)
    assert places == [start + offset for start in starts for offset in range(BLOCK_RECORDS)]


def test_the_same_training_is_done_once(tmp_path: Path) -> None:
    from moe_ray.microworld.data import build_tokenizer

    documents = [f"Question: what is {n} and {n}?\n\nAnswer: it is {2 * n}." for n in range(400)]
    write_json_lines(tmp_path / "texts.jsonl", documents)
    build_tokenizer(documents, tmp_path / "tokenizer.json")
    recipe = Recipe(
        name="tiny",
        architecture="qwen2",
        text_files=(tmp_path / "texts.jsonl",),
        tokenizer_file=tmp_path / "tokenizer.json",
        models_dir=tmp_path / "models",
        num_steps=3,
        batch_blocks=1,
    )
    first = train(recipe)
    assert first.num_tokens == 3 * BLOCK_TOKENS
    assert first.last_loss < first.first_loss
    assert train(recipe) == first
    assert [path.name for path in (tmp_path / "models").iterdir()] == [recipe.checkpoint.name]


@needs_data
def test_the_experiment_file_loads_and_holds_over_900_examples(tmp_path: Path) -> None:
    texts = read_texts(DATA)
    write_json_lines(tmp_path / "legal.jsonl", texts.held_out_legal)
    models = {name: (tmp_path / name, "texts") for name in (BASELINE, "medic", "jurist", "coder", STORIES)}
    write_experiment(tmp_path / "real.yaml", DATA, tmp_path / "legal.jsonl", models)
    config = load_experiment(tmp_path / "real.yaml").config
    sizes = {name: len(load_domain(name, domain, tmp_path).examples) for name, domain in config.domains.items()}
    assert sizes == {"biomedical": 500, "legal": 250, "code": 471}


@needs_data
def test_no_learned_document_holds_an_evaluated_question() -> None:
    texts = read_texts(DATA)
    legal = set(texts.documents["legal"])
    assert all(f"Question: {one['question']}\n\nAnswer: {one['answer']}" not in legal for one in texts.held_out_legal)
    questions = {
        record["QUESTION"] for record in json.loads((DATA / "biomedical/pubmedqa_dev500.json").read_text()).values()
    }
    assert not questions & {
        document.split("\n")[0].removeprefix("Question: ") for document in texts.documents["biomedical"]
    }
