"""HTML, as question-and-answer sites publish it, to plain text that a person and a model can read."""

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bs4 import BeautifulSoup, Tag

# Stands around the number of a code block while the rest is tidied; HTML knows no such character.
_MARK = "\x00"
_DROPPED = ("script", "style", "head", "noscript", "template", "iframe", "object")
_PARAGRAPHS = ("p", "div", "blockquote", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "table", "section", "article")
_SPACES = re.compile(r"[^\S\n]+")
_AROUND_LINE_END = re.compile(r" *\n *")
_BLANK_LINES = re.compile(r"\n{3,}")


def html_to_text(html: str) -> str:
    """Return the text of `html`: paragraphs apart by a blank line, list items on lines of their own with their bullet
    or number, code blocks fenced and inline code in backquotes; scripts, styles and comments are dropped.
    Links and images leave only their text.
    """
    from bs4 import BeautifulSoup, Comment

    # Inside an element, since a bare text that looks like an address or a file name brings a warning.
    source = html.replace("\r\n", "\n").replace("\r", "\n").replace(_MARK, "")
    soup = BeautifulSoup(f"<body>{source}</body>", "html.parser")
    for dropped in soup.find_all(_DROPPED):
        dropped.decompose()
    for comment in soup.find_all(string=lambda text: isinstance(text, Comment)):
        comment.extract()
    blocks = _take_code_blocks(soup)
    _collapse_source_line_ends(soup)
    _mark_up(soup)
    text = _tidy(soup.get_text())
    return re.sub(f"{_MARK}(\\d+){_MARK}", lambda match: blocks[int(match[1])], text).strip()


def _take_code_blocks(soup: "BeautifulSoup") -> list[str]:
    """Replace each code block by a mark, so that its spaces survive the tidying, and return them fenced."""
    blocks = []
    for block in soup.find_all("pre"):
        blocks.append("```\n" + block.get_text().strip("\n") + "\n```")
        block.replace_with(f"\n\n{_MARK}{len(blocks) - 1}{_MARK}\n\n")
    return blocks


def _collapse_source_line_ends(soup: "BeautifulSoup") -> None:
    """Make the source's own line ends spaces, as a browser does, before line ends that mean something are put in."""
    for text in soup.find_all(string=True):
        if _MARK not in text:
            text.replace_with(text.replace("\n", " "))


def _mark_up(soup: "BeautifulSoup") -> None:
    for code in soup.find_all("code"):
        code.insert(0, "`")
        code.append("`")
    for item in soup.find_all("li"):
        item.insert(0, f"\n{_bullet(item)} ")
    for line_break in soup.find_all("br"):
        line_break.replace_with("\n")
    for row in soup.find_all("tr"):
        row.append("\n")
    for cell in soup.find_all(["td", "th"]):
        cell.append(" ")
    for block in soup.find_all(_PARAGRAPHS):
        in_item = block.find_parent("li") is not None
        block.insert(0, " " if in_item else "\n\n")
        block.append(" " if in_item else "\n\n")


def _bullet(item: "Tag") -> str:
    parent = item.parent
    if parent is None or parent.name != "ol":
        return "-"
    return f"{len(item.find_previous_siblings('li')) + 1}."


def _tidy(text: str) -> str:
    lines = _AROUND_LINE_END.sub("\n", _SPACES.sub(" ", text))
    return _BLANK_LINES.sub("\n\n", lines)
