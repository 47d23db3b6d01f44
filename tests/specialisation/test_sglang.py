"""Dumps of SGLang's expert distribution recorder become traces of this package.

Files are written as `python/sglang/srt/eplb/expert_distribution.py` of SGLang describes them: a dict with
`torch.save`; passes with `input_ids` and `topk_ids_of_layer` [layers, tokens, 8] of physical experts, -1 for none.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from moe_ray.specialisation.records import read_trace
from tests.support.commands import Command

# Layer 0 is dense. Experts 0 and 1 have two copies each.
NUM_LAYERS, NUM_LOGICAL, NUM_PHYSICAL, TOP_K, WIDTH = 3, 6, 8, 2, 8
LOGICAL = torch.tensor([[0, 1, 2, 3, 4, 5, 0, 1], [0, 1, 2, 3, 4, 5, 0, 1], [5, 4, 3, 2, 1, 0, 0, 1]])
DENSE = 0


def one_pass(rng: np.random.Generator, number: int, rank: int, num_tokens: int = 5) -> dict[str, Any]:
    """A record of mode per_token; the last token is padding."""
    chosen = np.full((NUM_LAYERS, num_tokens, WIDTH), -1)
    for layer in range(NUM_LAYERS):
        for token in range(num_tokens - 1):
            if layer != DENSE:
                chosen[layer, token, :TOP_K] = rng.permutation(6)[:TOP_K]
    counts = np.stack([np.bincount(row[row >= 0], minlength=NUM_PHYSICAL) for row in chosen])
    return {
        "forward_pass_id": number,
        "rank": rank,
        "gatherer_key": "primary",
        "input_ids": rng.integers(0, 100, num_tokens).tolist(),
        "positions": list(range(num_tokens)),
        "extend_seq_lens": [num_tokens],
        "forward_mode": 1,
        "topk_ids_of_layer": torch.tensor(chosen, dtype=torch.int32),
        "misc_objects": [],
        "global_physical_count": torch.tensor(counts, dtype=torch.int32),
    }


def write(folder: Path, records: list[dict[str, Any]], rank: int = 0, **more: Any) -> Path:
    path = folder / f"expert_distribution_recorder_1764555555.25_{rank}.pt"
    torch.save({"records": records, "last_physical_to_logical_map": LOGICAL, **more}, path)
    return path


def without_tokens(record: dict[str, Any]) -> dict[str, Any]:
    """A record of mode per_pass."""
    kept = ("forward_pass_id", "rank", "gatherer_key", "global_physical_count")
    return {key: record[key] for key in kept}


def test_tokens_of_each_pass_and_rank_become_logical_experts(moe_ray: Command, tmp_path: Path) -> None:
    rng, dumps = np.random.default_rng(1), tmp_path / "dumps"
    dumps.mkdir()
    records = {rank: [one_pass(rng, number, rank) for number in (7, 3)] for rank in (0, 1)}
    records[1].append({**records[0][0], "rank": 1})  # tensor parallelism: rank 1 routes the tokens of rank 0
    for rank, own in records.items():
        write(dumps, own, rank)
    code, shown = moe_ray("specialise", "import-sglang", dumps, "--out", tmp_path / "t")
    assert code == 0, shown
    assert "left out: 1 record of a rank" in shown
    read = read_trace(tmp_path / "t", with_tokens=True)
    assert read.text_ids == tuple(f"{rank:06}/{number:012}" for rank in (0, 1) for number in (3, 7))
    assert [layer.record.layer for layer in read.layers] == [1, 2]
    assert all((layer.record.num_experts, layer.record.top_k) == (NUM_LOGICAL, TOP_K) for layer in read.layers)
    assert read.num_masked.tolist() == [1] * 4
    for at, (rank, number) in enumerate((rank, number) for rank in (0, 1) for number in (3, 7)):
        (record,) = (one for one in records[rank][:2] if one["forward_pass_id"] == number)
        assert read.tokens[at].token_ids.tolist() == record["input_ids"][:-1]
        for place, layer in enumerate((1, 2)):
            physical = record["topk_ids_of_layer"][layer, :-1, :TOP_K].tolist()
            expected = [[int(LOGICAL[layer, one]) for one in row] for row in physical]
            assert read.tokens[at].experts[:, place].tolist() == expected
            assert read.layers[place].selected[at].sum() == 4 * TOP_K
    code, shown = moe_ray("specialise", "report", tmp_path / "t", "--json")
    assert code == 0, shown
    assert "co_activation" in {value["measure"] for value in json.loads(shown)["values"]}


def test_counts_of_passes_are_summed_over_ranks_and_copies(moe_ray: Command, tmp_path: Path) -> None:
    rng, dumps = np.random.default_rng(2), tmp_path / "dumps"
    dumps.mkdir()
    records = {rank: [without_tokens(one_pass(rng, number, rank)) for number in (0, 1)] for rank in (0, 1)}
    for rank, own in records.items():
        write(dumps, own, rank)
    code, shown = moe_ray("specialise", "import-sglang", dumps, "--top-k", TOP_K, "--out", tmp_path / "t")
    assert code == 0, shown
    read = read_trace(tmp_path / "t")
    assert read.num_tokens.tolist() == [8, 8]
    for number in (0, 1):
        for place, layer in enumerate((1, 2)):
            expected = np.zeros(NUM_LOGICAL)
            for rank in (0, 1):
                for copy, counted in enumerate(records[rank][number]["global_physical_count"][layer].tolist()):
                    expected[LOGICAL[layer, copy]] += counted
            assert read.layers[place].selected[number].tolist() == expected.tolist()


def test_counts_of_a_ring_of_steps_leave_out_unused_ones(moe_ray: Command, tmp_path: Path) -> None:
    counts = torch.zeros(10, NUM_LAYERS, NUM_LOGICAL, dtype=torch.int32)
    counts[0, 1:] = torch.tensor([4, 2, 0, 0, 1, 1])
    counts[3, 1:] = torch.tensor([0, 0, 6, 2, 2, 2])
    path = tmp_path / "expert_distribution_recorder_1764555555.25.pt"
    torch.save({"rank": 0, "logical_count": counts, "average_utilization_rate_over_window": None}, path)
    code, shown = moe_ray("specialise", "import-sglang", path, "--top-k", 2, "--out", tmp_path / "t")
    assert code == 0, shown
    read = read_trace(tmp_path / "t")
    assert read.num_tokens.tolist() == [4, 6]
    assert read.layers[0].selected.tolist() == [[4, 2, 0, 0, 1, 1], [0, 0, 6, 2, 2, 2]]
    code, shown = moe_ray("specialise", "report", tmp_path / "t")
    assert code == 0, shown
    code, shown = moe_ray("specialise", "import-sglang", path, "--out", tmp_path / "u")
    assert (code, "count selections, not tokens" in shown) == (2, True)
    code, shown = moe_ray("specialise", "import-sglang", path, "--top-k", 3, "--out", tmp_path / "u")
    assert (code, "8 selections in layer 1, not a multiple of 3" in shown) == (2, True), shown
    assert not (tmp_path / "u").exists()


def broken(kind: str, folder: Path) -> None:
    record = one_pass(np.random.default_rng(1), 0, 0)
    if kind == "truncated":
        path = write(folder, [record])
        path.write_bytes(path.read_bytes()[:-100])
    elif kind == "foreign":
        (folder / "expert_distribution_recorder_1.pt").write_text("no torch file")
    elif kind == "weights":
        torch.save({"model.embed_tokens.weight": torch.zeros(3)}, folder / "expert_distribution_recorder_1.pt")
    elif kind == "list":
        torch.save([record], folder / "expert_distribution_recorder_1.pt")
    elif kind == "empty":
        write(folder, [])
    elif kind == "shared experts":
        record["topk_ids_of_layer"][1, 0, 0] = NUM_PHYSICAL
        write(folder, [record])
    elif kind == "other tokens":
        write(folder, [{**record, "input_ids": [1, 2]}])
    elif kind == "no map":
        write(folder, [record], last_physical_to_logical_map=None)
    elif kind == "no pass":
        write(folder, [{**record, "forward_pass_id": None}])
    elif kind == "two modes":
        write(folder, [record], 0)
        write(folder, [without_tokens(record)], 1)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("truncated", "is not a whole torch file"),
        ("foreign", "is not a whole torch file"),
        ("weights", "is not a dump of expert distributions"),
        ("list", "is not a dump of expert distributions"),
        ("empty", "holds no forward passes"),
        ("shared experts", "selects expert 8 of 8"),
        ("other tokens", "has experts of [3, 5] layers and tokens, not of [3, 2]"),
        ("no map", "its last_physical_to_logical_map is"),
        ("no pass", "a record has the forward_pass_id None"),
        ("two modes", "holds dumps of different modes"),
        ("nothing", "holds no expert_distribution_recorder_*.pt"),
    ],
)
def test_what_is_no_dump_is_one_message(moe_ray: Command, tmp_path: Path, kind: str, message: str) -> None:
    folder = tmp_path / "dumps"
    folder.mkdir()
    broken(kind, folder)
    code, shown = moe_ray("specialise", "import-sglang", folder, "--out", tmp_path / "t")
    assert code == 2, shown
    assert "Traceback" not in shown
    assert message in " ".join(shown.split())
    assert not (tmp_path / "t").exists()
