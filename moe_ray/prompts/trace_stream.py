"""Splitting a text into reasoning and answer while it is still being drawn."""

import re
from collections.abc import Iterable
from typing import Literal, NamedTuple

from moe_ray.prompts.reasoning import ReasoningSplitter, TraceSplit

# No mark is longer: text that far back can no longer become part of one.
LONGEST_MARK = 256
# The header of a message in the Harmony format, up to the token that ends it.
_UNFINISHED_HEADER = re.compile(
    r"(?:<\|end\|>\s{0,4})?(?:<\|start\|>[^<]{0,16})?(?:<\|channel\|>[^<]{0,80}(?:<\|constrain\|>[^<]{0,40})?)?\Z",
    re.IGNORECASE,
)


class StreamPiece(NamedTuple):
    """What new text adds to the answer and to the reasoning; either may be empty."""

    answer: str = ""
    reasoning: str = ""


class TraceStream:
    """Splits one text as it grows. The joined pieces equal the splitter's result for the whole text.

    Text is held back while what follows may still turn it into a mark. One exception: a closing mark without an opening
    one, where the prompt had opened none, turns text that was already returned into a trace; then no more is returned.
    Where a mark occurs in the answer (quoted, or inside a line), the rest of the answer is held back until the end.
    """

    def __init__(self, splitter: ReasoningSplitter, *, opened: bool = False) -> None:
        self._splitter = splitter
        spellings = [one.lower() for one in splitter.spellings]
        self._spellings = tuple(dict.fromkeys(spellings))
        self._heads = tuple({one[:3] for one in spellings})
        self._prefixes = prefixes(spellings)
        self._opened = opened
        self._text = ""
        self._num_read = 0
        self._has_trace = bool(splitter.styles) and (opened or splitter.starts_open)
        self._grows: Literal["answer", "reasoning"] | None = None
        self._sent = StreamPiece()
        self._blank = ""

    def feed(self, text: str) -> StreamPiece:
        """Add `text` at the end; return what is certain now."""
        self._text += text
        if not self._splitter.styles:
            return self._send(TraceSplit(answer=self._text))
        end = len(self._text) - self._num_held()
        if end <= self._num_read:
            return StreamPiece()
        safe, new = self._text[:end], self._text[self._num_read : end]
        near = max(0, self._num_read - LONGEST_MARK)
        self._num_read = end
        if self._is_far_from_marks(safe, near):
            return self._extend(new)
        self._has_trace = self._has_trace or self._has_mark(safe, near)
        if not self._has_trace:
            # White space in front of a trace is not part of the answer.
            return self._send(TraceSplit(answer=safe if safe.strip() else ""))
        return self._split_again(safe)

    def finish(self, whole: TraceSplit) -> StreamPiece:
        """Return the rest. `whole` is the split of the whole text."""
        return self._send(whole)

    def _split_again(self, safe: str) -> StreamPiece:
        split = self._splitter.split(safe, opened=self._opened)
        first = next((start for start, _ in self._splitter.marks(split.answer)), None)
        if first is not None:
            # An opening mark inside a line counts only once its closing mark follows.
            split = TraceSplit(answer=split.answer[:first], reasoning=split.reasoning)
        piece = self._send(split)
        self._grows, self._blank = None, ""
        if first is None and self._sent == (split.answer, split.reasoning or ""):
            in_trace = split.num_trace_characters == len(safe)
            if in_trace and split.reasoning:
                self._grows, self._blank = "reasoning", safe[len(safe.rstrip()) :]
            elif not in_trace and split.answer:
                self._grows = "answer"
        return piece

    def _is_far_from_marks(self, safe: str, near: int) -> bool:
        """Whether new text extends what the last one extended; saves splitting the whole text for each token."""
        if self._grows is None or self._has_mark(safe, near):
            return False
        tail = safe[near:].lower()
        return not any(one in tail for one in self._spellings)

    def _extend(self, new: str) -> StreamPiece:
        if self._grows == "answer":
            piece = StreamPiece(answer=new)
        else:
            whole = self._blank + new
            kept = whole.rstrip()
            piece, self._blank = StreamPiece(reasoning=kept), whole[len(kept) :]
        self._sent = StreamPiece(self._sent.answer + piece.answer, self._sent.reasoning + piece.reasoning)
        return piece

    def _send(self, split: TraceSplit) -> StreamPiece:
        piece = StreamPiece(_rest(split.answer, self._sent.answer), _rest(split.reasoning or "", self._sent.reasoning))
        self._sent = StreamPiece(self._sent.answer + piece.answer, self._sent.reasoning + piece.reasoning)
        return piece

    def _has_mark(self, text: str, start: int) -> bool:
        tail = text[start:].lower()
        return any(head in tail for head in self._heads) and any(True for _ in self._splitter.marks(text, start))

    def _num_held(self) -> int:
        """How many characters at the end may begin a mark, or are one that the next character decides on."""
        tail = self._text[-LONGEST_MARK:].lower()
        num = num_pending(tail, self._prefixes)
        rest = tail[: len(tail) - num]
        if not any(head in rest for head in self._heads):
            return num
        ending = [end - start for start, end in self._splitter.marks(rest) if end == len(rest)]
        header = _UNFINISHED_HEADER.search(rest)
        return num + max(len(header[0]) if header else 0, *ending, 0)


def _rest(whole: str, sent: str) -> str:
    return whole[len(sent) :] if whole.startswith(sent) else ""


def prefixes(spellings: Iterable[str]) -> frozenset[str]:
    """Return all proper prefixes of `spellings`."""
    return frozenset(one[:num] for one in spellings for num in range(1, len(one)))


def num_pending(text: str, prefixes: frozenset[str]) -> int:
    """Return the length of the longest of `prefixes` that `text` ends with; 0 if it ends with none."""
    longest = max(map(len, prefixes), default=0)
    return next((num for num in range(min(longest, len(text)), 0, -1) if text[-num:] in prefixes), 0)
