"""Single examples that are asked beside the matrix: their cells, their shards, and which they are."""

from pathlib import Path

import numpy as np

from moe_ray.checkpoints.identity import ModelIdentity
from moe_ray.config.load import load_experiment
from moe_ray.domains.example import Example
from moe_ray.planning.plan import all_cells, plan_work, single_cells
from moe_ray.prompts.messages import Message, Prompt
from moe_ray.runs.work import asked_by_routing
from moe_ray.store.routes import Routes

EXPERIMENT = """
name: asked
models:
  a: {path: scripted/a, engine: scripted}
  b: {path: scripted/b, engine: scripted}
  base: {path: scripted/base, engine: scripted}
baseline: base
likelihood: false
domains:
  first: {task: free_text, expert: a, data: {source: ./none.jsonl}}
  second: {task: free_text, expert: b, data: {source: ./none.jsonl}}
  third: {task: free_text, data: {source: ./none.jsonl}}
runtime: {shard_size: 3}
"""
DOMAINS = ("first", "second", "third")
IDENTITIES = {name: ModelIdentity(name=name, fingerprint=name, prompt_style="chat") for name in ("a", "b", "base")}
EXAMPLES = {domain: [f"{domain}-{at}" for at in range(7)] for domain in DOMAINS}


def example(domain: str, example_id: str) -> Example:
    prompt = Prompt(messages=(Message(role="user", content=f"asked {example_id}"),))
    return Example(id=example_id, domain=domain, prompts={"chat": prompt}, reference="r")


def test_only_what_the_router_sends_to_a_model_outside_its_domains_is_asked(tmp_path: Path) -> None:
    (tmp_path / "e.yaml").write_text(EXPERIMENT)
    config = load_experiment(tmp_path / "e.yaml").config
    chosen = {"first-0": 0, "first-1": 1, "first-2": 2, "second-0": 0, "third-0": 1, "third-1": 2}
    routes = Routes(
        router="r",
        domains=DOMAINS,
        threshold=9.0,
        example_domains=tuple(name.partition("-")[0] for name in chosen),
        example_ids=tuple(chosen),
        probabilities=np.eye(3)[list(chosen.values())],
        scores=np.zeros(len(chosen)),
        seconds=np.zeros(len(chosen)),
    )
    # first-2 goes to a domain without an expert, and so to the baseline, which is asked everything anyway.
    assert asked_by_routing(config, routes) == {
        ("first", "b"): {"first-1"},
        ("second", "a"): {"second-0"},
        ("third", "b"): {"third-0"},
    }
    full = config.model_copy(update={"matrix": "full"})
    assert asked_by_routing(full, routes) == {}


def test_cells_that_are_added_leave_the_matrixs_shards_as_they_were(tmp_path: Path) -> None:
    (tmp_path / "e.yaml").write_text(EXPERIMENT)
    config = load_experiment(tmp_path / "e.yaml").config
    examples = {domain: [example(domain, name) for name in names] for domain, names in EXAMPLES.items()}
    pairs = {(domain, model) for domain in DOMAINS for model in config.models_of(domain)}
    cells = all_cells(config, examples, IDENTITIES, pairs)
    added = single_cells(config, examples, IDENTITIES, {("first", "b"): {"first-1", "first-9"}})
    assert [(cell.model, cell.domain, cell.example_id) for cell in added] == [("b", "first", "first-1")]
    alone, both = plan_work(config, cells, ()), plan_work(config, cells, (), added=added)
    assert both.shards[: len(alone.shards)] == alone.shards
    assert [shard.cells for shard in both.shards[len(alone.shards) :]] == [tuple(added)]
    assert plan_work(config, cells, {added[0].key}, added=added).num_to_do == len(cells)
