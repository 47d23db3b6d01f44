"""Cells and shards that are made up, for tests of the planning."""

from moe_ray.checkpoints.identity import ModelIdentity
from moe_ray.domains.example import Example
from moe_ray.fingerprint import fingerprint
from moe_ray.planning.cells import Cell, Shard
from moe_ray.prompts.messages import Message, Prompt

PROMPT = Prompt(messages=(Message(role="user", content="Is it?"),), stop=("\n",), choices=(" yes", " no"))


def make_cell(model: str, number: int, *, kind: str = "generate") -> Cell:
    return Cell(
        key=fingerprint([model, number, kind]),
        kind="likelihood" if kind == "likelihood" else "generate",
        model=model,
        domain="d",
        example_id=f"e{number}",
        sample_index=0,
        max_new_tokens=8,
        prompt=PROMPT,
    )


def make_shard(model: str, number: int, num_cells: int = 2) -> Shard:
    cells = tuple(make_cell(model, number * 1000 + i) for i in range(num_cells))
    return Shard(id=f"{model}/{number}", model=model, cells=cells)


def make_example(id: str = "e1", *, prompt: Prompt = PROMPT) -> Example:
    return Example(id=id, domain="d", prompts={"chat": prompt, "completion": prompt}, reference="r")


def make_identity(name: str = "m", *, weights: str = "w1") -> ModelIdentity:
    return ModelIdentity(name=name, fingerprint=fingerprint([weights]), prompt_style="chat")
