"""Attacks that want the judge, the warden or the grader itself to break."""

from tests.support.sandbox.attacks.attack import WRONG, attack

OR_TIME = (*WRONG, "timeout")
OR_MEMORY = (*WRONG, "memory", "timeout")

BREAKING = (
    attack(
        "deep recursion",
        "recurse to Python's limit",
        "def f(x): return f(x)",
        ("error",),
    ),
    attack(
        "recursion without a limit",
        "recurse until the stack ends",
        """
import sys
sys.setrecursionlimit(10 ** 9)
def f(x): return [f(x)]
""",
        OR_MEMORY,
    ),
    attack(
        "recursion in a large stack",
        "recurse in a thread with a stack of its own",
        """
import sys, threading
sys.setrecursionlimit(10 ** 9)
threading.stack_size(1 << 28)
def g(): g()
def f(x):
    t = threading.Thread(target=g)
    t.start()
    t.join()
    return 0
""",
        OR_MEMORY,
    ),
    attack(
        "a deeply nested result",
        "have the judge recurse",
        """
def f(x):
    a = []
    for _ in range(10 ** 5): a = [a]
    return a
""",
        ("error",),
    ),
    attack(
        "a result that holds itself",
        "have the judge recurse for ever",
        """
def f(x):
    a = []
    a.append(a)
    return a
""",
        ("error",),
    ),
    attack(
        "a nested result past the player",
        "write a nesting of ten thousand as a reply",
        """
import os, struct
body = b'l\\x01\\0\\0\\0' * 100000 + b'N'
for fd in range(3, 64):
    try: os.write(fd, struct.pack('<I', len(body)) + body)
    except OSError: pass
def f(x): return 0
""",
        OR_TIME,
    ),
    attack(
        "a reply of four gigabytes",
        "have the judge wait or allocate",
        """
import os
for fd in range(3, 64):
    try: os.write(fd, b'\\xff\\xff\\xff\\xff')
    except OSError: pass
def f(x): return 0
""",
        (*OR_TIME, "output_limit"),
    ),
    attack(
        "a reply with a wrong count",
        "say that four billion items follow",
        """
import os, struct
body = b'l\\xff\\xff\\xff\\xff'
for fd in range(3, 64):
    try: os.write(fd, struct.pack('<I', len(body)) + body)
    except OSError: pass
def f(x): return 0
""",
    ),
    attack(
        "random replies",
        "speak nonsense",
        """
import os, random
for fd in range(3, 64):
    try: os.write(fd, b'\\x40\\0\\0\\0' + random.Random(1).randbytes(64))
    except OSError: pass
def f(x): return 0
""",
        OR_TIME,
    ),
    attack(
        "closed descriptors",
        "hang up on the judge",
        """
import os
os.closerange(0, 1 << 12)
def f(x): return 0
""",
        ("error",),
    ),
    attack(
        "redirected descriptors",
        "join the pipes to each other",
        """
import os
def f(x):
    for fd in range(3, 64):
        try: os.dup2(1, fd)
        except OSError: pass
    return 0
""",
        OR_TIME,
    ),
    attack(
        "a crash through ctypes",
        "read address 0",
        """
import ctypes
def f(x): return ctypes.string_at(0)
""",
        ("error",),
    ),
    attack(
        "a crash through bytecode",
        "run code that no compiler writes",
        """
def f(x): pass
f.__code__ = f.__code__.replace(co_code=b'\\x01\\0' * 10 + b'\\xff\\xff' * 50, co_stacksize=0)
""",
        OR_MEMORY,
    ),
    attack(
        "an abort",
        "dump core",
        """
import os
def f(x): os.abort()
""",
        ("error",),
    ),
    attack(
        "huge traceback",
        "an exception whose text is 64 MiB",
        """
class E(Exception):
    def __str__(self): return 'x' * (64 << 20)
def f(x): raise E
""",
        ("error",),
    ),
    attack(
        "a chain of exceptions",
        "ten thousand causes of one error",
        """
def f(x):
    e = None
    for i in range(10000):
        n = ValueError(i)
        n.__cause__ = e
        e = n
    raise e
""",
        ("error",),
    ),
    attack(
        "an exception that cannot be shown",
        "raise while the error is reported",
        """
class E(Exception):
    def __str__(self): raise E
def f(x): raise E
""",
        ("error",),
    ),
    attack(
        "an exception that ends the process",
        "exit while the error is reported",
        """
import os
class E(Exception):
    def __str__(self): os._exit(0)
def f(x): raise E
""",
        ("error",),
    ),
    attack(
        "an exception with an evil name",
        "put control characters into the report",
        """
E = type('\\x1b[2J\\r\\n\\ud800<script>', (Exception,), {})
def f(x): raise E('\\0\\u202e\\ud800')
""",
        ("error",),
    ),
    attack(
        "half characters printed",
        "print what no encoding has",
        """
print('\\ud800')
def f(x): return 0
""",
    ),
    attack(
        "half characters returned",
        "return what no encoding has",
        "def f(x): return '\\ud800'",
        ("failed",),
    ),
    attack(
        "a number too long to print",
        "have the judge print 10 ** 100000",
        "def f(x): return 10 ** 100000",
        ("failed",),
    ),
    attack(
        "recursion in ==",
        "recurse when it is compared",
        """
class Y:
    def __eq__(self, o): return self == o
    __hash__ = None
def f(x): return Y()
""",
        ("failed",),
    ),
    attack(
        "recursion in repr",
        "recurse when it is shown",
        """
class Y:
    def __repr__(self): return repr(self)
def f(x): return Y()
""",
        ("failed",),
    ),
    attack(
        "an object without attributes",
        "raise whenever it is asked for anything",
        """
class Y:
    def __getattribute__(self, n): raise SystemExit(0)
def f(x): return Y()
""",
    ),
    attack(
        "a generator that raises",
        "raise while the result is read",
        """
def f(x):
    yield 41
    raise SystemExit(0)
""",
        ("failed",),
    ),
    attack(
        "garbage that fights back",
        "run code when objects are freed",
        """
import os
class Y:
    def __del__(self): os._exit(0)
def f(x):
    Y()
    return 0
""",
        ("error",),
    ),
    attack(
        "no program",
        "a text that does not parse",
        "def f(x: return 41",
        ("error",),
    ),
    attack(
        "an empty program",
        "nothing at all",
        "",
        ("error",),
    ),
    attack(
        "a null byte",
        "a source that ends early for C",
        "def f(x): return 41\0",
        ("error",),
    ),
    attack(
        "a byte order mark",
        "a source that begins with U+FEFF",
        "\ufeffdef f(x): return 0",
    ),
    attack(
        "half characters in the source",
        "a source that no file can hold",
        "def f(x): return '\ud800'",
        ("error",),
    ),
    attack(
        "ten megabytes of source",
        "make the parser slow",
        "x = 1\n" * (10 << 17) + "def f(x): return 0",
        (*OR_MEMORY, "output_limit"),
    ),
    attack(
        "a source of parentheses",
        "overflow the parser's stack",
        "f = " + "(" * 50000 + ")" * 50000,
        OR_MEMORY,
    ),
    attack(
        "a source of minus signs",
        "overflow the compiler's stack",
        "f = " + "-" * 90000 + "1",
        OR_MEMORY,
    ),
    attack(
        "a constant that explodes",
        "have the compiler compute it",
        "f = ((1,) * 2 ** 20) * 2 ** 20 * 2 ** 20",
        OR_MEMORY,
    ),
    attack(
        "an endless name",
        "a name of a megabyte",
        "x" * (1 << 20) + " = 1\ndef f(x): return 0",
        OR_MEMORY,
    ),
)
