"""MBPP's reference programs as programs of the sandbox, right and broken."""

import ast
from typing import Any

from moe_ray.domains.programs import parse
from moe_ray.scoring.sandbox import Program

KNOWN_SLOW = frozenset({123})


WRAPPER = "def _broken(value):\n    return ['broken', repr(type(value))]\n"


class _BreakReturns(ast.NodeTransformer):
    def visit_Return(self, node: ast.Return) -> ast.Return:
        value = node.value or ast.Constant(None)
        return ast.Return(ast.Call(ast.Name("_broken", ast.Load()), [value], []))

    def visit_Lambda(self, node: ast.Lambda) -> ast.Lambda:
        return node


def broken(code: str) -> str:
    """Return `code` with the value of every `return` replaced by a wrong one.

    A function that returns nothing gets a wrong return at its end. Functions that call themselves break inside,
    which is a failure too.
    """
    parsed = parse(code)
    if parsed is None:
        raise ValueError("a reference program does not parse")
    tree = _BreakReturns().visit(parsed)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name not in ("_broken", "__init__"):
            node.body.append(ast.Return(ast.Call(ast.Name("_broken", ast.Load()), [ast.Constant(None)], [])))
    return WRAPPER + ast.unparse(ast.fix_missing_locations(tree))


def program(task: dict[str, Any], *, break_it: bool = False) -> Program:
    """Return the reference program of an MBPP record with its tests."""
    code = broken(task["code"]) if break_it else task["code"]
    return Program(code=code, tests=tuple(task["test_list"]), setup=task["test_setup_code"])
