import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from moe_ray.config.load import LoadedExperiment, load_experiment
from moe_ray.domains.example import Example
from moe_ray.domains.loading import load_domain
from moe_ray.errors import ConfigError, DataError
from moe_ray.runs.wanted_router import RouterData, read_texts
from moe_ray.texts.corpus import MIN_TEXTS
from moe_ray.texts.labelled import LabelledText, texts_fingerprint
from tests.domains.records import shared, write_jsonl

ANIMALS = ("cow", "hen", "goat", "duck", "pig", "dog", "cat", "emu", "fox", "owl", "yak", "bee")
TOOLS = ("saw", "axe", "file", "lathe", "drill", "plane", "rasp", "clamp", "anvil", "vice", "jig", "awl")


def rows(words: tuple[str, ...], num: int) -> list[dict[str, Any]]:
    """Records whose questions are far from each other."""

    def question(number: int) -> str:
        first, second = words[number % len(words)], words[number // len(words) % len(words)]
        return f"{first} {number} {second} {number * 3} {first}{second}?"

    return [{"id": f"r{number}", "question": question(number), "reference": "so"} for number in range(num)]


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., LoadedExperiment]:
    """Write a right experiment of two domains, changed by a function, and load it."""
    write_jsonl(tmp_path / "animals.jsonl", rows(ANIMALS, 60))
    write_jsonl(tmp_path / "tools.jsonl", rows(TOOLS, 80))
    write_jsonl(tmp_path / "small_talk.jsonl", [{"text": f"hello {n} you {n * 7} there {n}"} for n in range(40)])

    def domain(name: str) -> dict[str, Any]:
        return {"task": "free_text", "data": {"source": f"./{name}.jsonl"}, "max_examples": 20}

    def made(change: Callable[[dict[str, Any]], object] = lambda config: None) -> LoadedExperiment:
        config: dict[str, Any] = {
            "name": "test",
            "models": {"base": {"path": "./base", "engine": "scripted", "engine_settings": {"text": "so"}}},
            "baseline": "base",
            "domains": {"animals": domain("animals"), "tools": domain("tools")},
            "router": {"kind": "tfidf"},
        }
        change(config)
        path = tmp_path / "experiment.yaml"
        path.write_text(yaml.safe_dump(config))
        return load_experiment(path)

    return made


def of_run(experiment: LoadedExperiment) -> dict[str, tuple[Example, ...]]:
    domains = experiment.config.domains
    return {name: load_domain(name, domain, experiment.base_dir).examples for name, domain in domains.items()}


def read(experiment: LoadedExperiment) -> RouterData:
    return read_texts(experiment, of_run(experiment))


def all_texts(data: RouterData) -> list[LabelledText]:
    return [*data.texts.train, *data.texts.validation, *data.texts.test]


def test_the_texts_are_the_questions_that_the_run_does_not_ask(make: Callable[..., LoadedExperiment]) -> None:
    experiment = make()
    data, asked = read(experiment), of_run(experiment)
    for name, words, num in (("animals", ANIMALS, 60), ("tools", TOOLS, 80)):
        expected = {(f"{name}/{row['id']}", row["question"]) for row in rows(words, num)}
        expected -= {(f"{name}/{example.id}", str(example.grading["question"])) for example in asked[name]}
        assert {(text.id, text.text) for text in all_texts(data) if text.label == name} == expected
    assert data.texts.labels == data.texts.domains == ("animals", "tools")
    assert {text.source for text in all_texts(data)} == {"animals", "tools"}
    assert data.texts.out_of_domain == {}


def test_an_ids_file_names_what_the_run_asks_and_leaves_the_rest_to_the_router(
    make: Callable[..., LoadedExperiment], tmp_path: Path
) -> None:
    (tmp_path / "ids.txt").write_text("".join(f"r{number}\n" for number in range(45)))
    experiment = make(lambda config: config["domains"]["animals"].update(
        data={"source": "./animals.jsonl", "ids_file": "./ids.txt"}, max_examples=None
    ))  # fmt: skip
    ids = {text.id for text in all_texts(read(experiment)) if text.label == "animals"}
    assert ids == {f"animals/r{number}" for number in range(45, 60)}


