"""What experts are made of: copies, varied by share and by seed, parts of networks, and fine-tunes' networks."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from moe_ray.checkpoints.tensors import TensorReader
from moe_ray.errors import ConfigError, ModelError
from moe_ray.moe.families import Expert, Ffn, TensorRole
from moe_ray.moe.upcycle.experts import Copies, FineTunes, random_gates, split_expert, vary
from moe_ray.moe.upcycle.plan import plan_upcycle
from moe_ray.moe.upcycle.request import UpcycleSettings
from tests.moe.dense import load, logits, make_dense, upcycle

UNITS, WIDTH = 512, 96


@pytest.fixture(scope="module")
def ffn() -> Ffn:
    torch.manual_seed(3)
    return {
        "gate": torch.randn(UNITS, WIDTH) + 0.5,
        "up": torch.randn(UNITS, WIDTH) * 3,
        "down": torch.randn(WIDTH, UNITS) * 0.1,
        "up_bias": torch.randn(UNITS),
        "down_bias": torch.randn(WIDTH),
    }


def run(ffn: Ffn, x: torch.Tensor) -> torch.Tensor:
    hidden = torch.nn.functional.silu(x @ ffn["gate"].T) * (x @ ffn["up"].T + ffn["up_bias"])
    return hidden @ ffn["down"].T + ffn["down_bias"]


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_the_mean_of_a_networks_parts_is_the_network(groups: int, ffn: Ffn) -> None:
    x = torch.randn(5, WIDTH)
    parts = list(split_expert(Expert(ffn=ffn, source="dense", how="copy"), groups))
    assert len(parts) == groups
    assert {len(part.ffn["up"]) for part in parts} == {UNITS // groups}
    mean = torch.stack([run(part.ffn, x) for part in parts]).mean(dim=0)
    torch.testing.assert_close(mean, run(ffn, x), rtol=1e-4, atol=1e-3)


def test_noise_is_of_the_asked_size_relative_to_each_tensor(ffn: Ffn) -> None:
    varied = vary(ffn, Copies(noise=0.1), seed=0, layer=0, expert=0)
    for role in ("gate", "up", "down"):
        added = varied[role] - ffn[role]
        assert float(added.std()) == pytest.approx(0.1 * float(ffn[role].std()), rel=0.02)
        assert abs(added.mean()) < 0.01 * ffn[role].std()


def test_the_asked_share_of_hidden_units_is_drawn_again_whole_and_nothing_else(ffn: Ffn) -> None:
    varied = vary(ffn, Copies(reinitialised_share=0.25), seed=0, layer=0, expert=0)
    moved = (varied["gate"] != ffn["gate"]).all(dim=1)
    assert int(moved.sum()) == UNITS // 4
    axes: tuple[tuple[TensorRole, int], ...] = (("gate", 0), ("up", 0), ("down", 1))
    for role, axis in axes:
        assert torch.equal((varied[role] != ffn[role]).any(dim=1 - axis), moved)
        drawn = varied[role].movedim(axis, 0)[moved]
        assert float(drawn.std()) == pytest.approx(float(ffn[role].std()), rel=0.03)
        assert float(drawn.mean()) == pytest.approx(float(ffn[role].mean()), abs=0.03 * float(ffn[role].std()))
    assert torch.equal(varied["up_bias"] != ffn["up_bias"], moved)
    assert torch.equal(varied["down_bias"], ffn["down_bias"])


def test_experts_differ_by_seed_layer_and_number_and_repeat_otherwise(ffn: Ffn) -> None:
    copies = Copies(noise=0.1, reinitialised_share=0.5)
    places = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    ups = [vary(ffn, copies, seed=s, layer=la, expert=e)["up"] for s, la, e in places]
    again = vary(ffn, copies, seed=0, layer=0, expert=0)["up"]
    assert torch.equal(ups[0], again)
    assert all(not torch.equal(ups[0], up) for up in ups[1:])


def test_variations_keep_the_type(ffn: Ffn) -> None:
    half: Ffn = {role: tensor.bfloat16() for role, tensor in ffn.items()}
    varied = vary(half, Copies(noise=0.1, reinitialised_share=0.5), seed=0, layer=0, expert=0)
    assert {tensor.dtype for tensor in varied.values()} == {torch.bfloat16}


@pytest.mark.parametrize("wrong", [{"noise": -0.1}, {"reinitialised_share": 1.1}, {"reinitialised_share": -0.1}])
def test_impossible_variations_are_refused(wrong: Any) -> None:
    with pytest.raises(ConfigError):
        Copies(**wrong)


def test_random_gates_are_the_seeds_and_the_layers() -> None:
    gates = random_gates(4, 48, seed=1)
    assert gates(0).shape == (4, 48)
    assert torch.equal(gates(0), random_gates(4, 48, seed=1)(0))
    assert not torch.equal(gates(0), gates(1))
    assert not torch.equal(gates(0), random_gates(4, 48, seed=2)(0))


def test_copied_layers_stay_the_dense_ones_while_others_are_varied(tmp_path: Path) -> None:
    dense = make_dense(tmp_path / "dense", "llama")
    asked: dict[str, Any] = {"num_experts": 2, "top_k": 1, "experts": Copies(noise=0.3)}
    upcycle(dense, tmp_path / "varied", UpcycleSettings(**asked))
    upcycle(dense, tmp_path / "one", UpcycleSettings(**asked, copied_layers=(0, 2)))
    upcycle(dense, tmp_path / "none", UpcycleSettings(**asked, copied_layers=(0, 1, 2)))
    varied, one = TensorReader(tmp_path / "varied"), TensorReader(tmp_path / "one")
    name = "model.layers.{}.block_sparse_moe.experts.1.w3.weight".format
    assert torch.equal(one.get(name(1)), varied.get(name(1)))
    assert torch.equal(one.get(name(0)), TensorReader(dense).get("model.layers.0.mlp.up_proj.weight"))
    assert not torch.equal(varied.get(name(0)), one.get(name(0)))
    torch.testing.assert_close(logits(load(tmp_path / "none")), logits(load(dense)), rtol=0, atol=1e-5)


def tuned(directory: Path, base: Path, seed: int, *, also: str | None = None) -> Path:
    """A fine-tune of `base`: its networks are others, and the tensor `also` too."""
    make_dense(directory, "llama", seed=seed)
    ours, theirs = load_file(base / "model.safetensors"), load_file(directory / "model.safetensors")
    mixed = {name: theirs[name] if "mlp" in name or name == also else tensor for name, tensor in ours.items()}
    save_file(mixed, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


@pytest.fixture
def dirs(tmp_path: Path) -> tuple[Path, Path, Path]:
    base = make_dense(tmp_path / "base", "llama")
    return base, tuned(tmp_path / "law", base, 1), tuned(tmp_path / "code", base, 2)


@pytest.mark.parametrize("groups", [1, 2])
def test_fine_tunes_that_are_one_give_its_logits_whatever_the_gate(
    groups: int, dirs: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    base, law, _ = dirs
    asked = UpcycleSettings(
        num_experts=2 * groups, top_k=groups, groups=groups, experts=FineTunes(model_dirs=(law, law))
    )
    upcycle(base, tmp_path / "mixture", asked)
    torch.testing.assert_close(logits(load(tmp_path / "mixture")), logits(load(law)), rtol=0, atol=1e-5)


def test_each_expert_holds_its_own_fine_tunes_network(dirs: tuple[Path, Path, Path], tmp_path: Path) -> None:
    base, law, code = dirs
    asked = UpcycleSettings(num_experts=2, top_k=1, experts=FineTunes(model_dirs=(law, code)))
    upcycle(base, tmp_path / "mixture", asked)
    written = TensorReader(tmp_path / "mixture")
    for number, fine_tune in enumerate((law, code)):
        for ours, theirs in (("w1", "gate"), ("w2", "down"), ("w3", "up")):
            found = written.get(f"model.layers.1.block_sparse_moe.experts.{number}.{ours}.weight")
            assert torch.equal(found, TensorReader(fine_tune).get(f"model.layers.1.mlp.{theirs}_proj.weight"))


def test_the_plan_says_which_fine_tune_each_expert_is(dirs: tuple[Path, Path, Path]) -> None:
    base, law, code = dirs
    experts = FineTunes(model_dirs=(law, code))
    plan = plan_upcycle(base, UpcycleSettings(num_experts=2, top_k=1, experts=experts))
    origin = {tensor.tensor: tensor for tensor in plan.tensors}
    tensor = origin["model.layers.2.block_sparse_moe.experts.1.w1.weight"]
    assert (tensor.source, tensor.source_tensor) == ("code", "model.layers.2.mlp.gate_proj.weight")
    assert origin["model.norm.weight"].source == "base"
    assert origin["model.layers.0.block_sparse_moe.gate.weight"].source is None


@pytest.mark.parametrize(
    ("also", "layers"), [("model.layers.1.self_attn.q_proj.weight", None), (None, (0, 1))], ids=["attention", "ffn"]
)
def test_what_fine_tunes_would_lose_is_refused_or_reported(
    also: str | None, layers: tuple[int, ...] | None, dirs: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    base, law, _ = dirs
    other = tuned(tmp_path / "other", base, 4, also=also)
    lost = also or "model.layers.2.mlp.up_proj.weight"
    asked: dict[str, Any] = {"num_experts": 2, "top_k": 1, "layers": layers}
    with pytest.raises(ModelError, match="differ from the base"):
        plan_upcycle(base, UpcycleSettings(**asked, experts=FineTunes(model_dirs=(law, other))))
    reported = FineTunes(model_dirs=(law, other), on_difference="report")
    plan = plan_upcycle(base, UpcycleSettings(**asked, experts=reported))
    assert ("other", lost) in {(one.source, one.tensor) for one in plan.differences}
    assert all(one.max_abs > 0 for one in plan.differences)


def test_a_model_of_another_shape_is_no_fine_tune(dirs: tuple[Path, Path, Path], tmp_path: Path) -> None:
    base, law, _ = dirs
    wide = make_dense(tmp_path / "wide", "llama", intermediate_size=44)
    with pytest.raises(ModelError, match="intermediate_size"):
        plan_upcycle(base, UpcycleSettings(num_experts=2, top_k=1, experts=FineTunes(model_dirs=(law, wide))))
