"""Synthetic programming tasks with tests, as records of MBPP.

Every task chains two invented operations on a number. What an invented operation does is nowhere in the text: it has
to be learned; the held-out tasks chain operations that were never chained in training.
"""

import random
from collections.abc import Callable
from typing import Any, cast

from moe_ray.domains.example import Record
from moe_ray.microworld.lexicon import Coiner, split_pairs
from moe_ray.microworld.worlds import SEED, SYNTHETIC, DomainSize, WorldSplit

FIRST_TEST_TASK_ID = 11
FIRST_TRAIN_TASK_ID = 601
NUM_ASSERTS = 3
NUM_DRAWN_ARGUMENTS = 12

_TEMPLATES = ("x + {c}", "x - {c}", "{c} - x", "x * {c}", "x // {c}", "x % {c}", "abs(x - {c})", "x * x - {c}")
_CONSTANTS = range(2, 10)

_Operation = tuple[str, str]


def generate(size: DomainSize) -> WorldSplit:
    """Return tasks; test ids begin where MBPP's test part does, training ids where its training part does."""
    rng = random.Random(f"code:{SEED}:{size.num_facts}")
    coiner = Coiner(f"code:{SEED}")
    expressions = [template.format(c=constant) for template in _TEMPLATES for constant in _CONSTANTS]
    operations = [(word, rng.choice(expressions)) for word in coiner.words(size.num_facts)]
    pairs = split_pairs(operations, operations, size.num_test, rng)
    train = rng.choices(pairs.train, k=size.num_train)
    return WorldSplit(
        train=tuple(_record(FIRST_TRAIN_TASK_ID + index, pair, rng) for index, pair in enumerate(train)),
        test=tuple(_record(FIRST_TEST_TASK_ID + index, pair, rng) for index, pair in enumerate(pairs.test)),
    )


def _record(task_id: int, pair: tuple[_Operation, _Operation], rng: random.Random) -> Record:
    first, then = pair
    code = f"def solve(x):\n    x = {first[1]}\n    return {then[1]}"
    return {
        "text": f"write a function solve to {first[0]} and then {then[0]} a number.",
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
    solve = cast("Callable[[int], int]", scope["solve"])
    arguments = [rng.randint(-20, 40) for _ in range(NUM_DRAWN_ARGUMENTS)]
    by_result = {solve(argument): argument for argument in arguments}
    chosen = [*by_result.values(), *arguments][:NUM_ASSERTS]
    return [f"assert solve({argument}) == {solve(argument)}" for argument in chosen]