def test_records_of_its_own_are_read_by_the_domains_task_and_by_their_own_ids_file(
    make: Callable[..., LoadedExperiment], tmp_path: Path
) -> None:
    questions = [
        {**row, "id": f"own{n}", "question": f"wild {row['question']}"} for n, row in enumerate(rows(ANIMALS, 90))
    ]
    write_jsonl(tmp_path / "wild.jsonl", questions)
    (tmp_path / "ids.txt").write_text("".join(f"own{number}\n" for number in range(30)))
    own = {"animals": {"source": "./wild.jsonl", "ids_file": "./ids.txt"}}
    experiment = make(lambda config: config["router"].update(data=own))
    texts = [text for text in all_texts(read(experiment)) if text.label == "animals"]
    asked = {example.id for example in of_run(experiment)["animals"]}
    assert {text.id for text in texts} == {f"animals/own{n}" for n in range(30) if f"r{n}" not in asked}
    assert {text.source for text in texts} == {"wild"}
    assert len(asked & {f"r{n}" for n in range(30)}) > 5, "the wild ones are nearly those"


def test_what_the_run_asks_is_kept_out_of_every_source(make: Callable[..., LoadedExperiment], tmp_path: Path) -> None:
    """A question of the run that stands in another domain, among the others and in an out-of-domain set."""
    asked = str(of_run(make())["animals"][0].grading["question"])
    write_jsonl(tmp_path / "tools.jsonl", [*rows(TOOLS, 80), {"id": "x", "question": asked.upper(), "reference": "a"}])
    write_jsonl(tmp_path / "small_talk.jsonl", [{"text": asked}, *({"text": f"hi {n} ho {n * 7}"} for n in range(40))])
    write_jsonl(tmp_path / "far.jsonl", [{"text": f"{asked} !"}, {"text": "nothing of the kind at all"}])
    other = [{"source": "./small_talk.jsonl"}, {"source": "./far.jsonl", "use": "test"}]
    experiment = make(lambda config: config["router"].update(other=other))
    data = read(experiment)
    left = [text.text for group in data.texts.out_of_domain.values() for text in group] + [
        t.text for t in all_texts(data)
    ]
    assert not [text for text in left if asked.split("?")[0] in text.lower()]
    dropped = {source.name: dict(source.dropped) for source in data.report.sources}
    assert dropped["tools"]["of the run"] >= 1
    assert dropped["small_talk"] == {"of the run": 1}
    assert dropped["far"] == {"nearly of the run": 1}


def test_other_queries_are_a_label_or_an_out_of_domain_set(
    make: Callable[..., LoadedExperiment], tmp_path: Path
) -> None:
    (tmp_path / "errands.csv").write_text(
        "query,kind\n" + "".join(f'"buy {n}, then {n * 5} of it",a\n' for n in range(25))
    )
    other = [
        {"source": "./small_talk.jsonl", "max_texts": 30},
        {"source": "./errands.csv", "column": "query", "use": "test", "max_texts": 8},
    ]
    texts = read(make(lambda config: config["router"].update(other=other))).texts
    assert texts.labels == ("animals", "tools", "other")
    assert texts.domains == ("animals", "tools")
    learned = [text for text in (*texts.train, *texts.validation, *texts.test) if text.label == "other"]
    assert len(learned) == 30
    assert {text.source for text in learned} == {"small_talk"}
    assert all(text.id.startswith("other/small_talk/") for text in learned)
    assert [len(group) for group in texts.out_of_domain.values()] == [8]
    assert set(texts.out_of_domain) == {"errands"}


def test_two_sets_of_one_name_are_told_apart(make: Callable[..., LoadedExperiment], tmp_path: Path) -> None:
    for folder, word in (("a", "sun"), ("b", "moon")):
        (tmp_path / folder).mkdir()
        write_jsonl(tmp_path / folder / "test set!.jsonl", [{"text": f"{word} {n} rises {n * 3}"} for n in range(5)])
    other = [{"source": f"./{folder}/test set!.jsonl", "use": "test"} for folder in ("a", "b")]
    assert set(read(make(lambda config: config["router"].update(other=other))).texts.out_of_domain) == {
        "test-set",
        "test-set-2",
    }


