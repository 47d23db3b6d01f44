"""The texts of single tokens, which a tokenizer can only decode in a row."""

from collections.abc import Sequence
from typing import Any

from moe_ray.characters import REPLACEMENT

# A run of tokens that spell parts of characters is given up after so many: no character has more bytes than this.
MAX_PARTS = 8


class TokenSpeller:
    """Spells the tokens of one tokenizer, special ones included. Any thread may use it."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        # Many decoders drop the space in front of the first token, so that none is decoded as the first.
        neighbour = tokenizer.convert_tokens_to_ids("a")
        self._before = [neighbour] if isinstance(neighbour, int) else []
        self._known: dict[int, str] = {}

    def text(self, token: int) -> str:
        """Return a token's text in the middle of others, with replacement characters for parts of characters."""
        if token not in self._known:
            self._known[token] = self._decoded_after([token])
        return self._known[token]

    def pieces(self, token_ids: Sequence[int], text: str | None = None) -> tuple[str, ...]:
        """Return a text for each token, which join to the text of all: `text`, if it ends as the tokens do.

        Parts of a character have none, and the token that completes it has it whole. A begin token in front has none
        but what the others leave of `text`.
        """
        has_begin = token_ids[0] == self._tokenizer.bos_token_id
        pieces = [""] if has_begin else []
        parts: list[int] = []
        for place in range(len(pieces), len(token_ids)):
            parts.append(token_ids[place])
            is_first = place + 1 - len(parts) == int(has_begin)
            spelled = self._decoded(parts) if is_first else self._joined(parts)
            is_open = REPLACEMENT in spelled and REPLACEMENT in self.text(parts[-1])
            if is_open and len(parts) < MAX_PARTS and place + 1 < len(token_ids):
                pieces.append("")
                continue
            pieces.append(spelled)
            parts = []
        rest = "".join(pieces[1:])
        if text is not None and text.endswith(rest):
            pieces[0] = text.removesuffix(rest)
        return tuple(pieces)

    def _joined(self, token_ids: list[int]) -> str:
        return self.text(token_ids[0]) if len(token_ids) == 1 else self._decoded_after(token_ids)

    def _decoded_after(self, token_ids: list[int]) -> str:
        before, whole = self._decoded(self._before), self._decoded([*self._before, *token_ids])
        return whole.removeprefix(before) if whole.startswith(before) else self._decoded(token_ids)

    def _decoded(self, token_ids: list[int]) -> str:
        text: str = self._tokenizer.decode(token_ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text
