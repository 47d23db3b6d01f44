"""Attacks that take time, memory, disk, threads or output without end."""

from tests.support.sandbox.attacks.attack import WRONG, attack, attempt

LOOP = "def f(x):\n    while True: pass\n"
ENDS = ("timeout",)
OR_TIME = (*WRONG, "timeout")

EXHAUSTING = (
    attack("endless loop", "run for ever in a call", LOOP, ENDS),
    attack("endless loop while loading", "run for ever before any call", "while True: pass", ENDS),
    attack("sleep", "take time without taking CPU", "import time\ndef f(x): time.sleep(1000)", ENDS),
    attack(
        "signals ignored",
        "outlive SIGTERM, SIGXCPU and all others",
        "import signal\nfor n in range(1, 65):\n    try: signal.signal(n, signal.SIG_IGN)\n"
        "    except (OSError, ValueError): pass\n" + LOOP,
        ENDS,
    ),
    attack(
        "signals blocked",
        "outlive signals by masking them",
        "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\n" + LOOP,
        ENDS,
    ),
    attack(
        "timer storm",
        "drown the process in alarms",
        "import signal\nsignal.signal(signal.SIGALRM, lambda *a: None)\n"
        "signal.setitimer(signal.ITIMER_REAL, 1e-6, 1e-6)\n" + LOOP,
        ENDS,
    ),
    attack(
        "stopped by itself",
        "stop, so that it never ends",
        "import os, signal\ndef f(x): os.kill(os.getpid(), signal.SIGSTOP)",
        ENDS,
    ),
    attack(
        "a loop inside C",
        "backtrack where no Python signal handler runs",
        "import re\ndef f(x): return re.match('(a+)+$', 'a' * 64 + 'b')",
        ENDS,
    ),
    attack(
        "an endless attribute",
        "loop when the result is looked at, not in the call",
        "class R:\n    @property\n    def __class__(self):\n        while True: pass\ndef f(x): return R()",
        ENDS,
    ),
    attack(
        "half an answer",
        "begin a reply and never finish it",
        "import os\ndef f(x):\n    for fd in range(3, 64):\n        try: os.write(fd, b'\\x10\\0\\0\\0l')\n"
        "        except OSError: pass\n    while True: pass",
        ENDS,
    ),
    attack(
        "colliding keys",
        "make the judge's dictionaries slow",
        "def f(x): return {k * (2 ** 61 - 1): 0 for k in range(30000)}",
        OR_TIME,
    ),
    attack("fork bomb", "fork for ever", "import os\nwhile True: os.fork()", ("error", "timeout"), ("processes",)),
    attack(
        "thread bomb",
        "start threads for ever",
        "import threading, time\nwhile True:\n"
        "    threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()",
        ("error", "memory", "timeout"),
        ("processes",),
    ),
    attack(
        "busy threads",
        "compute in the background of an honest-looking call",
        "import threading\ndef spin():\n    while True: pass\n"
        "def f(x):\n    threading.Thread(target=spin, daemon=True).start()\n    return 0",
        (*OR_TIME, "memory"),
    ),
    attack(
        "memory bomb",
        "double a list for ever",
        "def f(x):\n    a = [0]\n    while True: a += a",
        ("memory", "timeout"),
    ),
    attack("one large block", "ask for a tebibyte", "def f(x): return len(bytearray(1 << 40))", ("memory",)),
    attack("a huge number", "compute 10 ** 10 ** 10", "def f(x): return 10 ** 10 ** 10", ("memory", "timeout")),
    attempt(
        "memory without reserve",
        "map a tebibyte that is not counted until used",
        "import mmap\ndef attempt():\n    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000\n"
        "    return mmap.mmap(-1, 1 << 40, flags=flags) is not None\n",
        "memory",
    ),
    attempt(
        "limits raised",
        "set its own limits higher",
        "import resource\ndef attempt():\n    resource.setrlimit(resource.RLIMIT_AS, (1 << 42, 1 << 42))\n"
        "    return True\n",
        "processes",
    ),
    attack(
        "a decompression bomb",
        "grow from a few bytes",
        "import zlib\nbomb = zlib.compress(bytes(8 << 20))\n"
        "def f(x):\n    parts = []\n    while True: parts.append(zlib.decompress(bomb))",
        ("memory", "timeout"),
    ),
    attack("endless output", "print for ever", "while True: print('x' * 1000)", ("output_limit",)),
    attack("endless errors", "the same on stderr", "import sys\nwhile True: sys.stderr.write('x')", ("output_limit",)),
    attack(
        "huge result",
        "return 100 MiB",
        "def f(x): return 'x' * (100 << 20)",
        ("error", "output_limit", "memory", "timeout"),
    ),
    attack(
        "endless iterator",
        "return what never ends",
        "import itertools\ndef f(x): return itertools.count()",
        ("failed",),
    ),
    attempt(
        "descriptors exhausted",
        "open files until the machine has none left",
        "def attempt():\n    files = [open('/dev/null') for _ in range(5000)]\n    return len(files) == 5000\n",
    ),
    attempt(
        "pipes filled",
        "hold memory in pipes, which no memory limit counts",
        "import os\ndef attempt():\n    for _ in range(1000):\n        _, end = os.pipe()\n"
        "        os.set_blocking(end, False)\n        os.write(end, bytes(1 << 16))\n    return True\n",
    ),
    attempt(
        "filling the disk",
        "write files of a mebibyte without end",
        "def attempt():\n    for i in range(2000):\n        with open(f'@MARKER@-{i}', 'wb') as file:\n"
        "            file.write(bytes(1 << 20))\n    return True\n",
        "filesystem_writes",
    ),
    attempt(
        "filling the disk with deleted files",
        "hold space in files that have no name",
        "import os\nheld = []\ndef attempt():\n    for i in range(60):\n        held.append(open('@MARKER@', 'wb'))\n"
        "        os.unlink('@MARKER@')\n        held[-1].write(bytes(1 << 20))\n        held[-1].flush()\n"
        "    return True\n",
        "filesystem_writes",
    ),
    attempt(
        "a sparse file",
        "make a file of a tebibyte that takes no space yet",
        "import os\ndef attempt():\n    with open('@MARKER@', 'wb') as file:\n"
        "        os.truncate(file.fileno(), 1 << 40)\n    return True\n",
        "filesystem_writes",
    ),
    attack(
        "a deep tree of folders",
        "make folders in folders, which are hard to remove",
        "import os\ndef f(x):\n    while True:\n        os.mkdir('@MARKER@')\n        os.chdir('@MARKER@')",
        OR_TIME,
        ("filesystem_writes",),
    ),
    attack(
        "many empty files",
        "take the file system's entries instead of its space",
        "import itertools\ndef f(x):\n    for i in itertools.count(): open(f'@MARKER@-{i}', 'w').close()",
        OR_TIME,
        ("filesystem_writes",),
    ),
)
