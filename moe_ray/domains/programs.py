"""Python programs as texts: bounded parsing, and whole programs from a given beginning and an answer."""

import ast
import re
import sys
import textwrap
import warnings
from collections.abc import Iterable, Iterator, Sequence

MAX_PARSED_CHARS = 100_000
BODY_INDENT = "    "

_NAME = re.compile(r"[^\W\d]\w*")


def parse(code: str, max_chars: int = MAX_PARSED_CHARS) -> ast.Module | None:
    """Return the syntax tree of `code`, or None when it does not parse (or has more than `max_chars`)."""
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


MAX_TEST_CHARS = 2_000_000
CANDIDATE = "candidate"
CHECK = "check"
RUNNERS = ("unittest", "pytest")
FIXTURE_METHODS = ("setup_method", "teardown_method", "setup_class", "teardown_class")

_Function = ast.FunctionDef | ast.AsyncFunctionDef
_INERT = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom, ast.Pass, ast.Global)


class UnusableTestsError(Exception):
    """Tests that cannot judge a program. The text is the reason; `remedy` is what to do about it."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(reason)
        self.remedy = remedy


def runnable_tests(tests: Sequence[str], *, setup: str = "", entry_point: str | None = None) -> list[str]:
    """Return `tests` as statements of which each must run to its end, and that fail when the program is wrong.

    The bodies of `if __name__ == "__main__":` are unwrapped and test runners left out. Functions that take a candidate
    are called with `entry_point`, test functions without arguments, and the test methods of classes on instances.

    Raises `UnusableTestsError` when a test does not parse, imports what the sandbox lacks, needs a runner's fixtures or
    an entry point that is not known, or when nothing in the tests can fail.
    """
    if entry_point is not None:
        _require_expression(entry_point)
    trees = [_parsed(f"test {number}", test) for number, test in enumerate(tests, 1)]
    _refuse_missing_modules([*trees, _parsed("the setup", setup)])
    unwrapped = [_without_runners(tree) for tree in trees]
    used = _names_used(unwrapped)
    defined = {name for tree in unwrapped for name in _defined(tree)}
    made, acting = [], False
    for test, tree, bare in zip(tests, trees, unwrapped, strict=True):
        text = test if bare is tree else unparse(bare)
        if text is None:
            raise UnusableTestsError("they are nested too deeply", "split them into statements")
        calls = [call for node in bare.body for call in _calls(node, used, entry_point)]
        if entry_point is not None and CANDIDATE in _free_names(bare) - defined:
            text = f"{CANDIDATE} = {entry_point}\n{text}"
        acting = acting or bool(calls) or any(_acts(node) for node in bare.body)
        made.append("\n".join([text, *calls]) if calls else text)
    if not acting:
        raise UnusableTestsError(
            "nothing in them can fail: they only define functions, classes or constants",
            "tests are assert statements, check(candidate) with an entry_point, or test functions",
        )
    return [test for test in made if test.strip()]


def _require_expression(entry_point: str) -> None:
    tree = parse(entry_point)
    is_expression = tree is not None and len(tree.body) == 1 and isinstance(tree.body[0], ast.Expr)
    if not is_expression or entry_name(entry_point) is None:
        raise UnusableTestsError(
            f"the entry point {entry_point[:60]!r} does not name a function", "an entry point is f, or Solution().f"
        )


def _parsed(what: str, code: str) -> ast.Module:
    tree = parse(code, MAX_TEST_CHARS)
    if tree is None:
        reason = f"is longer than {MAX_TEST_CHARS} characters" if len(code) > MAX_TEST_CHARS else "is not Python"
        raise UnusableTestsError(f"{what} {reason}", "map the roles tests and setup to columns of Python statements")
    return tree


def _refuse_missing_modules(trees: Iterable[ast.Module]) -> None:
    for module in (module for tree in trees for module in _imported(tree)):
        if module not in sys.stdlib_module_names:
            raise UnusableTestsError(
                f"they import {module}, and the sandbox has the standard library alone",
                "use the program's own names without an import, and the standard library for the rest",
            )


def _imported(tree: ast.AST) -> Iterator[str]:
    """Yield the top-level modules that code imports outside of `try`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or ".").partition(".")[0] if not node.level else "." * node.level
        elif isinstance(node, ast.stmt) and not isinstance(node, ast.Try):
            yield from _imported(node)


