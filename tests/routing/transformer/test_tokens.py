"""Texts are read as the tokenizer would read them whole, however long they are."""

import random
from pathlib import Path
from typing import Any

import pytest
import transformers

from moe_ray.routing.transformer.tokens import TextReader, pad
from tests.routing.queries import WORDS
from tests.support.tiny_models import make_tokenizer

MAX_TOKENS = 32
PIECES = [*WORDS["legal"], *WORDS["code"], "x" * 150, "  ", "\n\n", "\t", "...", "問い", "\x00", "é"]


@pytest.fixture(scope="module", params=["WordPiece", "byte-level BPE"])
def tokenizer(request: pytest.FixtureRequest, checkpoint: Path) -> Any:
    made = transformers.AutoTokenizer.from_pretrained(checkpoint) if request.param == "WordPiece" else make_tokenizer()
    made.model_max_length = MAX_TOKENS
    return made


def random_text(rng: random.Random) -> str:
    num_pieces = rng.choice([0, 1, 5, 50, 2000])
    return rng.choice(["", " "]).join(rng.choice(PIECES) for _ in range(num_pieces))


def test_long_texts_give_the_tokens_of_the_whole_text(tokenizer: Any) -> None:
    texts = [random_text(random.Random(seed)) for seed in range(150)]
    expected = [tokenizer(text, truncation=True, max_length=MAX_TOKENS)["input_ids"] for text in texts]
    assert TextReader(tokenizer).read(texts) == expected
    assert max(map(len, texts)) > 16 * MAX_TOKENS


class CountingTokenizer:
    """Counts the characters that it is given."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.model_max_length, self.pad_token_id = MAX_TOKENS, tokenizer.pad_token_id
        self.num_characters = 0

    def __call__(self, texts: list[str], **settings: Any) -> Any:
        self.num_characters += sum(map(len, texts))
        return self._tokenizer(texts, **settings)


def test_of_a_very_long_text_no_more_is_tokenized_than_is_needed(tokenizer: Any) -> None:
    counting = CountingTokenizer(tokenizer)
    TextReader(counting).read(["contract and court " * 100_000])
    assert counting.num_characters <= 16 * MAX_TOKENS


def test_a_text_of_spaces_is_read_to_its_end_to_find_the_word_there(checkpoint: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    [row] = TextReader(tokenizer).read([" " * 100_000 + "court"])
    assert row == tokenizer("court")["input_ids"]


def test_half_a_surrogate_pair_is_read_as_a_question_mark(tokenizer: Any) -> None:
    reader = TextReader(tokenizer)
    assert reader.read(["a \ud800 b"]) == reader.read(["a ? b"])


def test_a_text_without_any_token_becomes_one_of_padding() -> None:
    tokenizer = make_tokenizer()
    tokenizer.model_max_length = MAX_TOKENS
    tokenizer.backend_tokenizer.post_processor = None
    assert tokenizer("")["input_ids"] == []
    assert TextReader(tokenizer).read(["", "a"])[0] == [tokenizer.pad_token_id]


def test_no_texts_give_no_rows(tokenizer: Any) -> None:
    assert TextReader(tokenizer).read([]) == []


def test_rows_are_padded_on_the_right_and_the_padding_is_masked() -> None:
    batch = pad([[5, 6, 7], [8]], pad_token_id=9)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 9, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
