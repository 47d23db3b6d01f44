"""A lower-casing WordPiece vocabulary, learned from the texts that a router is trained on."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

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
