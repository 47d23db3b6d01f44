"""Attacks on the verdict through exits, output, the channels and the interpreter."""

from tests.support.sandbox.attacks.attack import WRONG, attack

OR_TIME = (*WRONG, "timeout")
ALWAYS_EQUAL = """
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return hash(41)
    def __bool__(self): return True
"""

FORGING = (
    attack(
        "exit 0 early",
        "end well before the first test",
        "raise SystemExit(0)",
        ("error",),
    ),
    attack(
        "exit 0 in a call",
        "end well in the first test",
        """
import sys
def f(x): sys.exit(0)
""",
        ("error",),
    ),
    attack(
        "os._exit(0) early",
        "the same without clean-up",
        """
import os
os._exit(0)
""",
        ("error",),
    ),
    attack(
        "os._exit(0) in a call",
        "the same in a call",
        """
import os
def f(x): os._exit(0)
""",
        ("error",),
    ),
    attack(
        "exit from a thread",
        "end while the judge waits",
        """
import os, threading
def f(x):
    threading.Timer(0.01, os._exit, (0,)).start()
    while True: pass
""",
        ("error", "timeout"),
    ),
    attack(
        "exit handlers",
        "end well when it is ended",
        """
import atexit, os
atexit.register(os._exit, 0)
def f(x): raise SystemExit(0)
""",
        ("error",),
    ),
    attack(
        "quit",
        "end through the site's builtins",
        "def f(x): quit()",
        ("error",),
    ),
    *(
        attack(f"raising {name}", "slip past handlers of Exception", f"def f(x): raise {name}", ("error",))
        for name in ("KeyboardInterrupt", "GeneratorExit", "StopIteration", "AssertionError")
    ),
    attack(
        "raising a base exception of its own",
        "the same with an unknown class",
        """
class E(BaseException): pass
def f(x): raise E
""",
        ("error",),
    ),
    attack(
        "a signal to itself",
        "die of SIGTERM, as if it was stopped",
        """
import os
def f(x): os.kill(os.getpid(), 15)
""",
        ("error",),
    ),
    attack(
        "printing success",
        "print what passing runs print",
        """
print('passed', 'PASSED', 'OK', 'Ran 2 tests', '1 passed in 0.01s', '{"passed": true}', sep='\\n')
def f(x): return 0
""",
        ("failed",),
    ),
    attack(
        "markers on every descriptor",
        "write success wherever it can",
        """
import os
def f(x):
    for fd in range(64):
        for text in (b'passed', b'PASSED\\n', b'l\\x02\\0\\0\\0'):
            try: os.write(fd, text)
            except OSError: pass
    return 0
""",
        (*WRONG, "output_limit"),
    ),
    attack(
        "a forged verdict on every descriptor",
        "write the very bytes of a passing verdict",
        """
import os, struct
def frame(*texts):
    items = b''.join(b's' + struct.pack('<I', len(t)) + t for t in texts)
    data = b't' + struct.pack('<I', len(texts)) + items
    return struct.pack('<I', len(data)) + data
def f(x):
    for fd in range(64):
        try: os.write(fd, frame(b'passed', b''))
        except OSError: pass
    return 0
""",
    ),
    attack(
        "replies in advance",
        "answer every question before it is asked",
        """
import os, struct
def text(t): return b's' + struct.pack('<I', len(t)) + t
body = b't' + struct.pack('<I', 2) + text(b'value') + b'T'
for fd in range(3, 64):
    try: os.write(fd, (struct.pack('<I', len(body)) + body) * 50)
    except OSError: pass
def f(x): return True
""",
    ),
    attack(
        "a pickle as a reply",
        "have the judge unpickle a command",
        """
import os, pickle, struct
class E:
    def __reduce__(self): return os._exit, (0,)
data = pickle.dumps(E())
for fd in range(3, 64):
    try: os.write(fd, struct.pack('<I', len(data)) + data)
    except OSError: pass
def f(x): return E()
""",
    ),
    attack(
        "code as a reply",
        "have the judge unmarshal code",
        """
import marshal
def f(x): return marshal.dumps(compile('1', '', 'eval'))
""",
        ("failed",),
    ),
    attack(
        "code in place of code",
        "return a code object",
        "def f(x): return f.__code__",
        ("failed",),
    ),
    attack(
        "a module as a reply",
        "have the judge import what acts on import",
        """
import sys, types
def f(x): return types.ModuleType('test.autotest')
""",
        OR_TIME,
    ),
    attack(
        "patched builtins",
        "replace what the tests call",
        f"""
import builtins
class Yes:{ALWAYS_EQUAL}
builtins.AssertionError = Yes
builtins.abs = builtins.sorted = builtins.all = builtins.isinstance = lambda *a, **k: Yes()
def f(x): return Yes()
""",
    ),
    attack(
        "no builtins",
        "leave the interpreter without them",
        """
import builtins
def f(x):
    vars(builtins).clear()
    return 0
""",
        OR_TIME,
    ),
    attack(
        "builtins set to None",
        "the same through its module",
        """
__builtins__ = None
def f(x): return 0
""",
        ("failed",),
    ),
    attack(
        "asserts switched off",
        "pretend that Python runs with -O",
        """
import sys
class Flags: optimize = 2
sys.flags = Flags()
try: __debug__ = False
except: pass
def f(x): return 0
""",
    ),
    attack(
        "no asserts by recompiling",
        "switch asserts off by optimisation",
        """
import builtins
real = builtins.compile
builtins.compile = lambda *a, **k: real(*a, **{**k, 'optimize': 2})
def f(x): return 0
""",
        ("failed",),
    ),
    attack(
        "patching what runs it",
        "replace every function that sends, judges or encodes",
        """
import sys, gc
for module in list(sys.modules.values()):
    for name in ('receive', 'send', 'encode', 'judge', '_run_test', '_verdict', 'watch', 'end'):
        if hasattr(module, name): setattr(module, name, lambda *a, **k: ('passed', ''))
def f(x): return 0
""",
        OR_TIME,
    ),
    attack(
        "being the judge",
        "run the judge's own code with a job that passes",
        """
import os, sys
def f(x):
    guest = sys.modules['moe_ray.scoring.sandbox.guest']
    data = guest.wire.encode(('passed', '', 0.0))
    for fd in range(64):
        try: guest.wire.send(fd, data)
        except Exception: pass
    return 0
""",
    ),
    attack(
        "an import hook",
        "change what the tests import",
        """
import sys
class Hook:
    @staticmethod
    def find_spec(*a): return None
sys.meta_path[:] = [Hook]
sys.modules.clear()
def f(x): return 0
""",
        OR_TIME,
    ),
)
