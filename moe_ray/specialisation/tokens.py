"""From a text to token ids, and which of them count: padding, special tokens and a chat template's own do not."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from moe_ray.characters import whole_characters
from moe_ray.errors import ModelError
from moe_ray.prompts.encoder import RowError, chat_text
from moe_ray.prompts.messages import Message
from moe_ray.specialisation.texts import SourceText

# Stands for the content in a rendered template, to find where the content is.
MARK = "\u241e\u241fcontent\u241f\u241e"


# What tokenizers write for a space before a word.
WORD_STARTS = ("\u2581", "\u0120")


def piece_of_token(tokenizer: Any, token_id: int) -> str | None:
    """Return the letters of a token alone, with the space before it; None for an id that the tokenizer lacks.

    Bytes that are no whole letter become the replacement character.
    """
    token = tokenizer.convert_ids_to_tokens(token_id)
    if token is None:
        return None
    text = whole_characters(tokenizer.convert_tokens_to_string([token]), "?")
    return f" {text}" if token.startswith(WORD_STARTS) and not text.startswith(" ") else text


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedText:
    """A text's token ids, and which of them are its own. `is_cut`: it was longer than the limit."""

    source: SourceText
    token_ids: tuple[int, ...]
    counted: tuple[bool, ...]
    is_cut: bool

    @property
    def num_counted(self) -> int:
        return sum(self.counted)


@dataclass(frozen=True, slots=True, kw_only=True)
class TextEncoder:
    """Encodes texts as a model reads them: as they are, or in `chat` as a user's message in the chat template.

    At most `max_tokens` tokens are kept. `special_ids` never count, and neither do the first `num_skipped` others:
    where there is no begin token, attention often rests on the first token, and routers treat it apart.
    """

    tokenizer: Any
    special_ids: Collection[int]
    max_tokens: int
    chat: bool
    num_skipped: int = 0

    def encode(self, texts: Sequence[SourceText]) -> Iterator[EncodedText]:
        """Yield the texts' tokens, in their order. Raises `ModelError` for a tokenizer that cannot be used."""
        prefix, suffix = self._around() if self.chat else ("", "")
        for source in texts:
            rendered = f"{prefix}{source.text.strip()}{suffix}" if self.chat else source.text
            span = (len(prefix), len(rendered) - len(suffix))
            yield self._encoded(source, rendered, span)

    def _around(self) -> tuple[str, str]:
        """Return what the chat template writes before and after a user's message."""
        if self.tokenizer.chat_template is None:
            raise ModelError(
                "the tokenizer has no chat template", where="--chat", remedy="leave --chat out, or choose a chat model"
            )
        try:
            rendered = chat_text(self.tokenizer, [Message(role="user", content=MARK)])
        except RowError as error:
            raise ModelError(error.reason, where="--chat", remedy="leave --chat out") from error
        prefix, _, suffix = rendered.partition(MARK)
        return prefix, suffix

    def _encoded(self, source: SourceText, rendered: str, span: tuple[int, int]) -> EncodedText:
        if self.chat:
            ids, inside = self._with_offsets(rendered, span)
        else:
            ids = list(self.tokenizer(rendered)["input_ids"])
            inside = [True] * len(ids)
        counted = [own and token not in self.special_ids for token, own in zip(ids, inside, strict=True)]
        for place in [at for at, counts in enumerate(counted) if counts][: self.num_skipped]:
            counted[place] = False
        kept = slice(0, self.max_tokens)
        return EncodedText(
            source=source,
            token_ids=tuple(ids[kept]),
            counted=tuple(counted[kept]),
            is_cut=len(ids) > self.max_tokens,
        )

    def _with_offsets(self, rendered: str, span: tuple[int, int]) -> tuple[list[int], list[bool]]:
        """Return the tokens of a rendered template, and which of them have a character of the content."""
        if not self.tokenizer.is_fast:
            raise ModelError(
                "its tokenizer cannot say which characters a token is", where="--chat", remedy="leave --chat out"
            )
        encoded = self.tokenizer(rendered, add_special_tokens=False, return_offsets_mapping=True)
        inside = [start < span[1] and end > span[0] for start, end in encoded["offset_mapping"]]
        return list(encoded["input_ids"]), inside
