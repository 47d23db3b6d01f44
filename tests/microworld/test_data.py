"""The generated data: published formats, right answers, and no held-out combination in training."""

import json
import random
import re
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from moe_ray.domains.example import Record
from moe_ray.domains.loading import load_domain
from moe_ray.fingerprint import file_sha256, fingerprint
from moe_ray.microworld.build import domain_configs
from moe_ray.microworld.data import DOMAIN_FILES, generate_world, write_world
from moe_ray.microworld.worlds import SIZES, Coiner, WorldSize, WorldSplit, split_pairs

DOMAINS = tuple(DOMAIN_FILES)
NUM_TEST_OF_THE_DEMO = 60
TINY_FINGERPRINT = "6465570f9470c7f637a16b23d1cc9289"

World = dict[str, WorldSplit]


@pytest.fixture(scope="module", params=("demo", "tiny"))
def size(request: pytest.FixtureRequest) -> WorldSize:
    named: WorldSize = request.param
    return named


@pytest.fixture(scope="module")
def world(size: WorldSize) -> World:
    return generate_world(size)


def words_of_test_and_train(split: WorldSplit) -> tuple[set[str], set[str]]:
    test, train = (set(re.findall(r"[a-z]+", json.dumps(part))) for part in (split.test, split.train))
    return test, train


def combination(domain: str, record: Record) -> tuple[str, ...]:
    """Return what a record combines, read from its text alone."""
    if domain == "biomedical":
        verb, certainty = re.findall(r" (\w+)\.", record["CONTEXTS"][1])
        return verb, certainty
    if domain == "legal":
        matter, place = record["question_title"].split(" in ")
        return matter, place
    first, then = re.findall(r"to (\w+) and then (\w+) a", record["text"])[0]
    return first, then


@pytest.mark.parametrize("domain", DOMAINS)
def test_no_combination_of_the_test_part_is_in_training(world: World, domain: str) -> None:
    train = {combination(domain, record) for record in world[domain].train}
    test = [combination(domain, record) for record in world[domain].test]
    assert not train.intersection(test)
    assert len(set(test)) == len(test)


@pytest.mark.parametrize("domain", DOMAINS)
def test_every_word_of_the_test_part_can_be_learned_from_training(world: World, domain: str) -> None:
    test, train = words_of_test_and_train(world[domain])
    assert test <= train


def test_sizes_are_as_told(world: World, size: WorldSize) -> None:
    for domain, split in world.items():
        asked = SIZES[size][domain]
        assert (len(split.train), len(split.test)) == (asked.num_train, asked.num_test)
        assert size != "demo" or asked.num_test >= NUM_TEST_OF_THE_DEMO


def test_every_program_passes_its_own_tests_and_fails_them_with_another_return_value(world: World) -> None:
    for record in chain(world["code"].train, world["code"].test):
        scope: dict[str, Any] = {}
        exec(record["test_setup_code"] + "\n" + record["code"], scope)
        for test in record["test_list"]:
            exec(test, scope)
        exec(record["code"].replace("return ", "return 1 + "), scope)
        with pytest.raises(AssertionError):
            exec(record["test_list"][0], scope)


def test_the_decision_combines_direction_and_certainty_which_the_conclusion_spells_out(world: World) -> None:
    by_conclusion = {("certain", "raised"): "yes", ("certain", "lowered"): "no"}
    for record in chain(world["biomedical"].train, world["biomedical"].test):
        known, moved = re.findall(r"it is (\w+) that \w+ (\w+)", record["LONG_ANSWER"])[0]
        assert record["final_decision"] == by_conclusion.get((known, moved), "maybe")


def test_no_single_word_of_an_abstract_decides_between_all_three_decisions(world: World) -> None:
    labels = {record["final_decision"] for record in world["biomedical"].test}
    assert labels == {"yes", "no", "maybe"}


def test_prompts_do_not_hold_the_decision(size: WorldSize, tmp_path: Path) -> None:
    for example in loaded(size, tmp_path)["biomedical"]:
        prompt = example.prompts["chat"].messages[-1].content
        assert not re.search(r"\b(yes|no|maybe|certain|uncertain)\b", prompt)


