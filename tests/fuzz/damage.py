"""Damaged files: hypothesis strategies that turn a valid file into one that an accident or an attacker could leave."""

import json
from typing import Any

from hypothesis import strategies as st

DEPTH = 5_000

# JSON texts that stand in the place of one value. Each has broken a reader somewhere.
HOSTILE_VALUES = (
    "null", "true", "0", "-1", "1e999", "-1e308", "NaN", "-Infinity", "0.5", "1000000000", "9223372036854775808",
    "9" * 5_000, '""', '"x"', '"../../x"', '"/"', '"\\u0000"', '"\\ud800"', '"\\u001b[31m"', '"' + "x" * 10_000 + '"',
    "[]", "{}", "[null]", "[[[]]]", '{"": null}', '[{"a": 1}, 2]', '{"a": {"b": {"c": []}}}', "[" * 600 + "]" * 600,
    "[" * DEPTH, "[" * DEPTH + "]" * DEPTH, '{"a":' * DEPTH, '{"a": 1, "a": 2}',
)  # fmt: skip
HOSTILE_BYTES = (
    b"", b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\x1b[2J", b"[" * DEPTH, b'{"a":' * DEPTH, b"\n" * 1000, b"'", b'"',
    b"{", b"]", b",", b":", b"&a [*a]", b"!!python/object/apply:os.getpid []", b"9" * 5_000, b"\xed\xa0\x80", b"\t",
    b"- " * 3000, b"? ", b"<<: *x", b"%", b"PAR1", b"PK\x03\x04",
)  # fmt: skip


def damaged_bytes(content: bytes) -> st.SearchStrategy[bytes]:
    """`content` cut short, with a part lost, or with something in it that does not belong there."""
    places = st.integers(0, len(content))
    noise = st.one_of(st.sampled_from(HOSTILE_BYTES), st.binary(max_size=40))
    return st.one_of(
        st.builds(lambda at: content[:at], places),
        st.builds(lambda a, b: content[: min(a, b)] + content[max(a, b) :], places, places),
        st.builds(lambda at, new: content[:at] + new + content[at:], places, noise),
        st.builds(lambda at, new: content[:at] + new + content[at + len(new) :], places, noise),
        noise,
    )


@st.composite
def damaged_value(draw: st.DrawFn, value: Any) -> str:
    """The JSON text of `value` with one to three of its parts replaced, removed, renamed or doubled."""
    copy, raw = json.loads(json.dumps(value)), list[str]()
    for _ in range(draw(st.integers(1, 3))):
        holder, key = _drawn_place(draw, copy)
        change = draw(st.sampled_from(["replace"] * 4 + ["remove", "rename", "add"]))
        if holder is None:
            return draw(st.sampled_from(HOSTILE_VALUES))
        if change == "remove":
            del holder[key]
            continue
        raw.append(draw(st.sampled_from(HOSTILE_VALUES)))
        placeholder = f"@@{len(raw) - 1}@@"
        if isinstance(holder, dict) and change != "replace":
            holder[draw(st.sampled_from(["x", "", "id", "\x1b[2J", "../x", "a.b"]))] = placeholder
            if change == "rename":
                del holder[key]
        else:
            holder[key] = placeholder
    text = json.dumps(copy)
    for number, part in enumerate(raw):
        text = text.replace(f'"@@{number}@@"', part)
    return text


def _drawn_place(draw: st.DrawFn, value: Any) -> tuple[Any, Any]:
    """A container inside `value` and one of its keys; (None, None) for the whole value."""
    holder, key = None, None
    while isinstance(value, dict | list) and value and (holder is None or draw(st.integers(0, 3))):
        if holder is None and draw(st.integers(0, 30)) == 0:
            return None, None
        holder = value
        key = draw(st.sampled_from(sorted(value) if isinstance(value, dict) else range(len(value))))
        value = value[key]
    return holder, key


def damaged_json(content: bytes) -> st.SearchStrategy[bytes]:
    """A JSON file with wrong values in right syntax, or with broken syntax."""
    shaped = damaged_value(json.loads(content)).map(lambda text: text.encode("utf-8", "surrogatepass"))
    return st.one_of(shaped, shaped, damaged_bytes(content))


@st.composite
def damaged_json_lines(draw: st.DrawFn, content: bytes) -> bytes:
    """A file of JSON lines in which one line is damaged."""
    lines = content.splitlines()
    at = draw(st.integers(0, len(lines) - 1))
    return b"\n".join([*lines[:at], draw(damaged_json(lines[at])), *lines[at + 1 :]]) + b"\n"
