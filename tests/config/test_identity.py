from typing import Any

import pytest

from moe_ray.config.identity import describe_drift, identity
from moe_ray.config.schema import ExperimentConfig
from moe_ray.fingerprint import canonical_json

BASE: dict[str, Any] = {
    "name": "x",
    "models": {
        "a": {"path": "org/a"},
        "b": {"path": "./b", "engine": "scripted", "engine_settings": {"text": "yes", "load_s": 1}},
    },
    "baseline": "a",
    "domains": {"d": {"task": "pubmedqa", "expert": "b", "data": {"source": "./d.jsonl", "ids_file": "ids.txt"}}},
}


def experiment(**changes: Any) -> ExperimentConfig:
    """Return the base experiment with values changed at dotted keys (`models__a__dtype=...`)."""
    values = ExperimentConfig.model_validate(BASE).model_dump(mode="json")
    for key, value in changes.items():
        *parents, last = key.split("__")
        section = values
        for parent in parents:
            section = section[parent]
        section[last] = value
    return ExperimentConfig.model_validate(values)


def drift(**changes: Any) -> list[str]:
    return describe_drift(identity(experiment()), identity(experiment(**changes)))


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"models__a__dtype": "float16"}, "models.a.dtype: auto -> float16"),
        ({"models__a__path": "org/c"}, "models.a.path: org/a -> org/c"),
        ({"models__a__revision": "abc"}, "models.a.revision: none -> abc"),
        ({"models__a__quantization": "4bit"}, "models.a.quantization: none -> 4bit"),
        ({"models__a__prompt_style": "completion"}, "models.a.prompt_style: chat -> completion"),
        (
            {"models__a__chat_template_kwargs": {"enable_thinking": False}},
            "models.a.chat_template_kwargs: absent -> {...}",
        ),
        ({"models__b__engine_settings__text": "no\nno"}, "models.b.engine_settings.text: yes -> no\\nno"),
        ({"domains__d__data__split": "train"}, "domains.d.data.split: test -> train"),
        ({"domains__d__prompt__template": "{question}"}, "domains.d.prompt.template: none -> {question}"),
        ({"domains__d__prompt__stop": ["a", "b"]}, "domains.d.prompt.stop: none -> [a, b]"),
        ({"domains__d__max_new_tokens": 8}, "domains.d.max_new_tokens: 256 -> 8"),
        ({"decoding__max_new_tokens": 9}, "domains.d.max_new_tokens: 256 -> 9"),
        ({"decoding__temperature": 0.5}, "decoding.temperature: 0.0 -> 0.5"),
        ({"likelihood": False}, "likelihood: true -> false"),
    ],
)
def test_what_decides_the_text_is_identity_and_told_in_one_line(change: dict[str, Any], line: str) -> None:
    assert drift(**change) == [line]


@pytest.mark.parametrize(
    "change",
    [
        {"name": "y", "description": "z"},
        {"models__a__gpus": 2, "models__a__notes": ["n"]},
        {"models__a__reasoning": {"open": "<r>", "close": "</r>"}, "models__b__reasoning": "none"},
        {"models__b__path": "/elsewhere/b", "domains__d__data__source": "/elsewhere/d.jsonl"},
        {"domains__d__data__ids_file": "/elsewhere/ids.txt"},
        {"baseline": None, "matrix": "full", "domains__d__expert": "a"},
        {"domains__d__max_examples": 3, "domains__d__graders": ["rouge_l"], "domains__d__notes": ["n"]},
        {"runtime__batch_size": 1, "runtime__gpus": 8, "runtime__sandbox__timeout_s": 9, "output__results_dir": "o"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_where_how_fast_and_which_cells_are_no_identity(change: dict[str, Any]) -> None:
    assert drift(**change) == []


def test_every_key_of_runtime_and_output_stays_out() -> None:
    found = canonical_json(identity(experiment()))
    assert "runtime" not in found
    assert "output" not in found


def test_contents_stand_beside_local_paths() -> None:
    old = identity(experiment(), model_fingerprints={"b": "11"})
    new = identity(experiment(), model_fingerprints={"b": "33"})
    assert describe_drift(old, new) == ["models.b.fingerprint: 11 -> 33"]


def test_engine_settings_that_only_pretend_a_speed_can_be_left_out() -> None:
    def pick(engine: str, settings: Any) -> dict[str, Any]:
        assert engine in ("transformers", "scripted")
        return {name: value for name, value in settings.items() if name != "load_s"}

    slow = experiment(models__b__engine_settings__load_s=9)
    assert drift(models__b__engine_settings__load_s=9) == ["models.b.engine_settings.load_s: 1 -> 9"]
    assert describe_drift(identity(experiment(), text_settings=pick), identity(slow, text_settings=pick)) == []


def test_models_that_come_and_go_are_named_once() -> None:
    old, new = identity(experiment()), identity(experiment())
    new["models"]["c.1"] = new["models"].pop("a")
    assert describe_drift(old, new) == ["models.a: {...} -> absent", 'models."c.1": absent -> {...}']


def test_a_number_and_its_text_differ_but_a_tuple_and_a_list_do_not() -> None:
    assert describe_drift({"a": 1}, {"a": "1"}) == ["a: 1 -> 1"]
    assert describe_drift({"a": (1, 2)}, {"a": [1, 2]}) == []


def test_long_values_are_cut() -> None:
    (line,) = drift(domains__d__prompt__template="x" * 1000)
    assert len(line) < 200
    assert line.endswith("...")
