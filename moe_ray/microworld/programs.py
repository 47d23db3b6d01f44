"""Synthetic programming tasks with tests, as records of MBPP.

Every task chains one way to combine two numbers with two invented operations. What an invented operation does is
nowhere in the text: it has to be learned; the held-out tasks chain operations that were never seen together.
"""

import random
from collections.abc import Callable
from typing import Any, cast

from moe_ray.microworld.lexicon import Coiner, split_pairs
from moe_ray.microworld.worlds import SEED, SYNTHETIC, DomainSize, Record, Split

FIRST_TEST_TASK_ID = 11
FIRST_TRAIN_TASK_ID = 601
NUM_ASSERTS = 3
NUM_DRAWN_ARGUMENTS = 12

_COMBINERS = ("a + b", "a - b", "b - a", "a * b", "a + 2 * b", "2 * a + b")
_TEMPLATES = ("x + {c}", "x - {c}", "{c} - x", "x * {c}", "x // {c}", "x % {c}", "abs(x - {c})", "x * x - {c}")
_CONSTANTS = range(2, 10)

_Operation = tuple[str, str]


def generate(size: DomainSize) -> Split:
    """Return tasks; test ids begin where MBPP's test part does, training ids where its training part does."""
    rng = random.Random(f"code:{SEED}:{size.num_facts}")
    coiner = Coiner(f"code:{SEED}")
    combiners = list(zip(coiner.words(len(_COMBINERS)), _COMBINERS, strict=True))
    expressions = [template.format(c=constant) for template in _TEMPLATES for constant in _CONSTANTS]
    operations = list(zip(coiner.words(size.num_facts), rng.sample(expressions, size.num_facts), strict=True))
    pairs = split_pairs(operations, operations, size.num_test, rng)
    train = [
        _record(FIRST_TRAIN_TASK_ID + index, rng.choice(combiners), first, then, rng)
        for index, (first, then) in enumerate(rng.choices(pairs.train, k=size.num_train))
    ]
    test = [
        _record(FIRST_TEST_TASK_ID + index, rng.choice(combiners), first, then, rng)
        for index, (first, then) in enumerate(pairs.test)
    ]
    return Split(train=tuple(train), test=tuple(test))


def _record(task_id: int, combine: _Operation, first: _Operation, then: _Operation, rng: random.Random) -> Record:
    code = f"def solve(a, b):\n    x = {combine[1]}\n    x = {first[1]}\n    return {then[1]}"
    return {
        "text": f"Write a function solve to {combine[0]} two numbers, then {first[0]}, then {then[0]} the result.",
        "code": code,
        "task_id": task_id,
        "test_setup_code": f"# {SYNTHETIC}",
        "test_list": _asserts(code, rng),
        "challenge_test_list": [],
    }


def _asserts(code: str, rng: random.Random) -> list[str]:
    """Return asserts that `code`, one of this module's own programs, passes; their results differ where they can."""
    scope: dict[str, Any] = {}
    exec(code, scope)
    solve = cast("Callable[[int, int], int]", scope["solve"])
    arguments = [(rng.randint(1, 20), rng.randint(1, 20)) for _ in range(NUM_DRAWN_ARGUMENTS)]
    by_result = {solve(a, b): (a, b) for a, b in arguments}
    chosen = [*by_result.values(), *arguments][:NUM_ASSERTS]
    return [f"assert solve({a}, {b}) == {solve(a, b)}" for a, b in chosen]