def test_under_query_prompt_the_template_makes_no_prompts_alike(make: Callable[..., LoadedExperiment]) -> None:
    long = " ".join(f"instruction{number}" for number in range(60))

    def change(config: dict[str, Any]) -> None:
        config["router"]["query"] = "prompt"
        for domain in config["domains"].values():
            domain["prompt"] = {"template": f"{long} {{question}} {long}"}

    data, plain = read(make(change)), read(make())
    assert {text.id for text in all_texts(data)} == {text.id for text in all_texts(plain)}
    assert all(text.text.startswith(long) for text in all_texts(data))


def test_a_limit_and_a_balance_leave_the_test_its_natural_share(make: Callable[..., LoadedExperiment]) -> None:
    limited = read(make(lambda config: config["router"].update(max_texts_per_domain=12)))
    assert {source.num_kept for source in limited.report.sources} == {12}

    def balance(name: str) -> Callable[[dict[str, Any]], object]:
        return lambda config: config["router"].update(balance=name)

    whole, balanced = read(make(balance("weighted"))), read(make(balance("downsample")))
    assert balanced.texts.test == whole.texts.test
    for before, after in (
        (whole.texts.train, balanced.texts.train),
        (whole.texts.validation, balanced.texts.validation),
    ):
        counts = [sum(text.label == label for text in after) for label in ("animals", "tools")]
        assert (
            counts[0] == counts[1] == min(sum(text.label == label for text in before) for label in ("animals", "tools"))
        )
    num_left_out = len(all_texts(whole)) - len(all_texts(balanced))
    assert sum(balanced.report.num_unbalanced.values()) == num_left_out > 0
    assert set(whole.report.num_unbalanced.values()) == {0}


def test_the_fingerprint_is_that_of_the_texts_and_not_of_where_they_lie(
    make: Callable[..., LoadedExperiment], tmp_path: Path
) -> None:
    first = texts_fingerprint(read(make()).texts)
    write_jsonl(tmp_path / "moved.jsonl", rows(ANIMALS, 60)[::-1])
    moved = make(lambda config: config["domains"]["animals"].update(data={"source": "./moved.jsonl"}))
    assert texts_fingerprint(read(moved).texts) == first
    fewer = make(lambda config: config["router"].update(max_texts_per_domain=30))
    assert texts_fingerprint(read(fewer).texts) != first


