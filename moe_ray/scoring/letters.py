"""Find the letter that an answer chooses.

"a" and "I" are words too, so an answer must mark its letter, as "B.", "(B)", "the answer is B" or "so B". A statement
of the answer counts more than a letter in passing, and a later statement more than an earlier one. Where letters of
equal standing differ, nothing is read. Choices that are words may stand among the letters.
"""

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache

from moe_ray.scoring.reading import bounded, boxed, last_line

_MARKUP = r"[\s*_`\"'()\[\]{}<>#>$]"
_GAP = r"[\s:=*_`\"'(\[{<$>-]{0,12}"
_LATEX = r"(?:\\(?:boxed|fbox|text|textbf|mathrm|mathbf)\s?\{[\s(]{0,3}){0,3}"
_IS = r"(?:\b(?:is|was|would\s+be|should\s+be|must\s+be|will\s+be)\b|[:=→⇒]|->|=>)"
_KIND = r"(?:(?:the\s{1,3})?(?:(?:correct|right|best|final)\s{1,3})?(?:option|choice|letter|answer)\s{0,3})?"
_LEAD = (
    r"(?:\b(?:so|thus|hence|therefore|then|is|be|say|choose|chose|pick|picked|select|prefer|think|believe|guess|"
    r"conclude|namely|option|choice|answer|(?:go|going|went)\s{1,3}with)\b|[:→⇒]|->|=>)"
)
_AROUND = re.compile(rf"\A{_MARKUP}+|(?<![\s.,;:!?)\]}}*_`\"'$>])[\s.,;:!?)\]}}*_`\"'$>]+\Z")
# Letters that name something else.
_NAMED = (
    r"(?:vitamin|hepatitis|influenza|type|group|class|grade|stage|phase|category|factor|plan|part|section|appendix|"
    r"schedule|exhibit|article|figure|table|form|point|variable|matrix|node|team|person|nor|not)"
)
# What may follow the letter A in a sentence; any other word in small letters makes it the article.
_CONTINUES = frozenset({"because", "since", "as", "is", "and", "or", "for", "given", "due", "but", "which", "if"})


def has_letters(choices: Sequence[str]) -> bool:
    """Say whether a choice is a single letter. A sign of a script without capitals is a word."""
    return any(len(choice) == 1 and choice.lower() != choice.upper() for choice in choices)


def choice_of(spelled: str, choices: Sequence[str]) -> str | None:
    """Return the choice that is spelled so, in any case."""
    return next(
        (
            choice
            for choice in choices
            if choice.casefold() == spelled.casefold() or re.fullmatch(re.escape(choice), spelled, re.IGNORECASE)
        ),
        None,
    )


def read_letters(text: str, choices: tuple[str, ...]) -> str | None:
    """Return the choice that `text` states; None when it states none, or several."""
    text = bounded(text)
    in_box = boxed(text)
    found = None if in_box is None else choice_of(in_box.strip("(). "), choices)
    return (
        found
        or _alone(text, choices)
        or stated(text, choices)
        or _last(_patterns(choices).verdict, text, choices)
        or _last_line_alone(text, choices)
        or _leading(text, choices)
        or _concluded(text, choices)
        or _only(_in_brackets(text, choices))
        or _only(_in_passing(text, choices))
    )


class _Patterns:
    """The patterns for one set of choices. Every repetition in them is bounded."""

    def __init__(self, choices: tuple[str, ...]) -> None:
        ordered = sorted(choices, key=len, reverse=True)
        any_case = f"(?i:{'|'.join(map(re.escape, ordered))})"
        shown = "|".join(_shown(choice) for choice in ordered)
        ends = r"(?!\w)(?!'\w)"
        self.alone = re.compile(rf"{_MARKUP}*({any_case}){_MARKUP}*[.,:;!]?{_MARKUP}*")
        self.stated = re.compile(
            rf"(?i:\banswers?\b)(?:[^\n.:!?=]{{0,60}}?(?i:{_IS})|\s{{1,3}}){_GAP}(?i:{_KIND}){_GAP}{_LATEX}"
            rf"(?P<choice>{any_case}){ends}"
        )
        self.verdict = re.compile(
            rf"(?<!nor )(?<!not )(?<![\w'-])(?P<choice>{shown})[)\]*_`\"'.]{{0,4}}\s{{1,3}}(?i:is|are)\s{{1,3}}"
            r"(?i:the\s{1,3})?(?i:correct|right|best|answer|most\s(?:likely|appropriate))\b"
        )
        self.leading = re.compile(
            rf"{_MARKUP}{{0,12}}(?P<choice>{any_case})(?=[).:\]*_`\"'>]|\s{{0,3}}(?:\n|$)|\s-\s|\s)"
        )
        self.line = re.compile(rf"^[ \t*_`(\[-]{{0,8}}(?P<choice>{shown})[).:\]]", re.MULTILINE)
        self.concluded = re.compile(
            rf"(?i:{_LEAD})[\s,*_`\"'(\[]{{1,6}}(?P<choice>{shown}){ends}(?!\s{{1,3}}(?:or|nor|and)\s)"
        )
        self.bracketed = re.compile(rf"(?:\(|\*\*|\[)(?P<choice>{any_case})(?:\)|\*\*|\])")
        self.passing = re.compile(rf"(?<![\w'-])(?<!not )(?<!n't )(?P<choice>{shown}){ends}(?!-\w)")
        self.another = re.compile(
            rf"[)\]*_]{{0,3}}\s{{0,3}}(?:,|/|&|\band\b|\bor\b)\s{{0,3}}[(\[*_]{{0,3}}(?:{shown})\b(?=\s{{0,3}}(?:[.,;)*\n]|$))"
        )


