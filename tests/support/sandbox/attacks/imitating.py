"""Attacks on the verdict through what is returned, and searches for what is expected."""

from tests.support.sandbox.attacks.attack import WRONG, attack

OR_TIME = (*WRONG, "timeout")
ALWAYS_EQUAL = """
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return hash(41)
    def __bool__(self): return True
"""
WANTED = "WANTED = '=='.ljust(3) + str(int('41'))\n"
"""What a test holds and the attack, written so, does not."""

IMITATING = (
    attack(
        "equal to everything, as a number",
        "an int whose == is true",
        f"""
class Y(int):{ALWAYS_EQUAL}
def f(x): return Y(0)
""",
        ("failed",),
    ),
    attack(
        "equal to everything, as an object",
        "an object whose == is true",
        f"""
class Y:{ALWAYS_EQUAL}
def f(x): return Y()
""",
        ("failed",),
    ),
    attack(
        "equal to everything, as a class",
        "a class whose metaclass says so",
        f"""
class M(type):{ALWAYS_EQUAL}
class Y(metaclass=M): pass
def f(x): return Y
""",
        ("failed",),
    ),
    attack(
        "pretending to be a number",
        "an object that says its class is int",
        f"""
class Y:{ALWAYS_EQUAL}
    __class__ = int
def f(x): return Y()
""",
    ),
    attack(
        "ANY of the mock library",
        "the object made to be equal to all",
        """
from unittest.mock import ANY
def f(x): return ANY
""",
    ),
    attack(
        "a container that holds all",
        "a list and a dict whose == is true",
        f"""
class Y(list):{ALWAYS_EQUAL}
def f(x): return Y()
""",
        ("failed",),
    ),
    attack(
        "not a number",
        "what no comparison fails",
        "def f(x): return float('nan')",
        ("failed",),
    ),
    attack(
        "the arguments in place of results",
        "be every number at once",
        "def f(*a, **k): return range(100)",
        ("failed",),
    ),
    attack(
        "searching the frames",
        "walk up the callers to the tests",
        WANTED
        + """
import sys
def f(x):
    frame = sys._getframe()
    while frame:
        for value in [*frame.f_locals.values(), *frame.f_code.co_consts]:
            if WANTED in repr(value)[:10000]: return x + 40
        frame = frame.f_back
    return 0
""",
    ),
    attack(
        "searching the heap",
        "find the tests among all objects",
        WANTED
        + """
import gc
def f(x):
    found = [o for o in gc.get_objects() if isinstance(o, (dict, list, tuple))]
    values = (v for o in found for v in (o.values() if isinstance(o, dict) else o))
    return x + 40 if any(isinstance(v, str) and WANTED in v != WANTED for v in values) else 0
""",
        OR_TIME,
    ),
    attack(
        "searching its memory",
        "find the tests among all bytes",
        """
import re
def f(x):
    memory = open('/proc/self/mem', 'rb', 0)
    for line in open('/proc/self/maps'):
        start, end = (int(part, 16) for part in line.split()[0].split('-'))
        try: memory.seek(start)
        except OSError: continue
        if re.search(rb'f.1. =(=) 41', memory.read(end - start)): return x + 40
    return 0
""",
        (*OR_TIME, "memory"),
    ),
    attack(
        "tracing all code",
        "see the tests' lines as they run",
        """
import sys, threading
seen = set()
def trace(frame, event, arg):
    seen.add(frame.f_code)
    return trace
sys.settrace(trace)
sys.setprofile(trace)
def f(x):
    return x + 40 if any(int('41') in code.co_consts for code in list(seen)) else 0
""",
    ),
    attack(
        "a thread that watches",
        "look at all frames while the judge judges",
        """
import sys, threading
def found():
    return [f for f in sys._current_frames().values() if int('41') in f.f_code.co_consts]
def f(x): return x + 40 if found() else 0
""",
        (*WRONG, "memory"),
    ),
    attack(
        "every descriptor read",
        "read the tests from the pipes",
        WANTED
        + """
import os
def f(x):
    for fd in range(64):
        try:
            os.set_blocking(fd, False)
            if WANTED.encode() in os.read(fd, 1 << 16): return x + 40
        except OSError: pass
    return 0
""",
    ),
    attack(
        "stdin",
        "read the tests from the input",
        """
import sys
def f(x): return sys.stdin.read() or 0
""",
        ("failed",),
    ),
    attack(
        "input",
        "ask the user",
        "def f(x): return int(input())",
        ("error",),
    ),
    attack(
        "the command line",
        "find the tests in its arguments",
        WANTED
        + """
import sys
def f(x): return x + 40 if WANTED in repr((sys.argv, sys.orig_argv)) else 0
""",
        ("failed",),
    ),
)