def test_the_best_legal_answer_is_the_right_one_and_the_only_one_with_the_highest_score(world: World) -> None:
    facts: dict[tuple[int, str], str] = {}
    for record in chain(world["legal"].train, world["legal"].test):
        scores = sorted(answer["score"] for answer in record["answers"])
        assert scores[-1] > scores[-2]
        best = max(record["answers"], key=lambda answer: answer["score"])["body"]
        court, code, remedy, term = re.findall(r"<p>(\w+) under <b>(\w+)</b> grants (\w+) for (\w+)\.</p>", best)[0]
        matter, place = record["question_title"].split(" in ")
        for name, values in ((place, f"{court} {code}"), (matter, f"{remedy} {term}")):
            assert facts.setdefault((len(values.split()), name), values) == values


def loaded(size: WorldSize, directory: Path) -> dict[str, Any]:
    write_world(directory / "data", size)
    return {name: load_domain(name, config, directory).examples for name, config in domain_configs(size).items()}


def test_the_files_load_through_the_real_tasks(size: WorldSize, tmp_path: Path) -> None:
    for name, examples in loaded(size, tmp_path).items():
        assert len(examples) == SIZES[size][name].num_test
        assert all(example.prompts["chat"].reference for example in examples)


def test_the_files_have_the_fields_of_the_published_ones(tmp_path: Path) -> None:
    write_world(tmp_path, "tiny")
    abstract = next(iter(json.loads((tmp_path / "test/pubmedqa.json").read_text()).values()))
    question, task = (
        json.loads((tmp_path / "test" / name).read_text().splitlines()[0])
        for name in ("law_stackexchange.jsonl", "mbpp.jsonl")
    )
    published = {"QUESTION", "CONTEXTS", "LABELS", "MESHES", "YEAR", "reasoning_required_pred", "reasoning_free_pred"}
    assert set(abstract) == published | {"final_decision", "LONG_ANSWER"}
    assert set(question) == {
        "question_id", "tags", "score", "license", "question_title", "question_body", "link", "answers",
    }  # fmt: skip
    assert set(question["answers"][0]) == {"answer_id", "score", "body"}
    assert set(task) == {"text", "code", "task_id", "test_setup_code", "test_list", "challenge_test_list"}


def test_every_record_says_that_it_is_synthetic(world: World) -> None:
    for split in world.values():
        assert all("SYNTHETIC" in json.dumps(record) for record in chain(split.train, split.test))


def test_ids_are_unique_and_the_parts_share_none(world: World) -> None:
    for domain, key in (("biomedical", "pmid"), ("legal", "question_id"), ("code", "task_id")):
        ids = [record[key] for record in chain(world[domain].train, world[domain].test)]
        assert len(set(ids)) == len(ids)


def test_the_same_size_gives_the_same_files_everywhere(tmp_path: Path) -> None:
    sums = []
    for name in ("one", "two"):
        write_world(tmp_path / name, "tiny")
        sums.append({part: file_sha256(tmp_path / name / part) for part in ("train/mbpp.jsonl", "test/pubmedqa.json")})
    assert sums[0] == sums[1]
    assert fingerprint(json.loads(json.dumps(world_as_lists("tiny")))) == TINY_FINGERPRINT


def world_as_lists(size: WorldSize) -> dict[str, list[Record]]:
    return {domain: [*split.train, *split.test] for domain, split in generate_world(size).items()}


def test_a_coined_word_is_never_coined_again() -> None:
    coiner = Coiner("any")
    words = [*coiner.words(300), *coiner.words(300)]
    assert len(set(words)) == len(words)


def test_held_out_combinations_must_exist() -> None:
    with pytest.raises(ValueError, match="7 combinations to hold out, but only 6"):
        split_pairs("abc", "abc", 7, random.Random(0))


def test_every_fact_is_in_the_training_part_of_a_split() -> None:
    split = split_pairs(range(5), range(7), 25, random.Random(0))
    assert {first for first, _ in split.train} == set(range(5))
    assert {second for _, second in split.train} == set(range(7))
    assert len(split.train) + len(split.test) == 5 * 7