def _shown(choice: str) -> str:
    """A letter in running text stands in capitals; a word in any case."""
    if has_letters([choice]):
        return re.escape(choice.upper()) if choice.lower() in "ai" else f"[{re.escape(choice + choice.upper())}]"
    return f"(?i:{re.escape(choice)})"


@lru_cache(maxsize=64)
def _patterns(choices: tuple[str, ...]) -> _Patterns:
    return _Patterns(choices)


def _is_word(text: str, found: re.Match[str]) -> bool:
    """Say whether a letter is the article "a" or the pronoun "I": a word in small letters follows it."""
    letter = found["choice"]
    if letter.lower() not in ("a", "i") or len(letter) > 1:
        return False
    follows = re.compile(r"\s+([a-z]\w*)").match(text, found.end("choice"), found.end("choice") + 40)
    return follows is not None and not (letter == "A" and follows[1] in _CONTINUES)


def _alone(text: str, choices: tuple[str, ...]) -> str | None:
    stripped = text.strip()
    found = _patterns(choices).alone.fullmatch(stripped) if len(stripped) < 100 else None
    return found and choice_of(found[1], choices)


def stated(text: str, choices: tuple[str, ...]) -> str | None:
    """Return the choice of the last statement such as "the answer is B"; None where that names two."""
    patterns = _patterns(choices)
    found = [one for one in patterns.stated.finditer(text) if not _is_word(text, one)]
    if not found or patterns.another.match(text, found[-1].end("choice")):
        return None
    return choice_of(found[-1]["choice"], choices)


def first_letter(text: str, choices: tuple[str, ...]) -> str | None:
    """Return the first choice in `text`, however it is marked."""
    return next(_in_passing(bounded(text), choices), None)


def bare(fragment: str) -> str:
    """Return `fragment` without the brackets, quotes, marks and points around it."""
    return _AROUND.sub("", fragment)


def _last(pattern: re.Pattern[str], text: str, choices: tuple[str, ...]) -> str | None:
    found = [match["choice"] for match in pattern.finditer(text)]
    return choice_of(found[-1], choices) if found else None


def _last_line_alone(text: str, choices: tuple[str, ...]) -> str | None:
    return _alone(last_line(text), choices)


def _leading(text: str, choices: tuple[str, ...]) -> str | None:
    """Return the choice that the text begins with, unless its lines go through several choices."""
    patterns = _patterns(choices)
    found = patterns.leading.match(text)
    if found is None or _is_word(text, found) or len({one["choice"] for one in patterns.line.finditer(text)}) > 1:
        return None
    follows = text[found.end("choice") : found.end("choice") + 1]
    is_letter_of_a_sentence = follows in (" ", "\t") and found["choice"].islower() and len(found["choice"]) == 1
    return None if is_letter_of_a_sentence else choice_of(found["choice"], choices)


def _concluded(text: str, choices: tuple[str, ...]) -> str | None:
    found = [one for one in _patterns(choices).concluded.finditer(text) if not _is_word(text, one)]
    return choice_of(found[-1]["choice"], choices) if found else None


def begins_with_a_word(text: str, choices: tuple[str, ...]) -> bool:
    """Say whether `text` begins with a letter that is the article "a" or the pronoun "I", such as "A patient ..."."""
    found = _patterns(choices).leading.match(text)
    return found is not None and _is_word(text, found)


def _in_brackets(text: str, choices: tuple[str, ...]) -> Iterator[str]:
    for found in _patterns(choices).bracketed.finditer(text):
        choice = choice_of(found["choice"], choices)
        if choice is not None:
            yield choice


def _in_passing(text: str, choices: tuple[str, ...]) -> Iterator[str]:
    for found in _patterns(choices).passing.finditer(text):
        before = text[max(0, found.start() - 20) : found.start()]
        is_name = re.search(rf"\b{_NAMED}\s+$", before, re.IGNORECASE) is not None
        choice = choice_of(found["choice"], choices)
        if choice is not None and not is_name and not _is_word(text, found) and found["choice"] != "I":
            yield choice


def _only(found: Iterator[str]) -> str | None:
    distinct = set(found)
    return distinct.pop() if len(distinct) == 1 else None
