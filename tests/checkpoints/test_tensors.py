"""Tensors on disk, read one at a time and written as they come; safetensors itself is the judge."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from moe_ray.checkpoints.files import INDEX_FILE, SINGLE_FILE
from moe_ray.checkpoints.tensors import HEADER_BYTES, TensorReader, TensorWriter
from moe_ray.errors import ModelError

TENSORS = {
    "layers.10.weight": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "layers.2.weight": torch.arange(12, dtype=torch.bfloat16).reshape(3, 4),
    "scalar": torch.tensor(3.5),
    "none": torch.empty(0, 4),
    "odd": torch.arange(3, dtype=torch.uint8),
    "after.odd": torch.arange(5, dtype=torch.float16),
    "turned": torch.arange(12, dtype=torch.float32).reshape(3, 4).T,
    "row.sliced": torch.arange(24, dtype=torch.float32).reshape(4, 6)[:, 1:4],
}


def write(directory: Path, max_shard_bytes: int = 10**9) -> tuple[Path, ...]:
    writer = TensorWriter(directory, max_shard_bytes)
    for name, tensor in TENSORS.items():
        writer.add(name, tensor)
    return writer.finish()


@pytest.mark.parametrize("max_shard_bytes", [1, 40, 10**9])
def test_safetensors_reads_back_what_was_written_whatever_the_files_sizes(max_shard_bytes: int, tmp_path: Path) -> None:
    files = write(tmp_path, max_shard_bytes)
    found = {name: tensor for path in files for name, tensor in load_file(path).items()}
    assert found.keys() == TENSORS.keys()
    assert all(
        torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype for name, tensor in TENSORS.items()
    )
    assert {path.name for path in files} == {path.name for path in tmp_path.glob("*.safetensors")}


def test_the_index_names_each_tensors_file_and_all_bytes(tmp_path: Path) -> None:
    files = write(tmp_path, 40)
    index = json.loads((tmp_path / INDEX_FILE).read_text())
    assert index["weight_map"] == {name: path.name for path in files for name in load_file(path)}
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in TENSORS.values())
    assert files[0].name == f"model-00001-of-{len(files):05d}.safetensors"


def test_a_reader_gives_names_in_counting_order_shapes_types_and_values(tmp_path: Path) -> None:
    write(tmp_path, 40)
    reader = TensorReader(tmp_path)
    assert reader.names().index("layers.2.weight") < reader.names().index("layers.10.weight")
    for name, tensor in TENSORS.items():
        assert (reader.shape(name), reader.dtype(name)) == (tuple(tensor.shape), tensor.dtype)
        assert torch.equal(reader.get(name), tensor)
        assert reader.get_empty(name).is_meta
        assert reader.get_empty(name).shape == tensor.shape


def test_names_beyond_the_headers_room_go_into_another_file(tmp_path: Path) -> None:
    writer = TensorWriter(tmp_path)
    names = [f"{number:04d}".ljust(400, "x") for number in range(HEADER_BYTES // 400)]
    for name in names:
        writer.add(name, torch.tensor([1.0]))
    assert len(writer.finish()) == 2
    assert set(TensorReader(tmp_path).names()) == set(names)


def test_before_it_is_finished_a_directory_is_no_checkpoint(tmp_path: Path) -> None:
    writer = TensorWriter(tmp_path)
    writer.add("weight", torch.ones(3))
    with pytest.raises(ModelError, match=r"no \.safetensors weights"):
        TensorReader(tmp_path)
    writer.close()


def test_a_name_is_written_once(tmp_path: Path) -> None:
    writer = TensorWriter(tmp_path)
    writer.add("weight", torch.ones(3))
    with pytest.raises(ValueError, match="twice"):
        writer.add("weight", torch.ones(3))
    writer.close()


def test_a_cut_file_is_refused(tmp_path: Path) -> None:
    save_file({"weight": torch.ones(100)}, tmp_path / SINGLE_FILE)
    whole = (tmp_path / SINGLE_FILE).read_bytes()
    (tmp_path / SINGLE_FILE).write_bytes(whole[:-7])
    with pytest.raises(ModelError, match="damaged"):
        TensorReader(tmp_path)


def test_a_file_that_the_index_names_and_is_not_there_is_refused(tmp_path: Path) -> None:
    files = write(tmp_path, 40)
    files[1].unlink()
    with pytest.raises(ModelError, match=files[1].name):
        TensorReader(tmp_path)


def test_a_tensor_that_the_index_promises_in_vain_is_refused(tmp_path: Path) -> None:
    save_file({"weight": torch.ones(2)}, tmp_path / SINGLE_FILE)
    index = {"weight_map": {"weight": SINGLE_FILE, "bias": SINGLE_FILE}}
    (tmp_path / INDEX_FILE).write_text(json.dumps(index))
    with pytest.raises(ModelError, match="promises bias"):
        TensorReader(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", "{}"])
def test_a_damaged_index_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / INDEX_FILE).write_text(content)
    with pytest.raises(ModelError, match="damaged index"):
        TensorReader(tmp_path)
