"""A cell's key: what decides the text changes it, and nothing else does."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from moe_ray.checkpoints.identity import FileHashes, ModelIdentity, inspect_checkpoint
from moe_ray.config.schema import DecodingConfig, ModelConfig, PromptStyle
from moe_ray.domains.example import Example
from moe_ray.fingerprint import fingerprint
from moe_ray.planning.cells import Cell, make_shards
from moe_ray.planning.keys import CellMaker
from moe_ray.planning.kinds import KINDS
from moe_ray.prompts.messages import Message, Prompt
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
    maker = CellMaker(decoding or DecodingConfig(), max_new_tokens=max_new_tokens, kinds=tuple(KINDS.values()))
    return maker.cells([example], [model])


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


GOLDEN_PROMPT = Prompt(
    messages=(
        Message(role="system", content="Answer in Ελληνικά."),
        Message(role="user", content='Is "it"?\n'),
    ),
    stop=("\n", "\n\n"),
    choices=(" yes", " no"),
    reference=" yes, it is",
)
GREEDY = DecodingConfig()
WARM = DecodingConfig(temperature=0.7, top_p=0.9, seed=7, samples_per_example=2)
# Keys and shards as the first version of this package wrote them: they are on people's disks.
GOLDEN_KEYS = {
    ("chat", "greedy"): ["de59ffdaa0f3d3c66b013b0f5d57ff63", "5113b0777bf30822dd7cb23d596fcf48"],
    ("chat", "warm"): [
        "82ad2f7b8af097dee71ff53db35ced53",
        "0265067d93dfb5318ef2ed623e377e18",
        "5113b0777bf30822dd7cb23d596fcf48",
    ],
    ("completion", "greedy"): ["7f4a10d05fe5fd2afb99921f78ad7077", "41f71aaeadd7d0b9ea0849d249db6661"],
    ("completion", "warm"): [
        "404557b66d878434fa652cb74ea08388",
        "31f62823ceda1994e2208b3169b4619d",
        "41f71aaeadd7d0b9ea0849d249db6661",
    ],
}
GOLDEN_SHARDS = {
    ("chat", "greedy"): ["2f2ae5dcc1835e3b47b347bb54e122c8", "214d37956d7ed20cf4e360268a698e8a"],
    ("chat", "warm"): ["c05c14d7b6e0226901bb73132ee3f6ab", "214d37956d7ed20cf4e360268a698e8a"],
    ("completion", "greedy"): ["3a7f895f967d2facfece475b134e125c", "96df623c9a4225f6e3e2fe801cf3b670"],
    ("completion", "warm"): ["7319788df62d373dc95b8d473a7ccde4", "96df623c9a4225f6e3e2fe801cf3b670"],
}


@pytest.mark.parametrize(("style", "drawing"), GOLDEN_KEYS)
def test_keys_and_shards_are_those_on_peoples_disks(style: PromptStyle, drawing: str) -> None:
    example = Example(id="e/1", domain="d", prompts={"chat": GOLDEN_PROMPT, "completion": GOLDEN_PROMPT}, reference="r")
    model = ModelIdentity(name="m", fingerprint="0123456789abcdef", prompt_style=style)
    maker = CellMaker(GREEDY if drawing == "greedy" else WARM, max_new_tokens=64, kinds=tuple(KINDS.values()))
    made = maker.cells([example], [model])
    assert [cell.key for cell in made] == GOLDEN_KEYS[style, drawing]
    assert [shard.id for shard in make_shards(made, 2)] == GOLDEN_SHARDS[style, drawing]


def plain_key(example: Example, model: ModelIdentity, cell: Cell, decoding: DecodingConfig) -> str:
    """A cell's key as the fingerprint of one whole object."""
    prompt = example.prompts[model.prompt_style]
    asked = {
        "model": model.fingerprint,
        "style": model.prompt_style,
        "messages": [[message.role, message.content] for message in prompt.messages],
        "domain": example.domain,
        "example": example.id,
    }
    drawn = {
        "max_new_tokens": cell.max_new_tokens,
        "temperature": decoding.temperature,
        "top_p": decoding.top_p,
        "seed": decoding.seed if decoding.temperature > 0 else None,
        "sample": cell.sample_index,
        "stop": list(prompt.stop),
    }
    settings = drawn if cell.kind == "generate" else {"continuations": list(prompt.continuations)}
    return fingerprint({"kind": cell.kind, "asked": asked, "decoding": settings})


def test_keys_made_of_shared_parts_are_the_fingerprints_of_the_whole() -> None:
    prompts: dict[PromptStyle, Prompt] = {
        "chat": replace(GOLDEN_PROMPT, stop=('"', "\\", "\u2028")),
        "completion": replace(
            GOLDEN_PROMPT, messages=(Message(role="user", content='{"a": "\ud800"}\x00'),), choices=()
        ),
    }
    examples = [Example(id=id, domain='d"', prompts=prompts, reference="r") for id in ("e1", '"},{')]
    styles: tuple[PromptStyle, ...] = ("chat", "completion", "chat")
    models = [ModelIdentity(name=f"m{i}", fingerprint=f"f{i}", prompt_style=style) for i, style in enumerate(styles)]
    made = CellMaker(WARM, max_new_tokens=3, kinds=tuple(KINDS.values())).cells(examples, models)
    by_id, by_name = {example.id: example for example in examples}, {model.name: model for model in models}
    assert [(cell.model, cell.example_id) for cell in made[::3]] == [(m.name, e.id) for m in models for e in examples]
    assert [cell.key for cell in made] == [
        plain_key(by_id[cell.example_id], by_name[cell.model], cell, WARM) for cell in made
    ]
