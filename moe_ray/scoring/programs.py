"""The program in an answer: which part of a text is code, and when two programs are equal."""

import re

from moe_ray.domains.programs import parse, tidy, unparse

BEGIN, DONE = "[BEGIN]", "[DONE]"
FENCE = "```"
PYTHON_TAGS = ("python", "py", "python3")

_TAG = re.compile(r"\w*")


def extract_program(text: str) -> str:
    """Return the program in an answer, without its common indentation; see `extract_code`."""
    return tidy(extract_code(text))


def extract_code(text: str) -> str:
    """Return the code in an answer, as it is indented there.

    What follows [DONE] and a leading [BEGIN] are cut. Of the blocks fenced as Python (of those fenced as nothing, if
    there are none) the first that parses counts, else the last; without fences, the whole text.
    """
    text = text.replace("\r\n", "\n").partition(DONE)[0]
    if text.lstrip().startswith(BEGIN):
        text = text.lstrip().removeprefix(BEGIN)
    blocks = fenced_blocks(text)
    tagged = [block for tag, block in blocks if tag in PYTHON_TAGS] or [block for tag, block in blocks if not tag]
    for block in tagged:
        if parse(tidy(block)) is not None:
            return block
    return tagged[-1] if tagged else text


def fenced_blocks(text: str) -> list[tuple[str, str]]:
    """Return the tag (in lower case) and the content of each fenced block, in one pass over the lines.

    A block ends with the next line that begins with a fence, or with the text. A fence in the last line opens nothing.
    """
    lines = text.split("\n")
    blocks: list[tuple[str, str]] = []
    opened: tuple[str, int] | None = None
    for number, line in enumerate(lines):
        bare = line.lstrip(" \t")
        if not bare.startswith(FENCE):
            continue
        if opened is not None:
            blocks.append((opened[0], "".join(f"{inner}\n" for inner in lines[opened[1] : number])))
            opened = None
        elif number < len(lines) - 1:
            opened = _tag(bare), number + 1
    if opened is not None:
        blocks.append((opened[0], "\n".join(lines[opened[1] :])))
    return blocks


def _tag(fence: str) -> str:
    found = _TAG.match(fence.removeprefix(FENCE).lstrip(" \t"))
    return found[0].lower() if found else ""


def normalised(code: str) -> str:
    """Return `code` without comments and with one layout, so that equal programs are equal texts."""
    tree = parse(code)
    written = None if tree is None else unparse(tree)
    return code.strip() if written is None else written
