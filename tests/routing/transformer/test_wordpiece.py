"""A vocabulary is learned from texts: the same from the same texts, and no larger than they bear."""

import pytest

from moe_ray.routing.transformer.tokens import SPECIAL, learn_tokenizer
from tests.routing.transformer.tiny import TRAIN

TEXTS = [text.text for text in TRAIN]


def test_the_same_texts_give_the_same_ids_each_time() -> None:
    texts = [*TEXTS, "ünïcode 問い вопрос", "the quick brown fox jumps over the lazy dog, twice over"] * 2
    learned = [learn_tokenizer(texts).get_vocab() for _ in range(5)]  # the trainer's own numbers differ each time
    assert all(vocabulary == learned[0] for vocabulary in learned)


def test_every_training_text_is_read_without_unknown_tokens_and_frequent_words_are_whole() -> None:
    tokenizer = learn_tokenizer(TEXTS)
    for text in TEXTS:
        assert tokenizer.unk_token_id not in tokenizer(text)["input_ids"]
    assert tokenizer.tokenize("contract Tumour recursion") == ["contract", "tumour", "recursion"]


def test_a_word_that_is_new_is_read_in_pieces() -> None:
    pieces = learn_tokenizer(TEXTS).tokenize("contraption")
    assert len(pieces) > 1
    assert "".join(piece.removeprefix("##") for piece in pieces) == "contraption"


def test_special_tokens_stand_first_and_around_every_text() -> None:
    tokenizer = learn_tokenizer(TEXTS)
    assert tokenizer.convert_ids_to_tokens([0, 1, 2, 3, 4]) == list(SPECIAL)
    assert tokenizer.convert_ids_to_tokens(tokenizer("")["input_ids"]) == ["[CLS]", "[SEP]"]
    assert sorted(tokenizer.get_vocab().values()) == list(range(len(tokenizer)))


def test_letters_of_continuations_are_no_special_tokens() -> None:
    assert learn_tokenizer([*TEXTS, "# a"]).tokenize("##a") == ["#", "#", "a"]


@pytest.mark.parametrize("max_tokens", [60, 100])
def test_a_vocabulary_is_bounded_even_with_many_scripts(max_tokens: int) -> None:
    many_letters = ["".join(chr(0x4E00 + place) for place in range(3000))] * 2
    assert len(learn_tokenizer([*TEXTS, *many_letters], max_tokens)) <= max_tokens
