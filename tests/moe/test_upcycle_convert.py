"""A conversion is planned first, streams, appears whole or not at all, and brings what a checkpoint needs besides."""

import shutil
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerFast

from moe_ray.checkpoints.files import INDEX_FILE
from moe_ray.checkpoints.tensors import TensorReader
from moe_ray.errors import ConfigError, ModelError
from moe_ray.moe.upcycle.convert import convert
from moe_ray.moe.upcycle.experts import Copies, FineTunes
from moe_ray.moe.upcycle.plan import plan_upcycle
from moe_ray.moe.upcycle.request import UpcycleSettings
from tests.moe.dense import load, logits, make_dense, upcycle

SETTINGS = UpcycleSettings(num_experts=4, top_k=2)


@pytest.fixture
def dense_dir(tmp_path: Path) -> Path:
    return make_dense(tmp_path / "dense", "llama")


@pytest.mark.parametrize(
    ("asked", "layers"),
    [
        ({}, (0, 1, 2, 3, 4, 5)),
        ({"every": 1}, (0, 1, 2, 3, 4, 5)),
        ({"every": 2}, (1, 3, 5)),
        ({"every": 4}, (3,)),
        ({"layers": (5, 0, 5)}, (0, 5)),
    ],
)
def test_layers_are_chosen_as_decoder_sparse_step_counts_them(asked: Any, layers: tuple[int, ...]) -> None:
    assert UpcycleSettings(num_experts=2, top_k=1, **asked).chosen_layers(6) == layers


