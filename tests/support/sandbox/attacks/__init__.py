"""Attacks on the sandbox, as data."""

from tests.support.sandbox.attacks.attack import Attack
from tests.support.sandbox.attacks.breaking import BREAKING
from tests.support.sandbox.attacks.exhausting import EXHAUSTING
from tests.support.sandbox.attacks.forging import FORGING
from tests.support.sandbox.attacks.imitating import IMITATING
from tests.support.sandbox.attacks.kernel import SHARED
from tests.support.sandbox.attacks.memory import MEMORY
from tests.support.sandbox.attacks.outside import OUTSIDE
from tests.support.sandbox.attacks.processes import PROCESSES

GROUPS: dict[str, tuple[Attack, ...]] = {
    "Running for ever, filling up": EXHAUSTING,
    "Memory that no process's limit counts": MEMORY,
    "Other processes, the kernel": PROCESSES,
    "What all processes share": SHARED,
    "Files, network, what is left behind": OUTSIDE,
    "Forging the verdict": FORGING,
    "Looking right, looking for the tests": IMITATING,
    "Breaking what judges": BREAKING,
}
ATTACKS: tuple[Attack, ...] = tuple(attack for group in GROUPS.values() for attack in group)

__all__ = ["ATTACKS", "GROUPS", "Attack"]
