"""Traces of Megatron-LM become traces of this package."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moe_ray.specialisation.records import read_trace
from tests.support.commands import Command

NUM_EXPERTS, TOP_K, LAYERS = 8, 2, (1, 3)


def record(rng: np.random.Generator, rank: int, step: int, layer: int, **more: Any) -> dict[str, Any]:
    num_tokens = 4 + step
    chosen = [rng.permutation(NUM_EXPERTS)[:TOP_K].tolist() for _ in range(num_tokens)]
    own = {"step": step, "layer": layer, "rank": rank, "num_tokens": num_tokens, "topk": TOP_K}
    return {**own, "top_indices": chosen, **more}


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, list[dict[str, Any]]]:
    """Two ranks of twelve steps, as an early version and as a later one write them, last steps first."""
    rng, records = np.random.default_rng(1), []
    for rank, more in ((0, {}), (1, {"block": "decoder", "stage": "pre_dispatch"})):
        own = [record(rng, rank, step, layer, **more) for step in range(12) for layer in LAYERS]
        records += own
        other = record(rng, rank, 0, 1, block="mtp", mtp_idx=0)
        lines = [json.dumps(one) for one in (*own[::-1], other)]
        (tmp_path / f"router_trace_rank{rank}.jsonl").write_text("\n".join(lines))
    return tmp_path, records


def test_each_step_is_a_unit_with_its_selections(
    moe_ray: Command, written: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    folder, records = written
    code, shown = moe_ray(
        "specialise", "import-megatron", folder, "--num-experts", NUM_EXPERTS, "--out", tmp_path / "t"
    )
    assert code == 0, shown
    read = read_trace(tmp_path / "t", with_tokens=True)
    assert len(read.text_ids) == 24
    for at, text_id in enumerate(read.text_ids):
        rank, step = map(int, text_id.split("/"))
        for place, layer in enumerate(LAYERS):
            (one,) = (r for r in records if (r["rank"], r["step"], r["layer"]) == (rank, step, layer))
            assert read.tokens[at].experts[:, place].tolist() == one["top_indices"]
            expected = np.bincount(np.ravel(one["top_indices"]), minlength=NUM_EXPERTS)
            assert (read.layers[place].selected[at] == expected).all()
    code, shown = moe_ray("specialise", "report", tmp_path / "t", "--json")
    assert code == 0, shown
    measures = {value["measure"] for value in json.loads(shown)["values"]}
    assert measures == {"load_entropy", "max_violation", "co_activation", "cross_layer_information"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"step": 0, "layer": 1}', "is not a record with step, layer and top_indices"),
        ('{"step": 0, "layer": 1, "top_indices": [[0, 99]]}', "expert 99 of 8"),
        ('{"step": 0, "layer": 1, "top_indices": []}', "is not a table"),
        ('{"step": 0, "layer": 1, "top_indices": [[0, 1], [2]]}', "is not a record"),
        ('{"step": 0, "layer": 1, "top_indices": [[0, 1]]', "malformed JSON"),
        ('{"block": "mtp"}', "holds no records of the decoder"),
    ],
)
def test_what_is_no_trace_is_one_message(moe_ray: Command, tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "router_trace_rank0.jsonl").write_text(line + "\n")
    code, shown = moe_ray("specialise", "import-megatron", tmp_path, "--num-experts", 8, "--out", tmp_path / "t")
    assert code == 2
    assert message in shown.replace("\n", " ")
    assert not (tmp_path / "t").exists()
