"""The conversion of llama2.c models, against a plain reading of the same files."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.stories260k import (
    HEADER,
    Header,
    Piece,
    convert,
    derived_merges,
    half_split,
    llama_model,
    llama_tokenizer,
    read_vocabulary,
    read_weights,
)
from benchmarks.tests.llama2c import encode, forward
from moe_ray.errors import ModelError

DATA = Path(__file__).parents[2] / ".." / "shared" / "data"
WEIGHTS, VOCABULARY = DATA / "weights" / "stories260K.bin", DATA / "weights" / "tok512.bin"
needs_data = pytest.mark.skipif(not WEIGHTS.is_file(), reason="needs ../shared/data")

TINY = {"dim": 16, "hidden_dim": 24, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "max_positions": 12}
MAX_LOGIT_DIFFERENCE = 1e-4
OPENING = "Once upon a time, there was a little girl named Lily. She loved to play outside in the park."


def _tiny_file(path: Path, vocabulary_size: int) -> Path:
    header = Header(**TINY, vocabulary_size=abs(vocabulary_size), is_classifier_shared=vocabulary_size > 0)
    rng = np.random.default_rng(0)
    tensors = [rng.normal(0, 0.3, shape).astype("<f4").tobytes() for shape in header.shapes.values()]
    sizes = [TINY[name] for name in ("dim", "hidden_dim", "num_layers", "num_heads", "num_kv_heads")]
    path.write_bytes(HEADER.pack(*sizes, vocabulary_size, TINY["max_positions"]) + b"".join(tensors))
    return path


def _logits(model: Any, tokens: list[int]) -> Any:
    import torch

    torch.set_num_threads(1)
    with torch.inference_mode():
        return model(torch.tensor([tokens])).logits[0].numpy()


@pytest.mark.parametrize("vocabulary_size", [20, -20], ids=["shared classifier", "classifier of its own"])
def test_random_weights_give_the_logits_of_the_plain_forward_pass(tmp_path: Path, vocabulary_size: int) -> None:
    header, weights = read_weights(_tiny_file(tmp_path / "model.bin", vocabulary_size))
    assert header.is_classifier_shared == (vocabulary_size > 0)
    tokens = [1, 5, 19, 0, 7, 7, 3, 12]
    difference = _logits(llama_model(header, weights), tokens) - forward(header, weights, tokens)
    assert np.abs(difference).max() < MAX_LOGIT_DIFFERENCE


def test_rows_of_each_head_go_from_side_by_side_to_half_a_head_apart() -> None:
    rows = np.arange(8, dtype=np.float32).reshape(8, 1)
    assert half_split(rows, head_size=4).ravel().tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_merges_are_all_pairs_that_spell_a_piece_best_score_first() -> None:
    pieces = [Piece(text=text, score=score) for text, score in [("a", 0), ("b", 0), ("ab", -2), ("aba", -1), ("zz", 0)]]
    assert derived_merges(pieces) == [("ab", "a"), ("a", "b")]


@pytest.mark.parametrize("cut", [10, HEADER.size + 4])
def test_a_file_that_is_cut_off_is_refused(tmp_path: Path, cut: int) -> None:
    path = _tiny_file(tmp_path / "model.bin", 20)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ModelError, match="bytes"):
        read_weights(path)


def test_a_vocabulary_of_another_size_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tok.bin"
    path.write_bytes(struct.pack("<i", 1) + struct.pack("<fi", 0.0, 1) + b"a")
    assert read_vocabulary(path, 1) == [Piece(text="a", score=0.0)]
    with pytest.raises(ModelError, match="no vocabulary of 2 pieces"):
        read_vocabulary(path, 2)
    path.write_bytes(path.read_bytes() * 2)
    with pytest.raises(ModelError, match="more than 1"):
        read_vocabulary(path, 1)


@needs_data
def test_the_pretrained_model_gives_the_logits_of_the_plain_forward_pass() -> None:
    header, weights = read_weights(WEIGHTS)
    tokens = encode(read_vocabulary(VOCABULARY, header.vocabulary_size), f"{OPENING} One day, she saw a bird.")
    difference = _logits(llama_model(header, weights), tokens) - forward(header, weights, tokens)
    assert np.abs(difference).max() < MAX_LOGIT_DIFFERENCE


@needs_data
def test_the_tokenizer_cuts_real_texts_like_merges_by_score_do() -> None:
    pieces = read_vocabulary(VOCABULARY, 512)
    tokenizer = llama_tokenizer(pieces, 512)
    for text in [
        *_real_texts(),
        "",
        " ",
        "  two  spaces",
        "tab\tand\nlines\n\n",
        "漢字 é ñ €",
        "a...b......c",
        "hmmmm",
    ]:
        assert tokenizer(text)["input_ids"] == encode(pieces, text), text
        assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


def _real_texts() -> list[str]:
    posts = (DATA / "legal" / "learned_hands_posts.jsonl").read_text(encoding="utf-8").splitlines()
    tasks = (DATA / "code" / "mbpp_train_prompt474.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["text"][:400] for line in posts[::100]] + [
        json.loads(line)["code"] for line in tasks[::20]
    ]


@needs_data
def test_the_saved_checkpoint_tells_a_coherent_story(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    convert(WEIGHTS, VOCABULARY, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = torch.tensor([tokenizer("Once upon a time")["input_ids"]])
    drawn = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=40, do_sample=False)[0].tolist()
    assert tokenizer.decode(drawn, skip_special_tokens=True).startswith(OPENING)
    assert drawn == _greedy(list(ids[0].tolist()), len(drawn))


def _greedy(tokens: list[int], num_tokens: int) -> list[int]:
    header, weights = read_weights(WEIGHTS)
    while len(tokens) < num_tokens:
        tokens.append(int(forward(header, weights, tokens)[-1].argmax()))
    return tokens
