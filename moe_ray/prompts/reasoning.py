"""Reasoning traces in generated text: where a trace begins and ends, and what is left as the answer.

A trace is known by its marks. An opening mark counts at the beginning of a line, or anywhere if its closing mark
follows; not inside a code block, and not directly after a quote. A trace without a closing mark reaches to the end of
the text. A closing mark without an opening one means that the prompt opened the trace: everything before it is trace.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, ClassVar, Protocol, TypeVar

from moe_ray.config.schema import ModelConfig, ReasoningMarks

FENCE = "```"
QUOTES = "`'\""
# What can lie between the last mark of a chat template's generation prompt and its end.
PROMPT_TAIL_CHARACTERS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """The marks of one family of models, as patterns of bounded length.

    `tokens` are the special tokens that spell the marks, the first of them the one that no other family has: decoding
    keeps them where a tokenizer has that one. `can_lack_open` is false for marks that occur in ordinary text.
    """

    opens: str
    closes: str
    tokens: tuple[str, ...] = ()
    can_lack_open: bool = True


def _plain(opens: str, closes: str) -> Style:
    return Style(opens=re.escape(opens), closes=re.escape(closes), tokens=(opens, closes))


_HARMONY = Style(
    opens=r"(?:<\|start\|>assistant)?<\|channel\|>(?:analysis|commentary)(?:[^<]{0,80}(?:<\|constrain\|>[^<]{0,40})?"
    r"<\|message\|>)?",
    closes=r"(?:<\|end\|>\s{0,4})?(?:<\|start\|>assistant)?<\|channel\|>final(?:[^<]{0,80}(?:<\|constrain\|>[^<]{0,40})?"
    r"<\|message\|>)?",
    tokens=("<|channel|>", "<|message|>", "<|start|>", "<|end|>", "<|constrain|>", "<|return|>"),
)
# The same, decoded without its special tokens.
_BARE_HARMONY = Style(
    opens=r"\A(?:analysis|commentary)(?=[\s\S]*assistantfinal)", closes="assistantfinal", can_lack_open=False
)
KNOWN_STYLES = (
    _plain("<think>", "</think>"),
    _plain("<thinking>", "</thinking>"),
    _plain("<thought>", "</thought>"),
    _plain("<reasoning>", "</reasoning>"),
    _plain("<scratchpad>", "</scratchpad>"),
    _plain("<seed:think>", "</seed:think>"),
    _plain("[THINK]", "[/THINK]"),
    _plain("◁think▷", "◁/think▷"),
    _plain("<|START_THINKING|>", "<|END_THINKING|>"),
    _plain("<|begin_of_thought|>", "<|end_of_thought|>"),
    _plain("<|channel>thought", "<channel|>"),
    _plain("<unused94>thought", "<unused95>"),
    _plain("Here is my thought process:", "Here is my response:"),
    _HARMONY,
    _BARE_HARMONY,
)
# Marks around the answer that follows a trace.
_ENVELOPES = (
    ("<answer>", "</answer>"),
    ("<response>", "</response>"),
    ("<|START_RESPONSE|>", "<|END_RESPONSE|>"),
    ("<|begin_of_solution|>", "<|end_of_solution|>"),
    ("", "<|return|>"),
    ("", "<|end|>"),
)
RESPONSE_TOKENS = ("<|START_RESPONSE|>", "<|END_RESPONSE|>")


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceSplit:
    """A text in two. `reasoning` is None where there is no trace: the answer is then the whole text, unchanged.

    `num_trace_characters` is where the last trace ends in the text, closing mark included.
    """

    answer: str
    reasoning: str | None = None
    num_trace_characters: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasoningSplitter:
    """Splits the texts of one model. Takes time linear in the text."""

    styles: tuple[Style, ...]
    starts_open: bool = False

    def split(self, text: str, *, opened: bool = False) -> TraceSplit:
        """Split `text`; `opened` says that the prompt ended within a trace."""
        if not self.styles:
            return TraceSplit(answer=text)
        return _Reading(self.styles, text).split(opened or self.starts_open)

    def is_opened_by(self, prompt: str) -> bool:
        """Say whether `prompt` (the whole text that a model is given) ends with an opening mark."""
        tail = prompt[-PROMPT_TAIL_CHARACTERS:]
        marks = list(_pattern(self.styles).finditer(tail)) if self.styles else []
        return bool(marks) and _is_open(marks[-1]) and not tail[marks[-1].end() :].strip()

    def marks(self, text: str, start: int = 0) -> Iterator[tuple[int, int]]:
        """Yield where each mark in `text` begins and ends, from `start` on, whether or not it counts there."""
        return (mark.span() for mark in _pattern(self.styles).finditer(text, start)) if self.styles else iter(())

    @property
    def spellings(self) -> tuple[str, ...]:
        """All that spells a mark, or a part of one, word for word."""
        envelopes = [mark for pair in _ENVELOPES for mark in pair if mark]
        return (*(token for style in self.styles for token in style.tokens), *(envelopes if self.styles else ()))


def splitter_of(model: ModelConfig) -> ReasoningSplitter:
    """Return the splitter that a model's key `reasoning` asks for."""
    marks = model.reasoning
    if isinstance(marks, ReasoningMarks):
        return ReasoningSplitter(styles=(_plain(marks.open, marks.close),), starts_open=marks.starts_open)
    return ReasoningSplitter(styles=KNOWN_STYLES if marks == "auto" else ())


