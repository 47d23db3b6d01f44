"""A cell's key: what decides the text changes it, and nothing else does."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from moe_ray.config.schema import DecodingConfig, ModelConfig
from moe_ray.domains.example import Message
from moe_ray.planning.cells import Cell, ModelIdentity, example_cells
from moe_ray.planning.checkpoints import inspect_checkpoint
from moe_ray.planning.hashes import FileHashes
from tests.planning.cells import PROMPT, make_example, make_identity


def cells(
    decoding: DecodingConfig | None = None,
    *,
    prompt: Any = PROMPT,
    identity: ModelIdentity | None = None,
    id: str = "e1",
    max_new_tokens: int = 8,
) -> list[Cell]:
    model = identity or make_identity()
    example = make_example(id, prompt=prompt)
    return example_cells(example, model, decoding or DecodingConfig(), max_new_tokens=max_new_tokens, likelihood=True)


def keys(**changes: Any) -> set[str]:
    return {cell.key for cell in cells(**changes)}


def test_an_example_has_a_cell_for_each_sample_and_one_for_its_likelihoods() -> None:
    drawn = cells(DecodingConfig(temperature=0.5, samples_per_example=3))
    assert [(cell.kind, cell.sample_index) for cell in drawn] == [
        ("generate", 0), ("generate", 1), ("generate", 2), ("likelihood", 0)
    ]  # fmt: skip
    assert len({cell.key for cell in drawn}) == 4
    assert [cell.kind for cell in cells(prompt=replace(PROMPT, choices=()))] == ["generate"]


@pytest.mark.parametrize(
    "changes",
    [
        {"prompt": replace(PROMPT, messages=(Message(role="user", content="Is it? "),))},
        {"prompt": replace(PROMPT, messages=(Message(role="system", content="Is it?"),))},
        {"identity": make_identity(weights="w2")},
        {"identity": replace(make_identity(), prompt_style="completion")},
        {"id": "e2"},
    ],
)
def test_what_decides_every_text_changes_all_keys(changes: dict[str, Any]) -> None:
    assert not keys() & keys(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"decoding": DecodingConfig(temperature=0.1)},
        {"decoding": DecodingConfig(top_p=0.9)},
        {"max_new_tokens": 9},
        {"prompt": replace(PROMPT, stop=())},
    ],
)
def test_what_decides_drawn_text_alone_changes_the_generated_cell_alone(changes: dict[str, Any]) -> None:
    generated, measured = (cell.key for cell in cells())
    generated_then, measured_then = (cell.key for cell in cells(**changes))
    assert generated != generated_then
    assert measured == measured_then


def test_choices_change_the_measured_cell_alone() -> None:
    generated, measured = (cell.key for cell in cells())
    generated_then, measured_then = (cell.key for cell in cells(prompt=replace(PROMPT, choices=(" yes",))))
    assert generated == generated_then
    assert measured != measured_then


def test_the_seed_matters_only_where_text_is_drawn_by_chance() -> None:
    assert keys(decoding=DecodingConfig(seed=1)) == keys(decoding=DecodingConfig(seed=2))
    warm = [DecodingConfig(temperature=1.0, seed=seed) for seed in (1, 2)]
    assert keys(decoding=warm[0]) != keys(decoding=warm[1])


def test_more_samples_keep_the_earlier_ones() -> None:
    few, many = (DecodingConfig(temperature=1.0, samples_per_example=num) for num in (2, 5))
    assert keys(decoding=few) < keys(decoding=many)


def test_the_name_of_a_model_is_not_its_identity() -> None:
    assert keys(identity=make_identity("m")) == keys(identity=make_identity("renamed"))


def scripted_fingerprint(tmp_path: Path, **settings: Any) -> str:
    model = ModelConfig(**{"path": "scripted/m", "engine": "scripted", **settings})
    return inspect_checkpoint("m", model, FileHashes(tmp_path / "hashes.json")).identity.fingerprint


@pytest.mark.parametrize("setting", [{"gpus": 2}, {"gpus": 0.5}, {"notes": ("seen in training",)}])
def test_where_and_how_a_model_runs_never_changes_its_identity(setting: dict[str, Any], tmp_path: Path) -> None:
    assert scripted_fingerprint(tmp_path, **setting) == scripted_fingerprint(tmp_path)


@pytest.mark.parametrize(
    "setting",
    [
        {"dtype": "float16"},
        {"quantization": "8bit"},
        {"tokenizer": "other"},
        {"overflow": "truncate_left"},
        {"engine_settings": {"text": "another text"}},
        {"path": "scripted/other"},
    ],
)
def test_what_decides_a_models_text_changes_its_identity(setting: dict[str, Any], tmp_path: Path) -> None:
    assert scripted_fingerprint(tmp_path, **setting) != scripted_fingerprint(tmp_path)


def checkpoint_folder(folder: Path, text: str = "{}") -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(text)
    return folder


def test_a_moved_checkpoint_is_the_same_model_and_a_changed_file_is_another(tmp_path: Path) -> None:
    hashes = FileHashes(tmp_path / "hashes.json")

    def fingerprint_of(folder: Path) -> str:
        return inspect_checkpoint("m", ModelConfig(path=str(folder)), hashes).identity.fingerprint

    here, moved = checkpoint_folder(tmp_path / "here"), checkpoint_folder(tmp_path / "moved")
    assert fingerprint_of(here) == fingerprint_of(moved)
    (moved / "README.md").write_text("notes")
    assert fingerprint_of(here) == fingerprint_of(moved)
    (moved / "tokenizer.json").write_text("{}")
    assert fingerprint_of(here) != fingerprint_of(moved)


def test_file_hashes_are_remembered_by_size_and_time_and_never_wrong_after_a_change(tmp_path: Path) -> None:
    file = tmp_path / "weights.bin"
    file.write_bytes(b"one")
    first = FileHashes(tmp_path / "hashes.json")
    before = first.sha256(file)
    first.save()
    file.write_bytes(b"three")
    again = FileHashes(tmp_path / "hashes.json")
    assert again.sha256(file) != before
    (tmp_path / "hashes.json").write_text("damaged")
    assert FileHashes(tmp_path / "hashes.json").sha256(file) == again.sha256(file)
