"""A checkpoint's tokenizer is judged from its files, as the engine's own loading would judge it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from moe_ray.checkpoints.files import require_tokenizer
from moe_ray.config.schema import ModelConfig
from moe_ray.errors import ModelError

TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"


def write_tokenizer(folder: Path, *, template: bool = True) -> None:
    Tokenizer(WordLevel({"a": 0, "b": 1, "?": 2}, unk_token="?")).save(str(folder / "tokenizer.json"))
    settings = {"chat_template": TEMPLATE} if template else {}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def model(folder: Path, **values: object) -> ModelConfig:
    return ModelConfig.model_validate({"path": str(folder), **values})


def test_a_tokenizer_with_a_template_passes_in_every_place_of_it(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    require_tokenizer("m", model(tmp_path))
    write_tokenizer(tmp_path, template=False)
    require_tokenizer("m", model(tmp_path, prompt_style="completion"))
    (tmp_path / "chat_template.jinja").write_text(TEMPLATE)
    require_tokenizer("m", model(tmp_path))


def nothing(folder: Path) -> None:
    (folder / "config.json").write_text("{}")


def noise(folder: Path) -> None:
    write_tokenizer(folder)
    (folder / "tokenizer.json").write_bytes(b"\xff\x00 not a tokenizer")


def cut(folder: Path) -> None:
    write_tokenizer(folder)
    text = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(text[: len(text) // 2])


def empty(folder: Path) -> None:
    write_tokenizer(folder)
    Tokenizer(WordLevel({}, unk_token="?")).save(str(folder / "tokenizer.json"))


def deep(folder: Path) -> None:
    write_tokenizer(folder)
    (folder / "tokenizer_config.json").write_text("[" * 200_000)


def a_list(folder: Path) -> None:
    write_tokenizer(folder)
    (folder / "tokenizer_config.json").write_text("[]")


@pytest.mark.parametrize("spoil", [nothing, noise, cut, empty, deep, a_list], ids=lambda one: str(one.__name__))
def test_a_tokenizer_that_cannot_be_used_is_refused(spoil: Callable[[Path], None], tmp_path: Path) -> None:
    spoil(tmp_path)
    with pytest.raises(ModelError) as caught:
        require_tokenizer("m", model(tmp_path))
    assert caught.value.where == "models.m.path"
    assert caught.value.remedy


def test_a_chat_model_without_a_template_is_refused(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, template=False)
    with pytest.raises(ModelError, match="no chat template"):
        require_tokenizer("m", model(tmp_path))


def test_another_tokenizer_is_looked_for_where_it_is_named(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "words").mkdir()
    write_tokenizer(tmp_path / "words")
    require_tokenizer("m", model(tmp_path / "weights", tokenizer=str(tmp_path / "words")))
    with pytest.raises(ModelError) as caught:
        require_tokenizer("m", model(tmp_path / "weights", tokenizer=str(tmp_path / "nowhere")))
    assert caught.value.where == "models.m.tokenizer"


def test_the_tokenizer_of_another_engine_is_its_own_affair(tmp_path: Path) -> None:
    require_tokenizer("m", model(tmp_path, engine="scripted"))
