"""Programs that try to hold more memory than their limit, each in one way that a limit may not count.

`blocked()` of each is true when the machine refused. A program that was killed for its memory was blocked too.
"""

from pathlib import Path

HUGE_SIZE = Path("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size")
PROBE_BYTES = 128 << 20
"""The limit of the programs, unless the configured one is smaller. Each tries to hold 1.25 times as much."""
NUM_TRIES = 3
"""A warden that the machine delays may stop a program late. A way that is open stays open."""

PRELUDE = """
import ctypes, mmap, os, resource, struct
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
for function in (libc.munmap, libc.madvise):
    function.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * (function is libc.madvise)
HOLD, PAGE, HUGE, BLOCK = {hold_bytes}, mmap.PAGESIZE, {huge_bytes}, 8 << 20
kept = []
def checked(result):
    if result in (-1, None, 2 ** 64 - 1):
        raise OSError("refused")
    return result
def private(size, address=None):
    return checked(libc.mmap(address, size, 3, 0x22, -1, 0))
def huge():
    address = private(2 * HUGE)
    start = -(-address // HUGE) * HUGE
    libc.prctl(41, 0, 0, 0, 0)
    checked(libc.madvise(start, HUGE, 14))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for offset in range(0, HUGE, PAGE):
        ctypes.memset(start + offset, 1, 1)
    if resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before > HUGE // PAGE // 2:
        raise OSError("small pages")
    return address, start
"""

ATTEMPT = """
def blocked():
    try:
        for _ in range(0, HOLD, {size}):
            hold()
    except (OSError, MemoryError, ValueError, AttributeError):
        return True
    return False
"""

HOLDS: dict[str, tuple[str, str]] = {
    "private memory": ("BLOCK", "kept.append(bytearray(b'x') * BLOCK)"),
    "shared memory": (
        "BLOCK",
        "memory = mmap.mmap(-1, BLOCK)\nmemory.write(bytes(BLOCK))\nmemory.resize(PAGE)\nkept.append(memory)",
    ),
    "shared memory of a device": (
        "BLOCK",
        "with open('/dev/zero', 'r+b') as file:\n    memory = mmap.mmap(file.fileno(), BLOCK)\n"
        "memory.write(bytes(BLOCK))\nmemory.resize(PAGE)\nkept.append(memory)",
    ),
    "memory files": ("BLOCK", "kept.append(os.memfd_create('probe'))\nos.write(kept[-1], bytes(BLOCK))"),
    "files in memory": (
        "1 << 20",
        "kept.append(os.open('/dev/shm', os.O_TMPFILE | os.O_RDWR))\nos.write(kept[-1], bytes(1 << 20))",
    ),
    "files in the scratch": (
        "1 << 20",
        "kept.append(1)\nwith open(f'probe-{len(kept)}', 'wb') as file: file.write(bytes(1 << 20))",
    ),
    "huge pages": (
        "HUGE",
        "address, start = huge()\nchecked(libc.munmap(address, start + HUGE - PAGE - address))\n"
        "checked(libc.munmap(start + HUGE, address + HUGE - start))",
    ),
    "pages in pipes": (
        "HUGE",
        "kept.append(kept[-1] if len(kept) % 16 else os.pipe())\naddress, start = huge()\n"
        "checked(libc.vmsplice(kept[-1][1], struct.pack('PQ', start, PAGE), ctypes.c_size_t(1), 0))\n"
        "checked(libc.munmap(address, 2 * HUGE))",
    ),
    "page tables": (
        "12 * PAGE",
        "for _ in range(4):\n    kept.append(1)\n    ctypes.memset(private(PAGE, (len(kept) + 1) << 31), 1, 1)",
    ),
    "System V memory": (
        "BLOCK",
        "segment = checked(libc.shmget(0, BLOCK, 0o1600))\nlibc.shmat.restype = ctypes.c_void_p\n"
        "address = checked(libc.shmat(segment, None, 0))\nchecked(libc.shmctl(segment, 0, None))\n"
        "ctypes.memset(address, 1, BLOCK)\nchecked(libc.munmap(address + PAGE, BLOCK - PAGE))",
    ),
    "buffers of sockets": (
        "100 << 10",
        "import socket\nkept.append(socket.socketpair())\nkept[-1][0].setblocking(False)\n"
        "kept[-1][0].send(bytes(100 << 10))",
    ),
    "child processes": (
        "BLOCK",
        "import time\nif os.fork() == 0:\n    block = bytearray(b'x') * BLOCK\n    time.sleep(0.5)\n    os._exit(0)",
    ),
}


def memory_programs(limit_bytes: int) -> dict[str, str]:
    """Return the programs by what they try to hold, for a box of this limit."""
    prelude = PRELUDE.replace("{hold_bytes}", str(limit_bytes * 5 // 4)).replace("{huge_bytes}", str(_huge_bytes()))
    return {
        name: f"{prelude}def hold():\n{_indented(body)}\n{ATTEMPT.replace('{size}', size)}"
        for name, (size, body) in HOLDS.items()
    }


def _huge_bytes() -> int:
    """Return the size of a huge page: 2 MiB, or more where ordinary pages are larger than 4 KiB."""
    try:
        return int(HUGE_SIZE.read_text())
    except (OSError, ValueError):
        return 2 << 20


def _indented(body: str) -> str:
    return "\n".join(f"    {line}" for line in body.split("\n"))
