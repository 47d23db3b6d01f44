"""The parts of the comparison with mergekit-moe that decide what counts: names, what is asked, what is measured."""

import sys
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import save_file

from benchmarks.moe_mergekit import loading, models, sides
from benchmarks.moe_mergekit.__main__ import print_used
from benchmarks.moe_mergekit.names import unmapped
from moe_ray.checkpoints.tensors import TensorReader

TINY = models.Size(hidden=16, inner=24, layers=2, heads=4, key_value_heads=2, vocabulary=4096)
SPARSE = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
MIB = 1 << 20


def saved_names(config: transformers.PretrainedConfig, directory: Path) -> tuple[str, ...]:
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    return TensorReader(directory).names()


def test_names_that_transformers_saves_are_mapped(tmp_path: Path) -> None:
    mixtral = transformers.MixtralConfig(**SPARSE, num_key_value_heads=2, num_local_experts=2, vocab_size=50)
    assert unmapped("mixtral", saved_names(mixtral, tmp_path / "mixtral")) == []
    qwen = transformers.Qwen2MoeConfig(
        **SPARSE,
        num_key_value_heads=2,
        num_experts=2,
        moe_intermediate_size=8,
        shared_expert_intermediate_size=8,
        mlp_only_layers=[1],
        vocab_size=50,
    )
    assert unmapped("qwen2_moe", saved_names(qwen, tmp_path / "qwen")) == []


@pytest.mark.parametrize(
    ("model_type", "name"),
    [
        ("mixtral", "model.layers.0.mlp.experts.gate_up_proj"),
        ("mixtral", "model.layers.0.mlp.gate.weight"),
        ("mixtral", "model.layers.0.mlp.experts.0.gate_proj.weight"),
        ("qwen2_moe", "model.layers.0.mlp.experts.down_proj"),
        ("qwen2_moe", "model.layers.0.block_sparse_moe.experts.0.w1.weight"),
        ("qwen2_moe", "model.layers.0.mlp.experts.0.gate_proj.bias"),
    ],
)
def test_fused_and_foreign_names_are_told(model_type: str, name: str) -> None:
    good = "model.layers.0.input_layernorm.weight"
    assert unmapped(model_type, [good, name]) == [name]


@pytest.mark.parametrize("family", models.FAMILIES)
def test_a_dense_model_loads_whole_and_in_bfloat16(family: str, tmp_path: Path) -> None:
    num_parameters = models.make_dense(tmp_path / "dense", family, TINY)
    model, info = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "dense", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert sum(parameter.numel() for parameter in model.parameters()) == num_parameters
    assert (family == "qwen2") == any(name.endswith("q_proj.bias") for name, _ in model.named_parameters())


def test_a_model_and_its_copy_with_one_other_tensor_differ_in_their_logits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models.make_dense(tmp_path / "dense", "llama", TINY)
    models.make_dense(tmp_path / "other", "llama", TINY)
    loading.main(str(tmp_path / "dense"), str(tmp_path / "other"))
    assert '"max_difference": 0.0' in capsys.readouterr().out
    reader = TensorReader(tmp_path / "other")
    tensors = {name: reader.get(name) for name in reader.names()}
    tensors["lm_head.weight"] = tensors["lm_head.weight"] + 1
    save_file(tensors, tmp_path / "other" / "model.safetensors", metadata={"format": "pt"})
    loading.main(str(tmp_path / "dense"), str(tmp_path / "other"))
    assert '"max_difference": 0.0' not in capsys.readouterr().out


def test_mergekit_is_given_a_shared_expert_that_adds_nothing_where_it_wants_one() -> None:
    assert "shared_experts" not in sides.mergekit_config(Path("dense"), "llama")
    (shared,) = sides.mergekit_config(Path("dense"), "qwen2")["shared_experts"]
    assert shared["residual_scale"] == 0.0


def test_the_memory_of_a_command_is_that_of_all_its_processes(tmp_path: Path) -> None:
    hold = f"import time; held = b'x' * {64 * MIB}"
    child = f"{hold}; time.sleep(0.5)"
    parent = f"import subprocess, sys; {hold}; subprocess.run([sys.executable, '-c', {child!r}])"
    alone = sides.measure([sys.executable, "-c", "import time; time.sleep(0.5)"], tmp_path / "log")
    both = sides.measure([sys.executable, "-c", parent], tmp_path / "log")
    assert both.peak_memory_bytes > alone.peak_memory_bytes + 120 * MIB


def test_a_command_that_fails_ends_the_benchmark_with_what_it_said(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"ended with 3:\s+no such thing"):
        sides.measure([sys.executable, "-c", "import sys; print('no such thing'); sys.exit(3)"], tmp_path / "log")


def test_targets_are_judged_by_the_medians_of_the_conversion_alone(capsys: pytest.CaptureFixture[str]) -> None:
    def used(*walls: float, mib: int) -> list[sides.Used]:
        return [sides.Used(wall_s=wall, peak_memory_bytes=mib * MIB) for wall in walls]

    runs = {
        sides.MERGEKIT: used(10, 11, 30, mib=1000),
        sides.OURS: used(5, 5.4, 40, mib=400),
        sides.OURS_TESTED: used(20, 21, 22, mib=5000),
        sides.COPY: used(1, 1, 1, mib=3),
    }
    print_used(runs)
    told = capsys.readouterr().out
    assert "peak memory: 0.40 x, target at most 0.3: MISSED" in told
    assert "time: 0.49 x, target at most 0.5: met" in told
