"""Mixtures that this package builds, traced and ablated by the commands; a gate and a query router side by side."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moe_ray.routing.router import Router
from moe_ray.specialisation.ablation.records import read_ablation
from moe_ray.specialisation.records import Trace, read_trace
from moe_ray.store.run_directory import RunDirectory
from tests.moe.btx.worlds import TRAINING, pretrain_config
from tests.moe.btx.worlds import WORDS as SUBJECTS
from tests.moe.merge.fine_tunes import fine_tune
from tests.runs.worlds import WORDS, question, write_world
from tests.support.commands import Command
from tests.support.tiny_models import make_tiny_checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("local_ray")]

NUM_TEXTS, NUM_WORDS = 12, 8


def done(moe_ray: Command, *arguments: object) -> str:
    code, shown = moe_ray(*arguments)
    assert code == 0, shown
    return shown


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts of three classes."""
    rng, path = np.random.default_rng(1), tmp_path_factory.mktemp("texts") / "texts.jsonl"
    lines = [
        json.dumps({"text": " ".join(rng.choice(words, NUM_WORDS)), "label": label, "id": f"{label}-{at}"})
        for label, words in SUBJECTS.items()
        for at in range(NUM_TEXTS)
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def traced(moe_ray: Command, mixture: Path, texts: Path, out: Path) -> Trace:
    done(moe_ray, "specialise", "trace", mixture, "--texts", texts, "--out", out, "--tokens")
    report = json.loads(done(moe_ray, "specialise", "report", out, "--json"))
    assert report["classes"] == dict.fromkeys(sorted(SUBJECTS), NUM_TEXTS)
    found = read_trace(out, with_tokens=True)
    for layer in found.layers:
        assert layer.selected.sum(axis=1) == pytest.approx(found.num_tokens * layer.record.top_k)
    return found


def ablated(moe_ray: Command, mixture: Path, texts: Path, out: Path, **options: str) -> dict[str, Any]:
    given = [part for name, value in options.items() for part in (f"--{name}", value)]
    settings = ("--layers", "whole", "--max-texts", "10", "--batch-size", "21")
    done(moe_ray, "specialise", "ablate", mixture, "--texts", texts, "--out", out, *settings, *given)
    report: dict[str, Any] = json.loads((out / "report.json").read_text())
    return report


def test_an_upcycled_mixture_of_copies_has_identical_experts(moe_ray: Command, texts: Path, tmp_path: Path) -> None:
    base = make_tiny_checkpoint(tmp_path / "base", "llama")
    upcycled = ("moe", "upcycle", base, "--num-experts", "4", "--top-k", "2", "--out", tmp_path / "m")
    done(moe_ray, *upcycled)
    found = traced(moe_ray, tmp_path / "m", texts, tmp_path / "t")
    assert [layer.record.num_experts for layer in found.layers] == [4, 4]
    ablated(moe_ray, tmp_path / "m", texts, tmp_path / "a", operation="renormalise")
    assert np.abs(read_ablation(tmp_path / "a").removed).max() < 1e-5


def test_an_upcycled_mixture_of_fine_tunes_is_traced_and_ablated(moe_ray: Command, texts: Path, tmp_path: Path) -> None:
    base = make_tiny_checkpoint(tmp_path / "base", "llama")
    tunes = [fine_tune(base, tmp_path / name, seed) for seed, name in enumerate(("one", "two"), start=1)]
    given = [part for tune in tunes for part in ("--fine-tune", tune)]
    done(
        moe_ray, "moe", "upcycle", base, "--experts", "models", "--num-experts", "2", "--top-k", "1", *given,
        "--no-check", "--out", tmp_path / "m",
    )  # fmt: skip
    traced(moe_ray, tmp_path / "m", texts, tmp_path / "t")
    ablated(moe_ray, tmp_path / "m", texts, tmp_path / "a", operation="reroute")
    assert np.abs(read_ablation(tmp_path / "a").removed).max() > 1e-3
    code, shown = moe_ray(
        "specialise", "ablate", tmp_path / "m", "--texts", texts, "--out", tmp_path / "b", "--operation", "renormalise"
    )
    assert (code, "nothing is left to renormalise" in " ".join(shown.split())) == (2, True), shown


def test_a_branch_train_mix_mixture_is_traced_and_ablated(moe_ray: Command, texts: Path, tmp_path: Path) -> None:
    config = pretrain_config(tmp_path)
    experts = {name: [{"source": f"./{name}.jsonl"}] for name in SUBJECTS}
    given = {"architecture": config.architecture, "experts": experts, "training": dict(TRAINING)}
    file = tmp_path / "pretrain.json"
    file.write_text(json.dumps({**given, "runtime": {"cpu_threads": 1}}))
    done(moe_ray, "moe", "pretrain", file, "--out", tmp_path / "out")
    mixture = tmp_path / "out" / "mixture"
    found = traced(moe_ray, mixture, texts, tmp_path / "t")
    assert found.manifest.expert_names == list(SUBJECTS)
    report = ablated(moe_ray, mixture, texts, tmp_path / "a", experts="0,1", operation="reroute")
    assert "expert coding, all layers: " in " ".join(unit["sentence"] for unit in report["units"])


def test_a_merged_mixtures_gate_and_the_query_router_are_compared_text_by_text(
    moe_ray: Command, tmp_path: Path
) -> None:
    """The garden's examples 1 and 4 speak of the harbour."""
    write_world(tmp_path, misplaced=(1, 4))
    base = make_tiny_checkpoint(tmp_path / "base", "llama")
    models = [f"{name}={fine_tune(base, tmp_path / f'tune-{name}', seed)}" for seed, name in enumerate(WORDS)]
    for name in WORDS:
        lines = [json.dumps({"text": question(name, 10 + at)}) for at in range(80)]
        (tmp_path / f"gate-{name}.jsonl").write_text("\n".join(lines) + "\n")
    settings = {"hidden_sizes": [16], "epochs": 12, "patience": 12, "batch_size": 8, "learning_rate": 0.02}
    data = {name: [{"source": f"./gate-{name}.jsonl"}] for name in WORDS}
    (tmp_path / "gate.json").write_text(json.dumps({"base_model": str(base), "data": data, **settings}))
    done(moe_ray, "moe", "train-gate", tmp_path / "gate.json", "--out", tmp_path / "gate")
    done(moe_ray, "moe", "merge", *models, "--gate", tmp_path / "gate", "--out", tmp_path / "mixture")
    done(moe_ray, "evaluate", tmp_path / "experiment.yaml")
    run = RunDirectory(tmp_path / "results" / "routed")
    gate, router = tmp_path / "trace-gate", tmp_path / "trace-router"
    asked = ("--texts", tmp_path / "experiment.yaml", "--out", gate)
    done(moe_ray, "specialise", "trace", tmp_path / "mixture", *asked)
    done(moe_ray, "specialise", "trace-router", run.path, "--out", router)
    assert read_trace(gate).text_ids == read_trace(router).text_ids
    found = json.loads(done(moe_ray, "specialise", "agreement", gate, router, "--json"))
    assert [(one["one"], one["other"]) for one in found] == [
        (str(gate), str(router)), (str(gate), "classes"), (str(router), "classes")
    ]  # fmt: skip
    examples = {domain: run.examples(domain) for domain in WORDS}
    routes, record = run.routes(), run.manifest().router
    assert routes is not None
    assert record is not None
    chosen = Router.load(run.path / record["path"]).predict_proba(
        [one.prompts["chat"].messages[-1].content for domain in WORDS for one in examples[domain]]
    )
    right = [
        routes.domains[int(row.argmax())] == domain
        for row, domain in zip(chosen, [name for name in WORDS for _ in examples[name]], strict=True)
    ]
    assert found[2]["share"] == pytest.approx(np.mean(right)) == 10 / 12
    ablation = ("--texts", tmp_path / "experiment.yaml", "--out", tmp_path / "a")
    code, shown = moe_ray("specialise", "ablate", tmp_path / "mixture", *ablation)
    assert (code, "its gate decides once for a whole text" in " ".join(shown.split())) == (2, True), shown
