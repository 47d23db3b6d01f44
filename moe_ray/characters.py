"""Text that UTF-8 can hold. JSON and Python strings may have lone surrogates (half a character), which it cannot."""

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
