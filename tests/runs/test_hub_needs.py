"""What an experiment takes from the hub and from local paths."""

from pathlib import Path
from typing import Any

import pytest

from moe_ray.config.load import LoadedExperiment, experiment_of
from moe_ray.runs.hub_needs import hub_data, hub_metrics, hub_repositories, local_paths

SCRIPTED = {"path": "x", "engine": "scripted"}


def loaded(domain: dict[str, Any] | None = None, **changes: Any) -> LoadedExperiment:
    domains = {
        name: {
            "task": "free_text",
            "data": {"source": f"owner/{name}"},
            "columns": {"question": "q", "reference": "r"},
            "prompt": {"template": "{question}"},
            **(domain or {}),
        }
        for name in ("d", "e")
    }
    return experiment_of({"name": "e", "models": {"m": SCRIPTED}, "baseline": "m", "domains": domains} | changes)


@pytest.mark.parametrize(
    ("router", "needs"),
    [
        (None, []),
        ({"kind": "tfidf"}, []),
        ({"kind": "transformer"}, [("router.base_model", "distilbert-base-uncased", "path")]),
        (
            {"kind": "transformer", "base_model": "o/b", "from_scratch": True},
            [("router.base_model", "o/b", "tokenizer")],
        ),
        ({"kind": "transformer", "base_model": "./here"}, []),
        ({"kind": "transformer", "architecture": {"model_type": "bert"}}, []),
        (
            {"kind": "transformer", "architecture": {"model_type": "bert"}, "tokenizer": "o/t"},
            [("router.tokenizer", "o/t", "tokenizer")],
        ),
        ({"kind": "embedding", "base_model": "o/b"}, [("router.base_model", "o/b", "path")]),
        ({"path": "./trained"}, []),
    ],
)
def test_a_router_needs_what_it_is_trained_from(
    router: dict[str, Any] | None, needs: list[tuple[str, str, str]]
) -> None:
    config = loaded(router=router).config
    assert [(one.key, one.repo, one.role) for one in hub_repositories(config)] == needs


def test_a_repository_or_data_set_that_two_sections_name_is_needed_once() -> None:
    models = {"a": {"path": "o/m"}, "b": {"path": "o/m", "dtype": "float32"}, "c": {"path": "o/m", "revision": "v1"}}
    config = loaded({"data": {"source": "owner/same"}}, models=models, baseline="a", matrix="full").config
    assert [(one.key, one.revision) for one in hub_repositories(config)] == [
        ("models.a.path", None),
        ("models.c.path", "v1"),
    ]
    assert [one.key for one in hub_data(config)] == ["domains.d.data"]


def test_metrics_of_the_hub_are_named_and_scripts_are_not() -> None:
    graders = ["rouge_l", "evaluate:bertscore", {"name": "evaluate:bleurt", "settings": {}}, "evaluate:./own.py"]
    metrics = hub_metrics(loaded({"graders": graders}).config)
    assert metrics == {name: ["evaluate:bertscore", "evaluate:bleurt"] for name in ("d", "e")}
    assert hub_metrics(loaded().config) == {}


def test_local_paths_have_the_keys_that_name_them(tmp_path: Path) -> None:
    models = {"m": {"path": "/models/m", "tokenizer": "/words"}, "s": {"path": "/no/file", "engine": "scripted"}}
    domain = {"data": {"source": "/rows.jsonl", "ids_file": "/ids.txt"}}
    found = local_paths(loaded(domain, models=models, matrix="full", router={"path": "/router"}))
    assert {key: str(path) for key, path in found.items() if not key.startswith("domains.e")} == {
        "models.m.path": "/models/m",
        "models.m.tokenizer": "/words",
        "domains.d.data": "/rows.jsonl",
        "domains.d.data.ids_file": "/ids.txt",
        "router.path": "/router",
    }
