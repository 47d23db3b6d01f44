"""Attacks on the sandbox, as data: what a hostile program does, and how it may end.

Every attack is asked for `f(1) == 41` and knows nothing of 41. `needs` names the protections without which the
attack may be harmless only by its limits; it is then left out for a box that lacks them.
"""

from dataclasses import dataclass

TESTS = ("assert f(1) == 41", "assert f(2) == 42")


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """`{outside}` in the code is a folder of the host that all may write; `{pid}` the host process."""

    name: str
    code: str
    outcomes: tuple[str, ...]
    needs: tuple[str, ...] = ()


ATTACKS = (
    Attack(name="endless loop", code="def f(x):\n    while True: pass", outcomes=("timeout",)),
    Attack(name="endless loop while loading", code="while True: pass", outcomes=("timeout",)),
    Attack(name="sleep", code="import time\ndef f(x): time.sleep(1000)", outcomes=("timeout",)),
    Attack(
        name="signals ignored",
        code="""
import signal
for n in range(1, 65):
    try: signal.signal(n, signal.SIG_IGN)
    except (OSError, ValueError): pass
def f(x):
    while True: pass
""",
        outcomes=("timeout",),
    ),
    Attack(
        name="fork bomb",
        code="import os\nwhile True:\n    os.fork()",
        outcomes=("error", "timeout"),
        needs=("processes",),
    ),
    Attack(
        name="thread bomb",
        code="""
import threading, time
while True:
    threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
""",
        outcomes=("error", "memory", "timeout"),
        needs=("processes",),
    ),
    Attack(
        name="daemon left behind",
        code="""
import os, time
def f(x):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(2)
            open({outside!r} + "/daemon", "w").close()
        os._exit(0)
    return 0
""",
        outcomes=("failed", "error"),
    ),
    Attack(
        name="another program",
        code="import subprocess\ndef f(x): return int(subprocess.check_output(['echo', '41']))",
        outcomes=("error",),
        needs=("processes",),
    ),
    Attack(name="memory bomb", code="def f(x):\n    a = [0]\n    while True: a += a", outcomes=("memory", "timeout")),
    Attack(name="one large block", code="def f(x): return len(bytearray(1 << 40))", outcomes=("memory",)),
    Attack(name="a huge number", code="def f(x): return 10 ** 10 ** 10", outcomes=("memory", "timeout")),
    Attack(name="endless output", code="while True: print('x' * 1000)", outcomes=("output_limit",)),
    Attack(name="endless errors", code="import sys\nwhile True: sys.stderr.write('x')", outcomes=("output_limit",)),
    Attack(
        name="huge result",
        code="def f(x): return 'x' * (100 << 20)",
        outcomes=("error", "output_limit", "memory", "timeout"),
    ),
    Attack(name="endless iterator", code="import itertools\ndef f(x): return itertools.count()", outcomes=("failed",)),
    Attack(
        name="writing outside",
        code="def f(x):\n    open({outside!r} + '/written', 'w').write('x')\n    return 0",
        outcomes=("error",),
        needs=("filesystem_writes",),
    ),
    Attack(
        name="writing through a link",
        code="""
import os
def f(x):
    os.symlink({outside!r}, "link")
    open("link/written", "w").write("x")
""",
        outcomes=("error",),
        needs=("filesystem_writes",),
    ),
    Attack(
        name="filling the disk",
        code="""
def f(x):
    for i in range(100000):
        with open(f"file{{i}}", "wb") as file: file.write(bytes(1 << 20))
""",
        outcomes=("error",),
        needs=("filesystem_writes",),
    ),
    Attack(
        name="reading the home",
        code="import os\ndef f(x): return os.listdir({home!r})",
        outcomes=("error",),
        needs=("filesystem_reads",),
    ),
    Attack(
        name="reading the host's environment",
        code="def f(x): return open('/proc/{pid}/environ').read()",
        outcomes=("error",),
        needs=("environment",),
    ),
    Attack(
        name="reading the judge's memory",
        code="import os\ndef f(x): return open(f'/proc/{{os.getpid() + 1}}/mem', 'rb').read(1)",
        outcomes=("error",),
    ),
    *(
        Attack(
            name=f"socket {family}",
            code=f"import socket\ndef f(x): return socket.socket(socket.{family}, socket.SOCK_{kind}).fileno()",
            outcomes=("error",),
            needs=("network",),
        )
        for family, kind in (("AF_INET", "STREAM"), ("AF_INET6", "DGRAM"), ("AF_UNIX", "STREAM"), ("AF_NETLINK", "RAW"))
    ),
    Attack(
        name="killing the parent",
        code="import os, signal\ndef f(x):\n    os.kill(os.getppid(), signal.SIGKILL)\n    return 0",
        outcomes=("error",),
    ),
    Attack(
        name="killing everything",
        code="import os, signal\ndef f(x):\n    os.kill(-1, signal.SIGKILL)\n    return 0",
        outcomes=("error", "failed"),
        needs=("processes",),
    ),
    Attack(
        name="tracing the parent",
        code="""
import ctypes, os
def f(x):
    return ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0) == 0 and 41
""",
        outcomes=("failed",),
        needs=("processes",),
    ),
    Attack(name="exit 0 early", code="raise SystemExit(0)", outcomes=("error",)),
    Attack(name="exit 0 in a call", code="import sys\ndef f(x): sys.exit(0)", outcomes=("error",)),
    Attack(name="os._exit(0) early", code="import os\nos._exit(0)", outcomes=("error",)),
    Attack(name="os._exit(0) in a call", code="import os\ndef f(x): os._exit(0)", outcomes=("error",)),
    Attack(
        name="exit handlers",
        code="import atexit, os\natexit.register(os._exit, 0)\ndef f(x): raise SystemExit(0)",
        outcomes=("error",),
    ),
    Attack(
        name="markers on every descriptor",
        code="""
import os
def f(x):
    for fd in range(64):
        for text in (b"passed", b"PASSED\\n", b"l\\x02\\x00\\x00\\x00"):
            try: os.write(fd, text)
            except OSError: pass
    return 0
""",
        outcomes=("failed", "error", "output_limit"),
    ),
    Attack(
        name="a forged verdict on every descriptor",
        code="""
import os, struct
def frame(*texts):
    items = b"".join(b"s" + struct.pack("<I", len(t)) + t for t in texts)
    data = b"t" + struct.pack("<I", len(texts)) + items
    return struct.pack("<I", len(data)) + data
def f(x):
    for fd in range(64):
        try: os.write(fd, frame(b"passed", b""))
        except OSError: pass
    return 0
""",
        outcomes=("failed", "error"),
    ),
    Attack(
        name="patched builtins",
        code="""
import builtins, sys
class Yes:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __bool__(self): return True
builtins.AssertionError = Yes
builtins.abs = builtins.sorted = builtins.all = lambda *a, **k: Yes()
def f(x): return Yes()
""",
        outcomes=("failed",),
    ),
    Attack(
        name="equal to everything",
        code="class Y(int):\n    def __eq__(self, o): return True\n    __hash__ = int.__hash__\ndef f(x): return Y(0)",
        outcomes=("failed",),
    ),
    Attack(
        name="patching the result channel",
        code="""
import os, sys, gc
for module in list(sys.modules.values()):
    for name in ("receive", "send", "encode", "judge", "_run_test", "_verdict"):
        if hasattr(module, name): setattr(module, name, lambda *a, **k: ("passed", ""))
def f(x): return 0
""",
        outcomes=("error", "failed", "timeout"),
    ),
    Attack(
        name="searching the frames and the heap for the tests",
        code="""
import gc, sys
def f(x):
    frame = sys._getframe()
    while frame:
        for value in frame.f_locals.values():
            if "== 4" + "1" in repr(value)[:10000]: return 41
        frame = frame.f_back
    found = [o for o in gc.get_objects() if isinstance(o, dict) and "tests" in o]
    return 41 if any("f(1) =" in repr(o) for o in found) else 0
""",
        outcomes=("failed", "error"),
    ),
    Attack(name="stdin", code="import sys\ndef f(x): return sys.stdin.read() or 0", outcomes=("failed",)),
    Attack(name="input", code="def f(x): return int(input())", outcomes=("error",)),
    Attack(name="deep recursion", code="def f(x): return f(x)", outcomes=("error",)),
    Attack(
        name="recursion without a limit",
        code="import sys\nsys.setrecursionlimit(10 ** 9)\ndef f(x): return [f(x)]",
        outcomes=("error", "memory", "timeout"),
    ),
    Attack(
        name="a deeply nested result",
        code="def f(x):\n    a = []\n    for _ in range(10 ** 5): a = [a]\n    return a",
        outcomes=("error",),
    ),
    Attack(
        name="a crash through ctypes",
        code="import ctypes\ndef f(x): return ctypes.string_at(0)",
        outcomes=("error",),
    ),
    Attack(
        name="huge traceback",
        code="class E(Exception):\n    def __str__(self): return 'x' * (64 << 20)\ndef f(x): raise E",
        outcomes=("error",),
    ),
    Attack(
        name="an exception that cannot be shown",
        code="import os\nclass E(Exception):\n    def __str__(self): raise E\ndef f(x): raise E",
        outcomes=("error",),
    ),
    Attack(name="no program", code="def f(x: return 41", outcomes=("error",)),
    Attack(name="a null byte", code="def f(x): return 41\0", outcomes=("error",)),
)
