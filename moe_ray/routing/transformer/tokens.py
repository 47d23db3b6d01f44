"""A router's tokenizer: read with the checkpoint or learned from the texts."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from moe_ray.characters import whole_characters

CHARACTERS_PER_TOKEN = 16  # beyond what tokenizers reach on prose, so that one cut is mostly enough

TokenIds = list[int]


class TextReader:
    """Reads the first `tokenizer.model_max_length` tokens of texts, special tokens included."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._max_tokens = int(tokenizer.model_max_length)
        self.pad_token_id = int(tokenizer.pad_token_id)

    def read(self, texts: Sequence[str]) -> list[TokenIds]:
        """Return the token ids of each text, one at least.

        They are those of the tokenizer on the whole text, but of a very long one no more is read than fills them. A
        half of a surrogate pair, which is no character, is read as a question mark.
        """
        whole = [whole_characters(text, "?") for text in texts]
        rows: list[TokenIds] = [[] for _ in whole]
        pending, num_characters = list(range(len(whole))), self._max_tokens * CHARACTERS_PER_TOKEN
        while pending:
            cuts = [_beginning(whole[at], num_characters) for at in pending]
            for at, row in zip(pending, self._encode(cuts), strict=True):
                rows[at] = row or [self.pad_token_id]
            is_short = [
                len(rows[at]) < self._max_tokens and len(cut) < len(whole[at])
                for at, cut in zip(pending, cuts, strict=True)
            ]
            pending = [at for at, short in zip(pending, is_short, strict=True) if short]
            num_characters *= 2
        return rows

    def _encode(self, texts: list[str]) -> list[TokenIds]:
        encoded = self._tokenizer(
            texts,
            truncation=True,
            max_length=self._max_tokens,
            return_attention_mask=False,
            return_token_type_ids=False,
        )
        rows: list[TokenIds] = encoded["input_ids"]
        return rows


def _beginning(text: str, num_characters: int) -> str:
    """Cut at the last space, because tokenizers split there whatever follows; anywhere in a text without spaces."""
    if len(text) <= num_characters:
        return text
    cut = text[:num_characters]
    last_space = max(cut.rfind(space) for space in " \n\t")
    return cut[:last_space] if last_space > 0 else cut


def pad(rows: Sequence[TokenIds], pad_token_id: int) -> dict[str, torch.Tensor]:
    """Return `input_ids` and `attention_mask` [num_rows, longest row], padded on the right."""
    width = max(map(len, rows))
    return {
        "input_ids": torch.tensor([row + [pad_token_id] * (width - len(row)) for row in rows]),
        "attention_mask": torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows]),
    }


MAX_TOKENS = 8192
MAX_CHARACTERS = 1000
MIN_COUNT = 2
PAD, UNKNOWN, BEGIN, END, MASK = SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def learn_tokenizer(texts: Sequence[str], max_tokens: int = MAX_TOKENS) -> Any:
    """Return a tokenizer of at most `max_tokens` tokens: pieces of words that occur at least twice in `texts`.

    It reads as BERT does: lower case, without accents, every ideograph by itself. The same texts give the same ids.
    """
    core = Tokenizer(models.WordPiece(_learn_vocabulary(texts, max_tokens), unk_token=UNKNOWN))
    core.normalizer, core.pre_tokenizer = _reading()
    core.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A {END}", special_tokens=[(one, core.token_to_id(one)) for one in (BEGIN, END)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        unk_token=UNKNOWN,
        cls_token=BEGIN,
        sep_token=END,
        mask_token=MASK,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )


def _reading() -> tuple[Any, Any]:
    return normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()


def _learn_vocabulary(texts: Sequence[str], max_tokens: int) -> dict[str, int]:
    normalizer, splitter = _reading()
    words = Counter(word for text in texts for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)))
    counts: Counter[str] = Counter()
    for word, count in words.items():
        counts.update(dict.fromkeys(word, count))
    num_letters = max(0, min(MAX_CHARACTERS, (max_tokens - len(SPECIAL)) // 2))
    alphabet = sorted(sorted(counts, key=lambda one: (-counts[one], one))[:num_letters])
    # The trainer numbers letters in the order of a hash table, and breaks ties by these numbers: name them all first.
    named = [*SPECIAL, *alphabet, *(f"##{one}" for one in alphabet)]
    letters = frozenset(alphabet)
    core = Tokenizer(models.WordPiece(unk_token=UNKNOWN))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.train_from_iterator(
        ([word] * count for word, count in words.items() if letters.issuperset(word)),
        trainers.WordPieceTrainer(
            vocab_size=max_tokens, min_frequency=MIN_COUNT, special_tokens=named, show_progress=False
        ),
    )
    vocabulary: dict[str, int] = core.get_vocab()
    return vocabulary
