"""Python programs as texts: bounded parsing, and whole programs from a given beginning and an answer."""

import ast
import re
import textwrap
import warnings

MAX_PARSED_CHARS = 100_000
BODY_INDENT = "    "

_NAME = re.compile(r"[^\W\d]\w*")


def parse(code: str, max_chars: int = MAX_PARSED_CHARS) -> ast.Module | None:
    """Return the syntax tree of `code`, or None when it is no program (or a text of more than `max_chars`)."""
    if len(code) > max_chars:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def unparse(tree: ast.Module) -> str | None:
    """Return the text of a syntax tree; None when it is nested too deeply to be written."""
    try:
        return ast.unparse(tree)
    except (RecursionError, ValueError):
        return None


def tidy(code: str) -> str:
    """Return `code` without its common indentation and without blank lines around it."""
    return textwrap.dedent(code).strip("\n").rstrip()


def complete(prefix: str, code: str, entry_point: str | None = None) -> str:
    """Return the whole program of an answer to the task of completing `prefix`.

    An answer that defines the entry point itself (by default the last function or class of `prefix`) is the program;
    what `prefix` has before that definition (imports, helpers) goes before it. Any other answer is a continuation of
    `prefix`. A body that lost its indentation, or that of its first line, gets it back.
    """
    name = _last_defined(prefix) if entry_point is None else entry_name(entry_point)
    whole = tidy(code)
    tree = parse(whole)
    if tree is not None and name is not None and name in definitions(tree):
        return _joined(_before(prefix, name), whole, tree)
    candidates = _continuations(prefix, code)
    return next((candidate for candidate in candidates if parse(candidate) is not None), candidates[0])


def entry_name(entry_point: str) -> str | None:
    """Return the top-level name of an entry point: Solution for the entry point Solution().solve."""
    found = _NAME.match(entry_point.strip())
    return found[0] if found else None


def _last_defined(prefix: str) -> str | None:
    tree = _parse_open(prefix)
    return next(reversed(definitions(tree)), None) if tree is not None else None


def _parse_open(prefix: str) -> ast.Module | None:
    """Parse a beginning of a program, whose last function may still lack its body."""
    return parse(prefix) or parse(f"{prefix.rstrip()}\n{_body_indent(prefix)}pass\n")


def definitions(tree: ast.Module) -> dict[str, int]:
    """Return the names that a module defines at its top level, in order, with the line where each definition begins."""
    found: dict[str, int] = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found[node.name] = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
        elif isinstance(node, ast.Assign):
            found |= {target.id: node.lineno for target in node.targets if isinstance(target, ast.Name)}
    return found


def _before(prefix: str, name: str) -> str:
    """Return what `prefix` has before the definition of `name`: all of it where it has none."""
    tree = _parse_open(prefix)
    if tree is None:
        return ""
    lines = prefix.split("\n")
    return "".join(line + "\n" for line in lines[: definitions(tree).get(name, len(lines) + 1) - 1])


def _joined(before: str, whole: str, tree: ast.Module) -> str:
    """Return one program after another; what the second imports from `__future__` must come first of all."""
    future, rest = ast.Module(body=[], type_ignores=[]), list[ast.stmt]()
    for node in tree.body:
        is_future = isinstance(node, ast.ImportFrom) and node.module == "__future__"
        (future.body if is_future else rest).append(node)
    if not future.body or not before:
        return before + whole
    program = unparse(ast.Module(body=rest, type_ignores=[]))
    return before + whole if program is None else f"{ast.unparse(future)}\n{before}{program}"


def _continuations(prefix: str, code: str) -> list[str]:
    """Return the ways to continue `prefix` with `code`, the likeliest first."""
    indent = _body_indent(prefix)
    ended = prefix if prefix.endswith("\n") or not prefix else f"{prefix}\n"
    indented = ended + textwrap.indent(tidy(code), indent)
    first_line_alone = ended + indent + code.strip("\n").lstrip(" \t")
    if not indent:
        return [prefix + code, ended + tidy(code)]
    if prefix != ended or code.strip("\n")[:1] in (" ", "\t"):
        return [prefix + code, ended + code, indented, first_line_alone]
    return [indented, first_line_alone]


def _body_indent(prefix: str) -> str:
    """Return the indentation of what must come next."""
    last = next((line for line in reversed(prefix.split("\n")) if line.strip()), "")
    own = last[: len(last) - len(last.lstrip(" \t"))]
    return own + BODY_INDENT if last.rstrip().endswith(":") else own
