"""The shared tokenizer: lossless, whole words, and equal in every architecture's checkpoint."""

from pathlib import Path

import pytest

from moe_ray.microworld.data import EOS, build_tokenizer, generate_world, load_tokenizer

PROGRAM = (
    "```python\ndef solve(x):\n    x = abs(x - 3)\n\n    if x:\n\treturn x // 2  # twice\n    return {'a': [x]}\n```"
)


@pytest.fixture(scope="module")
def tokenizer_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    build_tokenizer(programs(), file)
    return file


def programs() -> list[str]:
    return [f"```python\n{record['code']}\n```" for record in generate_world("tiny")["code"].train]


@pytest.mark.parametrize("text", [PROGRAM, "é ü  two spaces\n\n\n  three\t", "zanu fevo", "", *programs()[:5]])
def test_decoding_gives_the_text_back(tokenizer_file: Path, text: str) -> None:
    tokenizer = load_tokenizer(tokenizer_file)
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_a_known_word_is_one_token(tokenizer_file: Path) -> None:
    tokenizer = load_tokenizer(tokenizer_file)
    for word in ("def", " solve", " return", "python", "```", "):\n"):
        assert len(tokenizer.encode(word, add_special_tokens=False)) == 1, word


def test_the_same_texts_give_the_same_tokenizer(tokenizer_file: Path, tmp_path: Path) -> None:
    build_tokenizer(programs(), tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == tokenizer_file.read_bytes()


def test_the_chat_template_ends_where_the_assistant_begins(tokenizer_file: Path) -> None:
    tokenizer = load_tokenizer(tokenizer_file)
    asked = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "zanu"}]
    prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)
    assert prompt == "<|bos|><|system|>be brief<|user|>zanu<|assistant|>"
    answered = [*asked, {"role": "assistant", "content": "fevo"}]
    assert tokenizer.apply_chat_template(answered, tokenize=False) == prompt + "fevo" + EOS