def _without_runners(tree: ast.Module) -> ast.Module:
    """Return `tree` with the bodies of main guards in their place, and without calls of a runner's `main`."""
    body = [inner for node in tree.body for inner in _main_body(node)]
    body = [node for node in body if not _is_runner(node)]
    return tree if body == tree.body else ast.Module(body=body, type_ignores=[])


def _main_body(node: ast.stmt) -> list[ast.stmt]:
    """Return the body of a main guard, or any other statement alone."""
    if not isinstance(node, ast.If) or not isinstance(node.test, ast.Compare) or node.orelse:
        return [node]
    sides = [node.test.left, *node.test.comparators]
    names = {side.id for side in sides if isinstance(side, ast.Name)}
    values = {side.value for side in sides if isinstance(side, ast.Constant)}
    return node.body if names == {"__name__"} and values == {"__main__"} else [node]


def _is_runner(node: ast.stmt) -> bool:
    call = node.value if isinstance(node, ast.Expr) else None
    function = call.func if isinstance(call, ast.Call) else None
    return (
        isinstance(function, ast.Attribute)
        and function.attr == "main"
        and isinstance(function.value, ast.Name)
        and function.value.id in RUNNERS
    )


def _names_used(trees: Iterable[ast.Module]) -> set[str]:
    """Return the names that statements outside of functions and classes mention: what is called already."""
    outside = [node for tree in trees for node in tree.body if not isinstance(node, _Function | ast.ClassDef)]
    return {name.id for node in outside for name in ast.walk(node) if isinstance(name, ast.Name)}


def _defined(tree: ast.Module) -> set[str]:
    stored = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    return stored | {node.name for node in ast.walk(tree) if isinstance(node, _Function | ast.ClassDef)}


def _free_names(tree: ast.Module) -> set[str]:
    """Return the names that a text reads and that are not parameters in it."""
    parameters = {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    read = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    return read - parameters


def _calls(node: ast.stmt, used: set[str], entry_point: str | None) -> Iterator[str]:
    """Yield the statements that run what `node` defines, where it is a test and nothing calls it."""
    if isinstance(node, ast.ClassDef):
        yield from _class_calls(node, used)
    elif isinstance(node, _Function) and node.name not in used:
        required = _required(node.args)
        if required == [CANDIDATE] or (node.name == CHECK and len(required) == 1):
            yield f"{node.name}({_known(entry_point, node.name)})"
        elif node.name.startswith("test"):
            _refuse_fixtures(node, required)
            yield f"{node.name}()"


def _known(entry_point: str | None, function: str) -> str:
    if entry_point is None:
        raise UnusableTestsError(
            f"nothing calls {function}({CANDIDATE}), and the function to test is not known",
            "map the role entry_point to the column that names it: columns: {entry_point: entry_point}",
        )
    return entry_point


def _class_calls(node: ast.ClassDef, used: set[str]) -> Iterator[str]:
    methods = [item for item in node.body if isinstance(item, _Function)]
    tests = [method for method in methods if method.name.startswith("test")]
    if tests and node.bases:
        # A unittest class. `debug` raises what a test raises. A runner that the tests call themselves only notes it,
        # so that a mention of the class does not count as a call.
        yield f"__import__('unittest').defaultTestLoader.loadTestsFromTestCase({node.name}).debug()"
    if not tests or node.bases or node.name in used:
        return
    for method in methods:
        if method.name in FIXTURE_METHODS:
            raise _fixtures_error(f"{node.name}.{method.name}")
    for test in tests:
        _refuse_fixtures(test, _required(test.args)[1:])
        yield f"{node.name}().{test.name}()"


def _required(arguments: ast.arguments) -> list[str]:
    positional = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args)]
    named = [arg.arg for arg, value in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True) if value is None]
    return positional[: len(positional) - len(arguments.defaults)] + named


def _refuse_fixtures(function: _Function, required: Sequence[str]) -> None:
    if required:
        raise _fixtures_error(f"{function.name}({', '.join(required)})")
    if isinstance(function, ast.AsyncFunctionDef):
        raise _fixtures_error(f"the coroutine {function.name}")


def _fixtures_error(what: str) -> UnusableTestsError:
    return UnusableTestsError(
        f"{what} needs a test runner, which the sandbox does not have", "write test functions without arguments"
    )


def _acts(node: ast.stmt) -> bool:
    """Say whether a statement does more than define something."""
    if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign | ast.Expr):
        return any(isinstance(inner, ast.Call | ast.Await | ast.Subscript | ast.BinOp) for inner in ast.walk(node))
    return not isinstance(node, _INERT)