class _Traced(Protocol):
    """A dataclass with a text and the reasoning trace that was separated from it."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def text(self) -> str | None: ...
    @property
    def reasoning(self) -> str | None: ...


TracedT = TypeVar("TracedT", bound=_Traced)


def move_trace(out: TracedT, splitter: ReasoningSplitter, *, opened: bool = False) -> TracedT:
    """Return `out` with its reasoning trace moved out of its text, unless that was done before or there is no text.

    `opened` says that the prompt ended within a trace.
    """
    if out.reasoning is not None or out.text is None:
        return out
    split = splitter.split(out.text, opened=opened)
    return out if split.reasoning is None else replace(out, text=split.answer, reasoning=split.reasoning)


class _Reading:
    """One pass over the marks of a text."""

    def __init__(self, styles: tuple[Style, ...], text: str) -> None:
        self._styles = styles
        self._text = text
        self._marks = list(_pattern(styles).finditer(text))
        self._last_close = {_style(mark): mark.start() for mark in self._marks if not _is_open(mark)}
        self._answer: list[str] = []
        self._reasoning: list[str] = []
        self._place = 0
        self._num_trace = self._read = 0
        self._in_code = False
        self._line_is_blank = True
        self._mentioned: set[int] = set()

    def split(self, opened: bool) -> TraceSplit:
        inside: int | None = -1 if opened else None
        for mark in self._marks:
            if mark.start() < self._place:
                continue
            if inside is not None:
                if not _is_open(mark) and inside in (-1, _style(mark)):
                    self._close(mark.start(), mark.end())
                    inside = None
            elif _is_open(mark):
                inside = self._opened_at(mark)
            elif self._lacks_its_open(mark):
                self._take_back(mark)
        if inside is not None:
            self._close(len(self._text), len(self._text))
        if not self._reasoning:
            return TraceSplit(answer=self._text)
        answer = "".join([*self._answer, self._text[self._place :]])
        return TraceSplit(
            answer=_unwrapped(answer),
            reasoning="\n\n".join(part for part in map(str.strip, self._reasoning) if part),
            num_trace_characters=self._num_trace,
        )

    def _opened_at(self, mark: re.Match[str]) -> int | None:
        """Enter a trace at an opening mark that counts; return its style."""
        style = _style(mark)
        self._read_answer_to(mark.start())
        quoted = mark.start() > 0 and self._text[mark.start() - 1] in QUOTES
        is_closed = self._last_close.get(style, -1) >= mark.end()
        if self._in_code or quoted or not (self._line_is_blank or is_closed):
            self._mentioned.add(style)
            return None
        self._answer.append(self._text[self._place : mark.start()])
        self._place = mark.end()
        return style

    def _read_answer_to(self, end: int) -> None:
        """Note whether `end` lies in a code block, and at the beginning of a line. Reads no character twice."""
        read = self._text[self._read : end]
        self._in_code ^= read.count(FENCE) % 2 == 1
        line = read.rpartition("\n")[2]
        self._line_is_blank = not line.strip() and (len(line) < len(read) or self._line_is_blank)
        self._read = end

    def _close(self, end: int, next_place: int) -> None:
        self._reasoning.append(self._text[self._place : end])
        self._place = self._num_trace = self._read = next_place
        self._line_is_blank = True

    def _lacks_its_open(self, mark: re.Match[str]) -> bool:
        style = _style(mark)
        around = self._text[max(0, mark.start() - 1) : mark.start()] + self._text[mark.end() : mark.end() + 1]
        quoted = len(around) == 2 and set(around) <= set(QUOTES)
        return self._styles[style].can_lack_open and style not in self._mentioned and not quoted

    def _take_back(self, mark: re.Match[str]) -> None:
        """What stands before a closing mark of its own was no answer."""
        self._reasoning.extend(self._answer)
        self._answer.clear()
        self._close(mark.start(), mark.end())


@lru_cache(maxsize=64)
def _pattern(styles: tuple[Style, ...]) -> re.Pattern[str]:
    """Match any mark. Group names say the kind and the style: o3 opens a trace of style 3, c3 closes it."""
    marks = [f"(?P<o{at}>{style.opens})|(?P<c{at}>{style.closes})" for at, style in enumerate(styles)]
    return re.compile("|".join(marks), re.IGNORECASE)


def _is_open(mark: re.Match[str]) -> bool:
    return (mark.lastgroup or "").startswith("o")


def _style(mark: re.Match[str]) -> int:
    return int((mark.lastgroup or "o0")[1:])


def _unwrapped(answer: str) -> str:
    """Return the answer without the marks that envelop it and the white space before it."""
    answer = answer.lstrip()
    for opens, closes in _ENVELOPES:
        if answer[: len(opens)].lower() == opens.lower():
            inner, found, rest = answer[len(opens) :].partition(closes)
            if (opens or found) and not rest.strip():
                answer = inner.lstrip()
    return answer


def mark_tokens(styles: Sequence[Style], known: Sequence[str]) -> frozenset[str]:
    """Return those of the `known` special tokens of a tokenizer that spell marks."""
    there = set(known)
    kept = {token for style in styles if style.tokens and style.tokens[0] in there for token in style.tokens}
    if kept:
        kept |= set(RESPONSE_TOKENS)
    return frozenset(kept & there)