BAD: Mapping[str, tuple[Callable[[dict[str, Any]], object], tuple[str, ...]]] = {
    "all records evaluated": (
        lambda config: config["domains"]["animals"].update(max_examples=55),
        ("experiment.yaml:", "domains.animals.data", "5 texts of animals", "55 (an example", "router.data.animals"),
    ),
    "own records are the run's": (
        lambda config: (
            config["domains"]["animals"].update(max_examples=None),
            config["router"].update(data={"animals": {"source": "./animals.jsonl"}}),
        ),
        ("router.data.animals", "0 texts of animals", "60 (an example"),
    ),
    "no such column": (
        lambda config: config["router"].update(other=[{"source": "./small_talk.jsonl", "column": "query"}]),
        ("experiment.yaml:", "router.other.0.column", "no column query", "has text"),
    ),
    "a nested column": (
        lambda config: config["router"].update(other=[{"source": "./nested.jsonl"}]),
        ("router.other.0.column", "holds list"),
    ),
    "a nested file": (
        lambda config: config["router"].update(other=[{"source": "./nested.json"}]),
        ("nested.json", "not records"),
    ),
    "too few others": (
        lambda config: config["router"].update(other=[{"source": "./few.jsonl"}]),
        ("router.other", "3 texts of few", f"needs {MIN_TEXTS}", "1 (the same text is there already)"),
    ),
    "an empty out-of-domain set": (
        lambda config: config["router"].update(other=[{"source": "./blank.jsonl", "use": "test"}]),
        ("router.other", "0 texts of blank", "nothing but space"),
    ),
    "a missing file": (
        lambda config: config["router"].update(data={"animals": {"source": "./none.jsonl"}}),
        ("none.jsonl", "no such file"),
    ),
    "records without the column": (
        lambda config: config["router"].update(data={"animals": {"source": "./small_talk.jsonl"}}),
        ("columns.question", "no column question"),
    ),
    "an empty question": (
        lambda config: config["router"].update(data={"animals": {"source": "./hollow.jsonl"}}),
        ("hollow.jsonl", "no record gives an example", "the question is empty"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_data_is_named_with_its_place_and_a_remedy(
    case: str, make: Callable[..., LoadedExperiment], tmp_path: Path
) -> None:
    write_jsonl(tmp_path / "nested.jsonl", [{"text": ["a", "b"]}])
    (tmp_path / "nested.json").write_text(json.dumps({"train": [["a", "x"]], "test": [["b", "y"]]}))
    write_jsonl(tmp_path / "few.jsonl", [{"text": text} for text in ("one text", "two texts", "three", "THREE")])
    write_jsonl(tmp_path / "blank.jsonl", [{"text": " "}, {"text": None}])
    write_jsonl(tmp_path / "hollow.jsonl", [{"id": "a", "question": "", "reference": "x"}])
    change, says = BAD[case]
    experiment = make(change)
    with pytest.raises(DataError) as caught:
        read(experiment)
    shown = str(caught.value)
    assert all(words in shown for words in (*says, "remedy:")), shown


def test_reading_texts_loads_no_heavy_library() -> None:
    heavy = ["torch", "transformers", "scipy", "sklearn", "datasets", "ray", "datasketch"]
    code = f"import sys, moe_ray.runs.wanted_router; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_experiment_without_a_router_has_no_texts(make: Callable[..., LoadedExperiment]) -> None:
    experiment = make(lambda config: config.pop("router"))
    with pytest.raises(ConfigError, match="no router"):
        read(experiment)


def test_texts_in_all_scripts_and_with_control_characters_are_taken_as_they_are(
    make: Callable[..., LoadedExperiment], tmp_path: Path
) -> None:
    strange = [
        "\x00\x1b[31m",
        "\u062f\u0639\u0648\u0649 \u0642\u0636\u0627\u0626\u064a\u0629",
        "\ud83d",
        "word " * 20_000,
    ]
    more = [{"text": f"plain {n} talk {n * 9}"} for n in range(20)]
    write_jsonl(tmp_path / "strange.jsonl", [*({"text": text} for text in strange), *more])
    other = [{"source": "./strange.jsonl", "use": "test"}]
    texts = read(make(lambda config: config["router"].update(other=other))).texts
    kept = {text.text for text in texts.out_of_domain["strange"]}
    assert {"\x00\x1b[31m", strange[1], "?", ("word " * 20_000).strip()} <= kept


def test_the_domains_own_questions_are_read_as_published(make: Callable[..., LoadedExperiment]) -> None:
    tasks = {"biomedical": "pubmedqa", "code": "mbpp"}
    paths = {"biomedical": shared("biomedical/pubmedqa_dev500.json"), "code": shared("code/mbpp_train_prompt474.jsonl")}
    other = [{"source": shared("ood/banking77_train.csv"), "use": "test", "max_texts": 100}]

    def change(config: dict[str, Any]) -> None:
        config["domains"] = {
            name: {"task": task, "data": {"source": paths[name]}, "max_examples": 100} for name, task in tasks.items()
        }
        config["router"]["other"] = other

    experiment = make(change)
    data = read(experiment)
    asked = {str(example.grading["question"]) for examples in of_run(experiment).values() for example in examples}
    assert not asked & {text.text for text in all_texts(data)}
    biomedical, code = data.report.sources[:2]
    assert (biomedical.num_kept, biomedical.dropped) == (400, {"of the run": 100})
    assert code.num_records == 471, "three of them are the prompt's solved tasks"
    assert code.dropped["of the run"] >= 100
    assert len(data.texts.out_of_domain["banking77_train"]) == 100
