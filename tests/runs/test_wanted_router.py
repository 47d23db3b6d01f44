"""Which router an experiment wants, found out without training one."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moe_ray.config.load import LoadedExperiment, load_experiment
from moe_ray.config.schema import RouterConfig
from moe_ray.domains.example import query_of
from moe_ray.errors import ConfigError
from moe_ray.runs.inputs import read_inputs
from moe_ray.runs.router import covers
from moe_ray.runs.wanted_router import WantedRouter, read_texts, wanted_router
from moe_ray.store.routes import Routes
from tests.runs.worlds import NUM_ASKED, write_world


def wanted(experiment: LoadedExperiment) -> WantedRouter:
    return wanted_router(read_inputs(experiment))


def name(folder: Path, *changes: str) -> str | None:
    return wanted(load_experiment(folder / "experiment.yaml", changes)).name


@pytest.mark.parametrize("change", ["router.gpus=0", "runtime.cpu_threads=2", "name=another"])
def test_what_decides_no_weight_leaves_the_router_the_same(tmp_path: Path, change: str) -> None:
    write_world(tmp_path)
    assert name(tmp_path) == name(tmp_path, change)


@pytest.mark.parametrize("change", ["router.training.seed=1", "router.query=prompt", "router.out_of_domain.keep=0.9"])
def test_what_decides_weights_or_threshold_names_another_router(tmp_path: Path, change: str) -> None:
    write_world(tmp_path)
    assert name(tmp_path) != name(tmp_path, change)


def test_the_old_name_of_a_key_means_the_same_and_names_the_same_router(tmp_path: Path) -> None:
    write_world(tmp_path)
    new, old = "router.out_of_domain.keep=0.9", "router.foreign.keep=0.9"
    assert load_experiment(tmp_path / "experiment.yaml", [old]).config == (
        load_experiment(tmp_path / "experiment.yaml", [new]).config
    )
    assert name(tmp_path, old) == name(tmp_path, new)


def test_the_section_in_the_name_of_a_router_keeps_the_keys_of_earlier_versions() -> None:
    """Another key would name another router, and train the routers of all runs again."""
    section = RouterConfig(kind="tfidf").model_dump(mode="json", by_alias=True)
    assert section["foreign"] == {"score": "auto", "keep": 0.95}
    assert "out_of_domain" not in section


def test_a_router_is_named_by_its_texts_and_not_by_their_place(tmp_path: Path) -> None:
    write_world(tmp_path / "here")
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    assert name(tmp_path / "here") == name(tmp_path / "there")
    write_world(tmp_path / "there", num_texts=59)
    assert name(tmp_path / "here") != name(tmp_path / "there")


def test_a_gating_network_takes_the_baselines_embeddings_or_says_what_it_lacks(tmp_path: Path) -> None:
    write_world(tmp_path, kind="embedding")
    file = tmp_path / "experiment.yaml"
    with pytest.raises(ConfigError, match="no baseline with a checkpoint") as caught:
        wanted(load_experiment(file))
    assert (caught.value.where, "base_model" in (caught.value.remedy or "")) == ("router.kind", True)


def test_no_text_of_the_router_is_an_example_of_the_run(tmp_path: Path) -> None:
    experiment = write_world(tmp_path)
    examples = read_inputs(experiment).examples
    texts = read_texts(experiment, examples).texts
    learned = {text.text for part in (texts.train, texts.validation, texts.test) for text in part}
    asked = {query_of(example, "question") for members in examples.values() for example in members}
    assert len(asked) == 2 * NUM_ASKED
    assert learned
    assert not asked & learned


def test_routes_cover_a_run_when_router_and_examples_are_the_same(tmp_path: Path) -> None:
    experiment = write_world(tmp_path)
    inputs, found = read_inputs(experiment), wanted(experiment)
    routes = _routes(found.fingerprint, inputs.examples)
    assert covers(routes, found, inputs.examples)
    assert not covers(_routes("another", inputs.examples), found, inputs.examples)
    fewer = {domain: examples[1:] for domain, examples in inputs.examples.items()}
    assert not covers(_routes(found.fingerprint, fewer), found, inputs.examples)


def _routes(router: str, examples: Any) -> Routes:
    keys = [(domain, example.id) for domain, members in examples.items() for example in members]
    zeros = np.zeros(len(keys))
    return Routes(
        router=router,
        domains=tuple(examples),
        threshold=0.0,
        example_domains=tuple(domain for domain, _ in keys),
        example_ids=tuple(example_id for _, example_id in keys),
        probabilities=np.full((len(keys), len(examples)), 0.5),
        scores=zeros,
        seconds=zeros,
    )
