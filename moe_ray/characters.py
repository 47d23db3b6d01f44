"""Text that any file and any terminal can hold: whole characters, no control sequences."""

import re

REPLACEMENT = "\ufffd"
_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")
_SURROGATE = re.compile("[\ud800-\udfff]")


def whole_characters(text: str, mark: str = REPLACEMENT) -> str:
    """Return `text` with its surrogate pairs joined and every lone surrogate replaced by `mark`.

    Answers and errors take the default, as broken bytes do. What decides a cell's key, a router's weights or a trained
    model (prompts, texts) takes "?", so that these stay what they were in earlier versions.
    """
    if text.isascii() or _SURROGATE.search(text) is None:
        return text
    return _SURROGATE.sub(mark, _PAIR.sub(_joined, text))


def _joined(pair: "re.Match[str]") -> str:
    return pair[0].encode("utf-16", "surrogatepass").decode("utf-16")


# Newline and tab are the only controls that a printed text may hold.
_CONTROLS = "\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f"
_BIDIRECTIONAL = "\\u061c\\u200e\\u200f\\u202a-\\u202e\\u2066-\\u2069"
_SEPARATORS = "\\u2028\\u2029"
_SURROGATES = "\\ud800-\\udfff"
_UNSAFE = re.compile(f"[{_CONTROLS}{_BIDIRECTIONAL}{_SEPARATORS}{_SURROGATES}]")
_UNSAFE_IN_A_LINE = re.compile(f"[\\t\\n{_CONTROLS}{_BIDIRECTIONAL}{_SEPARATORS}{_SURROGATES}]")
_SHORT = {"\t": "\\t", "\n": "\\n", "\r": "\\r"}
_UNINDENTED_LINE = re.compile(r"\n(?=[^ \n])")


def printable(text: str) -> str:
    """Return `text` with every unsafe character escaped. Newlines and tabs stay; "\\r\\n" becomes a newline."""
    return _UNSAFE.sub(_escaped, text.replace("\r\n", "\n"))


def one_line(text: str) -> str:
    """Return `text` as one printable line: newlines and tabs are escaped too. For ids, labels and names."""
    return _UNSAFE_IN_A_LINE.sub(_escaped, text)


def indented(text: str, indent: str = "  ") -> str:
    """Return printable `text` whose further lines all begin with a space, so that none looks like a line of ours."""
    return _UNINDENTED_LINE.sub(f"\n{indent}", printable(text))


def _escaped(match: re.Match[str]) -> str:
    return _SHORT.get(match[0], f"\\u{ord(match[0]):04x}")
