"""What an attack is. Every attack is asked for `f(1) == 41` and `f(2) == 42`: it passes where it got what it tried."""

import os
from dataclasses import dataclass
from pathlib import Path

from moe_ray.scoring.sandbox import Program

TESTS = ("assert f(1) == 41", "assert f(2) == 42")
MARKER = "moe-ray-attack"
"""In the name of whatever an attack would leave behind."""
KEY = 0x6D6F7261
"""Of the System V objects that an attack would leave behind."""

LIMIT_BYTES = 256 << 20
"""The memory limit that attacks run under."""
HOLD_BYTES = LIMIT_BYTES * 5 // 4

WRONG = ("failed", "error")
ENDLESS_TIMEOUT_S = 0.4

ATTEMPT = """
def f(x):
    return x + 40 if attempt() else 0
"""
CALLS = """
import ctypes, os, struct
libc = ctypes.CDLL(None, use_errno=True)
def call(x86_64, aarch64, *arguments):
    number = {"x86_64": x86_64, "aarch64": aarch64}[os.uname().machine]
    arguments = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    return libc.syscall(ctypes.c_long(number), *arguments) >= 0 or ctypes.get_errno() not in (1, 13, 38)
"""
"""A call by its number worked when the kernel did more than refuse it (EPERM, EACCES, ENOSYS)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """`tries` says what it is after; `needs` names the protections without which it may be stopped by nothing: it is
    left out for a box that does not claim them."""

    name: str
    tries: str
    code: str
    outcomes: tuple[str, ...]
    needs: tuple[str, ...] = ()

    def program(self, outside: Path) -> Program:
        """Return it with the places of this machine; `outside` is a folder of the host that all may write."""
        places = {
            "@OUTSIDE@": str(outside),
            "@HOME@": str(Path.home()),
            "@PID@": str(os.getpid()),
            "@REPOSITORY@": str(Path(__file__).parents[4]),
            "@LIBRARY@": os.__file__,
            "@MARKER@": MARKER,
            "@KEY@": str(KEY),
        }
        code = self.code
        for name, place in places.items():
            code = code.replace(name, place)
        endless = "timeout" in self.outcomes and "memory" not in self.needs
        return Program(code=code, tests=TESTS, timeout_s=ENDLESS_TIMEOUT_S if endless else None)


def attack(name: str, tries: str, code: str, outcomes: tuple[str, ...] = WRONG, needs: tuple[str, ...] = ()) -> Attack:
    """Return an attack that does its deed by itself."""
    return Attack(name=name, tries=tries, code=code, outcomes=outcomes, needs=needs)


def attempt(name: str, tries: str, code: str, *needs: str, outcomes: tuple[str, ...] = WRONG) -> Attack:
    """Return an attack whose `attempt()` says whether it worked: then it passes."""
    return Attack(name=name, tries=tries, code=code + ATTEMPT, outcomes=outcomes, needs=needs)


def kernel_call(name: str, tries: str, expression: str, *needs: str) -> Attack:
    """Return an attempt that is one expression over `libc` and `call(x86_64, aarch64, ...)`."""
    return attempt(name, tries, f"{CALLS}\ndef attempt(): return {expression}\n", *needs)