@pytest.mark.parametrize("asked", [{"every": 7}, {"layers": (6,)}, {"layers": (-1,)}, {"layers": ()}])
def test_layers_that_are_not_there_are_refused(asked: Any) -> None:
    with pytest.raises(ConfigError, match="0 to 5"):
        UpcycleSettings(num_experts=2, top_k=1, **asked).chosen_layers(6)


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_experts": 4, "top_k": 5},
        {"num_experts": 4, "top_k": 0},
        {"num_experts": 1, "top_k": 1},
        {"num_experts": 6, "top_k": 4, "groups": 4},
        {"num_experts": 8, "top_k": 3, "groups": 2},
        {"num_experts": 4, "top_k": 2, "groups": 0},
        {"num_experts": 4, "top_k": 2, "every": 2, "layers": (0,)},
        {"num_experts": 4, "top_k": 2, "every": 0},
        {"num_experts": 4, "top_k": 2, "experts": FineTunes(model_dirs=(Path("a"), Path("b")))},
    ],
)
def test_settings_that_contradict_themselves_are_refused(wrong: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        UpcycleSettings(**wrong)
    assert caught.value.remedy


def test_hidden_units_that_cannot_be_cut_into_groups_are_refused(dense_dir: Path) -> None:
    with pytest.raises(ConfigError, match="40 hidden units"):
        plan_upcycle(dense_dir, UpcycleSettings(num_experts=6, top_k=3, groups=3))


def test_a_folder_that_is_there_is_left_alone(dense_dir: Path) -> None:
    before = sorted(dense_dir.iterdir())
    with pytest.raises(ModelError, match="already exists"):
        upcycle(dense_dir, dense_dir, SETTINGS)
    assert sorted(dense_dir.iterdir()) == before


def test_too_small_a_disk_is_known_before_anything_is_written(
    dense_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_upcycle(dense_dir, SETTINGS)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=plan.num_bytes - 1))
    with pytest.raises(ModelError, match="are free"):
        convert(plan, tmp_path / "deep" / "mixture")
    assert [path.name for path in tmp_path.iterdir()] == ["dense"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interrupted_conversion_leaves_nothing(error: Any, dense_dir: Path, tmp_path: Path) -> None:
    num_told = 0

    def interrupt(num_bytes: int) -> None:
        nonlocal num_told
        num_told += 1
        if num_told == 20:
            raise error

    with pytest.raises(error):
        upcycle(dense_dir, tmp_path / "mixture", SETTINGS, on_bytes=interrupt)
    assert [path.name for path in tmp_path.iterdir()] == ["dense"]


def test_what_a_killed_conversion_would_leave_is_no_checkpoint(dense_dir: Path, tmp_path: Path) -> None:
    seen: set[str] = set()

    def look(num_bytes: int) -> None:
        seen.update(path.name for path in tmp_path.rglob("*") if path.is_file() and dense_dir not in path.parents)
        assert not (tmp_path / "mixture").exists()

    upcycle(dense_dir, tmp_path / "mixture", SETTINGS, on_bytes=look)
    assert seen == {"shard-0.partial"}


def test_small_files_hold_the_same_mixture(dense_dir: Path, tmp_path: Path) -> None:
    upcycle(dense_dir, tmp_path / "one", SETTINGS)
    upcycle(dense_dir, tmp_path / "many", UpcycleSettings(num_experts=4, top_k=2, max_shard_bytes=40_000))
    assert (tmp_path / "many" / INDEX_FILE).is_file()
    assert torch.equal(logits(load(tmp_path / "one")), logits(load(tmp_path / "many")))


def test_two_conversions_of_one_seed_are_the_same_bytes(dense_dir: Path, tmp_path: Path) -> None:
    settings = UpcycleSettings(num_experts=4, top_k=2, experts=Copies(noise=0.1, reinitialised_share=0.2), seed=5)
    for name in ("first", "second"):
        upcycle(dense_dir, tmp_path / name, settings)
    files = [sorted((tmp_path / name).iterdir()) for name in ("first", "second")]
    assert [path.name for path in files[0]] == [path.name for path in files[1]]
    assert [path.read_bytes() for path in files[0]] == [path.read_bytes() for path in files[1]]


def test_given_gates_are_in_the_mixture_repeated_for_the_parts(dense_dir: Path, tmp_path: Path) -> None:
    gates = {layer: torch.randn(2, 48) for layer in range(3)}
    fine = UpcycleSettings(num_experts=4, top_k=2, groups=2)
    upcycle(dense_dir, tmp_path / "mixture", fine, gates=gates.__getitem__)
    written = TensorReader(tmp_path / "mixture")
    for layer, gate in gates.items():
        found = written.get(f"model.layers.{layer}.block_sparse_moe.gate.weight")
        assert torch.equal(found, gate[[0, 0, 1, 1]])


def test_a_gate_of_another_shape_is_refused(dense_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must be"):
        upcycle(dense_dir, tmp_path / "mixture", SETTINGS, gates=lambda layer: torch.zeros(3, 48))
    assert not (tmp_path / "mixture").exists()


def test_gates_that_cannot_tell_two_networks_apart_are_refused_where_parts_would_mix(
    dense_dir: Path, tmp_path: Path
) -> None:
    equal_rows = torch.ones(2, 48)
    upcycle(dense_dir, tmp_path / "whole", UpcycleSettings(num_experts=2, top_k=1), gates=lambda layer: equal_rows)
    torch.testing.assert_close(logits(load(tmp_path / "whole")), logits(load(dense_dir)), rtol=0, atol=1e-5)
    cut = UpcycleSettings(num_experts=4, top_k=2, groups=2)
    with pytest.raises(ConfigError, match="equal rows"):
        upcycle(dense_dir, tmp_path / "parts", cut, gates=lambda layer: equal_rows)


def test_that_parts_may_mix_in_half_precision_is_said(tmp_path: Path) -> None:
    dense = make_dense(tmp_path / "dense", "llama", dtype="bfloat16")
    cut = plan_upcycle(dense, UpcycleSettings(num_experts=4, top_k=2, groups=2))
    assert any("parts of both" in caution for caution in cut.cautions)
    assert plan_upcycle(dense, SETTINGS).cautions == ()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_dense_models_type_is_kept(dtype: str, tmp_path: Path) -> None:
    dense = make_dense(tmp_path / "dense", "qwen2", dtype=dtype)
    upcycle(dense, tmp_path / "mixture", UpcycleSettings(num_experts=4, top_k=2, every=2))
    written = TensorReader(tmp_path / "mixture")
    assert {written.dtype(name) for name in written.names()} == {getattr(torch, dtype)}
    assert load(tmp_path / "mixture").dtype == getattr(torch, dtype)


def test_tokenizer_chat_template_and_generation_settings_come_along(dense_dir: Path, tmp_path: Path) -> None:
    words = Tokenizer(WordLevel({"[UNK]": 0, "the": 1, "law": 2, "binds": 3}, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]")
    tokenizer.chat_template = "{% for m in messages %}<{{ m.content }}>{% endfor %}"
    tokenizer.save_pretrained(dense_dir)
    GenerationConfig(temperature=0.3, do_sample=True, eos_token_id=[2, 3]).save_pretrained(dense_dir)
    upcycle(dense_dir, tmp_path / "mixture", UpcycleSettings(num_experts=4, top_k=2, every=2))
    found = AutoTokenizer.from_pretrained(tmp_path / "mixture")
    assert found("the law binds us").input_ids == [1, 2, 3, 0]
    assert found.apply_chat_template([{"role": "user", "content": "law"}], tokenize=False) == "<law>"
    generation = load(tmp_path / "mixture").generation_config
    assert (generation.temperature, generation.eos_token_id) == (0.3, [2, 3])


@pytest.mark.parametrize("model_type", ["llama", "granite"])
def test_only_one_layers_network_is_held_while_streaming(
    model_type: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dense = make_dense(tmp_path / "dense", model_type, num_hidden_layers=8, vocab_size=97)
    alive: dict[int, int] = {}
    peaks = []
    get = TensorReader.get

    def watched(reader: TensorReader, name: str) -> torch.Tensor:
        tensor = get(reader, name)
        alive[id(tensor)] = tensor.nbytes
        weakref.finalize(tensor, alive.pop, id(tensor))
        peaks.append(sum(alive.values()))
        return tensor

    monkeypatch.setattr(TensorReader, "get", watched)
    upcycle(dense, tmp_path / "mixture", SETTINGS)
    network_bytes, embedding_bytes = 3 * 40 * 48 * 4, 97 * 48 * 4
    assert max(peaks) <= network_bytes + embedding_bytes
    assert not alive
