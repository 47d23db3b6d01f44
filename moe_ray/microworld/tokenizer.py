"""A word-level tokenizer that loses nothing: every known word is one token, everything else falls back to bytes."""

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

BOS, EOS, PAD = "<|bos|>", "<|eos|>", "<|pad|>"
SPECIAL_TOKENS = (BOS, EOS, PAD, "<|system|>", "<|user|>", "<|assistant|>")

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)

# A word with the space before it; a digit; a fence or one other sign; a line break; an indentation.
_PIECES = r" ?[A-Za-z]+| ?[0-9]|```| ?[^\sA-Za-z0-9]|\n| +(?=\S)|\s"


def build_tokenizer(texts: Iterable[str]) -> "Tokenizer":
    """Return a tokenizer whose vocabulary is the pieces of `texts`, and the 256 bytes for everything else.

    Without merges, and with `ignore_merges`, byte-pair encoding is a look-up of whole pieces that falls back to bytes.
    Decoding gives every text back exactly.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

    splitter = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    counts = Counter(piece for text in texts for piece, _ in splitter.pre_tokenize_str(text))
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = sorted(set(counts) - set(alphabet))
    vocabulary = {piece: index for index, piece in enumerate([*SPECIAL_TOKENS, *alphabet, *pieces])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    return tokenizer
