"""A gating network's files, read back and damaged."""

import json
from pathlib import Path

import pytest
import torch

from moe_ray.architectures.gating_network import GatingNetwork
from moe_ray.errors import ModelError
from moe_ray.gating.fitting import load_gating, save_gating


def network(*hidden_sizes: int, dropout: float = 0.0) -> GatingNetwork:
    torch.manual_seed(5)
    return GatingNetwork(4, 3, hidden_sizes=hidden_sizes, dropout=dropout).eval()


def test_a_saved_network_gives_the_same_logits(tmp_path: Path) -> None:
    gating, inputs = network(6, 2, dropout=0.25), torch.randn(7, 4)
    gating.standardise(torch.randn(50, 4) * 9 + 2)
    save_gating(gating, tmp_path)
    loaded = load_gating(tmp_path)
    assert torch.equal(loaded(inputs), gating(inputs))
    assert (loaded.hidden_sizes, loaded.dropout, loaded.training) == ((6, 2), 0.25, False)


@pytest.mark.parametrize("file", ["gating.json", "gating.safetensors"])
@pytest.mark.parametrize("damage", ["missing", "cut", "other"])
def test_a_damaged_file_is_named(tmp_path: Path, file: str, damage: str) -> None:
    save_gating(network(6), tmp_path)
    path = tmp_path / file
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-9])
    elif file == "gating.json":
        path.write_text(json.dumps({"num_inputs": 4}))
    else:
        (tmp_path / "other").mkdir()
        save_gating(GatingNetwork(4, 2, hidden_sizes=[6], dropout=0.0), tmp_path / "other")
        path.write_bytes((tmp_path / "other" / file).read_bytes())
    with pytest.raises(ModelError, match="missing or damaged") as caught:
        load_gating(tmp_path)
    assert caught.value.where == str(path)
