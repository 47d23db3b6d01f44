"""Text from elsewhere, made safe to print: what would steer a terminal or reorder a line is shown as an escape.

Escaped are the C0 and C1 controls, DEL, bidirectional controls, line and paragraph separators and lone surrogates. All
escapes have the form \\u001b, which JSON reads too, so that a printed JSON document stays one. Not covered: letters of
one script that look like those of another, and invisible characters that leave the line where it is.
"""

import re

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
