"""Attacks on the memory limit: ways to hold memory that RLIMIT_AS does not count, or that no process is charged for.

Each tries to hold HOLD_BYTES, which is 1.25 times the limit of the tests, and passes only when it holds them all.
"""

from tests.support.sandbox.attacks.attack import CALLS, HOLD_BYTES, WRONG, Attack, attack, attempt

OUTCOMES = (*WRONG, "memory", "timeout")

MAPPING = (
    CALLS
    + f"HOLD = {HOLD_BYTES}\n"
    + """
PAGE, HUGE, MEGABYTE, NONE, READ, WRITE = 4096, 2 << 20, 1 << 20, 0, 1, 2
SHARED, PRIVATE, FIXED, ANONYMOUS, POPULATE, HUGETLB = 1, 2, 16, 32, 32768, 262144
libc.mmap.restype = libc.mremap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
def checked(result):
    if result in (-1, None, 2 ** 64 - 1):
        raise OSError(ctypes.get_errno(), "refused")
    return result
def mapped(size, flags, address=None, fd=-1, protection=READ | WRITE):
    return checked(libc.mmap(address, size, protection, flags, fd, 0))
def touched(address, size, step=PAGE):
    for offset in range(0, size, step): ctypes.memset(address + offset, 1, 1)
def left(address, size):
    checked(libc.munmap(address + PAGE, size - PAGE))
def huge():
    address = mapped(2 * HUGE, PRIVATE | ANONYMOUS)
    libc.prctl(41, 0, 0, 0, 0)
    return address, -(-address // HUGE) * HUGE
def left_of_huge(address, start):
    checked(libc.munmap(address, start + HUGE - PAGE - address))
    checked(libc.munmap(start + HUGE, address + HUGE - start))
def numbered(x86_64, aarch64, *arguments):
    return checked(libc.syscall(ctypes.c_long({"x86_64": x86_64, "aarch64": aarch64}[os.uname().machine]), *arguments))
kept = []
"""
)


def _holds(name: str, tries: str, size: str, body: str) -> Attack:
    """Return an attack whose `hold()` is called until HOLD_BYTES are held, `size` bytes a call."""
    code = f"{MAPPING}def hold():\n{_indented(body)}\ndef attempt():\n    for _ in range(HOLD // ({size})): hold()\n"
    return attempt(name, tries, f"{code}    return True\n", "memory", outcomes=OUTCOMES)


def _indented(body: str) -> str:
    return "\n".join(f"    {line}" for line in body.strip("\n").split("\n"))


PAGES = (
    _holds(
        "shared memory made smaller",
        "map shared memory, fill it, and shrink the mapping: the pages stay and are not counted",
        "32 * MEGABYTE",
        "import mmap\nmemory = mmap.mmap(-1, 32 * MEGABYTE)\nmemory.write(bytes(32 * MEGABYTE))\n"
        "memory.resize(PAGE)\nkept.append(memory)",
    ),
    _holds(
        "shared memory unmapped but for a page",
        "the same by munmap",
        "32 * MEGABYTE",
        "address = mapped(32 * MEGABYTE, SHARED | ANONYMOUS)\nctypes.memset(address, 1, 32 * MEGABYTE)\n"
        "left(address, 32 * MEGABYTE)",
    ),
    _holds(
        "shared memory by the newer flag",
        "the same with MAP_SHARED_VALIDATE",
        "32 * MEGABYTE",
        "address = mapped(32 * MEGABYTE, 3 | ANONYMOUS)\nctypes.memset(address, 1, 32 * MEGABYTE)\n"
        "left(address, 32 * MEGABYTE)",
    ),
    _holds(
        "shared memory of /dev/zero",
        "the same by mapping the device",
        "32 * MEGABYTE",
        "fd = os.open('/dev/zero', os.O_RDWR)\naddress = mapped(32 * MEGABYTE, SHARED, fd=fd)\nos.close(fd)\n"
        "ctypes.memset(address, 1, 32 * MEGABYTE)\nleft(address, 32 * MEGABYTE)",
    ),
    _holds(
        "a memory file",
        "write into memory files that are not mapped",
        "32 * MEGABYTE",
        "fd = os.memfd_create('@MARKER@')\nkept.append(fd)\nos.write(fd, bytes(32 * MEGABYTE))",
    ),
    _holds(
        "a secret memory file",
        "the same by memfd_secret",
        "32 * MEGABYTE",
        "fd = checked(libc.syscall(ctypes.c_long(447), 0))\nos.ftruncate(fd, 32 * MEGABYTE)\n"
        "touched(mapped(32 * MEGABYTE, SHARED, fd=fd), 32 * MEGABYTE)",
    ),
    _holds(
        "System V memory",
        "fill segments and detach them",
        "32 * MEGABYTE",
        "libc.shmat.restype = ctypes.c_void_p\nlibc.shmdt.argtypes = [ctypes.c_void_p]\n"
        "segment = checked(libc.shmget(0, 32 * MEGABYTE, 0o1600))\naddress = checked(libc.shmat(segment, None, 0))\n"
        "ctypes.memset(address, 1, 32 * MEGABYTE)\nchecked(libc.shmdt(address))",
    ),
    _holds(
        "files in shared memory",
        "write files of a mebibyte into /dev/shm",
        "MEGABYTE",
        "name = f'/dev/shm/@MARKER@-{len(kept)}'\nkept.append(open(name, 'wb'))\nos.unlink(name)\n"
        "kept[-1].write(bytes(MEGABYTE))\nkept[-1].flush()",
    ),
    _holds(
        "files in /tmp",
        "write files of a mebibyte into /tmp, which is often memory",
        "MEGABYTE",
        "name = f'/tmp/@MARKER@-{len(kept)}'\nkept.append(open(name, 'wb'))\nos.unlink(name)\n"
        "kept[-1].write(bytes(MEGABYTE))\nkept[-1].flush()",
    ),
    _holds(
        "files in the scratch",
        "fill the scratch, which is memory",
        "MEGABYTE",
        "kept.append(1)\nwith open(f'@MARKER@-{len(kept)}', 'wb') as file:\n    file.write(bytes(MEGABYTE))",
    ),
    _holds(
        "space reserved in the scratch",
        "allocate space of files beyond their end",
        "MEGABYTE",
        "kept.append(1)\nwith open(f'@MARKER@-{len(kept)}', 'wb') as file:\n"
        "    checked(libc.fallocate(file.fileno(), 1, ctypes.c_long(0), ctypes.c_long(MEGABYTE)))",
    ),
    _holds(
        "mapped files of the scratch",
        "fill sparse files through shared mappings",
        "MEGABYTE",
        "kept.append(1)\nwith open(f'@MARKER@-{len(kept)}', 'w+b') as file:\n    file.truncate(MEGABYTE)\n"
        "    address = mapped(MEGABYTE, SHARED, fd=file.fileno())\n    touched(address, MEGABYTE)\n"
        "    checked(libc.munmap(address, MEGABYTE))",
    ),
    _holds(
        "huge pages unmapped but for a page",
        "keep 4 KiB of each huge page: the whole page stays and is not counted",
        "HUGE",
        "import resource\nfaults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "address, start = huge()\n"
        "checked(libc.madvise(start, HUGE, 14))\nbefore = faults()\ntouched(start, HUGE)\n"
        "assert faults() - before < 256, 'small pages'\nleft_of_huge(address, start)",
    ),
    _holds(
        "huge pages made of small ones",
        "the same by MADV_COLLAPSE",
        "HUGE",
        "address, start = huge()\ntouched(start, HUGE)\n"
        "checked(libc.madvise(start, HUGE, 25))\nleft_of_huge(address, start)",
    ),
    _holds(
        "reserved huge pages",
        "map what the machine keeps in reserve",
        "HUGE",
        "touched(mapped(HUGE, PRIVATE | ANONYMOUS | HUGETLB), HUGE)",
    ),
    _holds(
        "huge pages in pipes",
        "vmsplice a page of each huge page and unmap it",
        "HUGE",
        "if len(kept) % 16 == 0: pipe = os.pipe()\nelse: pipe = kept[-1]\nkept.append(pipe)\n"
        "address, start = huge()\nlibc.madvise(start, HUGE, 14)\ntouched(start, HUGE)\n"
        "checked(libc.vmsplice(pipe[1], struct.pack('PQ', start, PAGE), ctypes.c_size_t(1), 0))\n"
        "checked(libc.munmap(address, 2 * HUGE))",
    ),
    _holds(
        "locked memory",
        "lock it, so that it can never be swapped",
        "MEGABYTE",
        "checked(libc.mlock2(ctypes.c_void_p(mapped(MEGABYTE, PRIVATE | ANONYMOUS)), ctypes.c_size_t(MEGABYTE), 0))",
    ),
    _holds(
        "forked children",
        "have every child fill its own limit",
        "32 * MEGABYTE",
        "if os.fork() == 0:\n    block = bytearray(32 * MEGABYTE)\n    import time\n    time.sleep(1)\n    os._exit(0)",
    ),
    _holds(
        "stacks of threads",
        "fill large stacks",
        "16 * MEGABYTE",
        "import _thread, threading\n_thread.stack_size(16 * MEGABYTE)\n"
        "ready, stop = threading.Event(), threading.Event()\n"
        "def fill():\n    here = ctypes.create_string_buffer(1)\n    ready.set()\n    stop.wait()\n"
        "_thread.start_new_thread(fill, ())\nif not ready.wait(2): raise OSError('refused')\n"
        "kept.append(bytearray(16 * MEGABYTE))",
    ),
    _holds(
        "one mapping many times",
        "copy a mapping without taking the old one away",
        "32 * MEGABYTE",
        "address = mapped(32 * MEGABYTE, PRIVATE | ANONYMOUS)\nctypes.memset(address, 1, 32 * MEGABYTE)\n"
        "for size in (0, 32 * MEGABYTE):\n    other = libc.mremap(ctypes.c_void_p(address), ctypes.c_size_t(size), "
        "ctypes.c_size_t(32 * MEGABYTE), 5, None)\n"
        "    if other not in (None, 2 ** 64 - 1): ctypes.memset(other, 1, 32 * MEGABYTE)\n"
        "ctypes.memset(address, 1, 32 * MEGABYTE)",
    ),
)

KERNEL = (
    _holds(
        "page tables by far addresses",
        "read one page in every 2 GiB: two pages of tables for each",
        "12 * PAGE",
        "for _ in range(4):\n    kept.append(1)\n"
        "    address = mapped(PAGE, PRIVATE | ANONYMOUS, (len(kept) + 1) << 31)\n    touched(address, 1)",
    ),
    _holds(
        "page tables by what is left of mappings",
        "keep a page of every large mapping: a page of tables for each",
        "16 * PAGE",
        "for _ in range(8):\n    address = mapped(64 * MEGABYTE, PRIVATE | ANONYMOUS)\n    touched(address, 1)\n"
        "    left(address, 64 * MEGABYTE)",
    ),
    _holds(
        "page tables without pages",
        "have tables made for memory that is only read",
        "8 * PAGE",
        "for _ in range(4):\n    kept.append(1)\n"
        "    address = mapped(PAGE, PRIVATE | ANONYMOUS, (len(kept) + 1) << 31, protection=READ)\n"
        "    ctypes.string_at(address, 1)",
    ),
    _holds(
        "many small mappings",
        "fill the limit and give every other page another protection",
        "2 * PAGE",
        "if not kept:\n    kept.append(mapped(192 * MEGABYTE, PRIVATE | ANONYMOUS))\n"
        "    touched(kept[0], 192 * MEGABYTE)\n"
        "kept.append(1)\nchecked(libc.mprotect(kept[0] + 2 * PAGE * (len(kept) - 2), PAGE, READ))",
    ),
    _holds(
        "larger pipes",
        "fill pipes of a mebibyte",
        "MEGABYTE",
        "import fcntl\nkept.append(os.pipe())\nfcntl.fcntl(kept[-1][1], 1031, MEGABYTE)\n"
        "os.set_blocking(kept[-1][1], False)\nos.write(kept[-1][1], bytes(MEGABYTE))",
    ),
    _holds(
        "pages moved into pipes",
        "splice pages of a file into a pipe and tee them on",
        "PAGE",
        "first, second = os.pipe(), os.pipe()\nfile = os.open('@LIBRARY@', os.O_RDONLY)\n"
        "os.splice(file, first[1], PAGE)\n"
        "checked(libc.tee(first[0], second[1], ctypes.c_size_t(PAGE), 0))\nkept.append((first, second))",
    ),
    _holds(
        "buffers of sockets",
        "fill both ends of pairs of sockets",
        "200 << 10",
        "import socket\npair = socket.socketpair()\nkept.append(pair)\n"
        "for end in pair:\n    end.setblocking(False)\n    end.send(bytes(100 << 10))",
    ),
    _holds(
        "descriptors in flight",
        "send sockets through sockets and close them",
        "200 << 10",
        "import array, socket\npair = socket.socketpair()\npair[0].setblocking(False)\npair[0].send(bytes(100 << 10))\n"
        "carrier = socket.socketpair()\nrights = array.array('i', [pair[0].fileno(), pair[1].fileno()])\n"
        "carrier[0].sendmsg([b'x'], [(socket.SOL_SOCKET, 1, rights)])\nkept.append(carrier)",
    ),
    _holds(
        "System V messages filled",
        "hold memory in queues of messages",
        "8 << 10",
        "queue = checked(libc.msgget(0, 0o1600))\nchecked(libc.msgsnd(queue, struct.pack('l8192x', 1), 8184, 0o4000))",
    ),
    _holds(
        "POSIX messages filled",
        "the same by mq_open",
        "8 << 10",
        "queue = checked(libc.mq_open(f'/@MARKER@-{len(kept)}'.encode(), 0o102, 0o600, None))\nkept.append(queue)\n"
        "checked(libc.mq_send(queue, bytes(8192), ctypes.c_size_t(8192), 0))",
    ),
    _holds(
        "a million file locks",
        "lock every other byte of a file of the library",
        "4 * 200",
        "import fcntl\nif not kept: kept.append(os.open('@LIBRARY@', os.O_RDONLY))\nkept.append(1)\n"
        "at = (1 << 30) - 8 * len(kept)\n"
        "for i in range(4):\n    lock = struct.pack('hhqqi4x', 0, 0, at - 2 * i, 1, 0)\n"
        "    fcntl.fcntl(kept[0], 37, lock)\n"
        "other = os.open('@LIBRARY@', os.O_RDONLY)\n"
        "asked = struct.unpack('hhqqi4x', fcntl.fcntl(other, 36, struct.pack('hhqqi4x', 1, 0, at, 1, 0)))\n"
        "os.close(other)\nassert asked[0] != 2, 'not locked'",
    ),
    _holds(
        "rules of Landlock",
        "fill rule sets that are never used",
        "100 * 64",
        "if len(kept) % 600 == 0:\n    attributes = struct.pack('QQ', 1, 3)\n"
        "    kept.append(checked(libc.syscall(ctypes.c_long(444), attributes, ctypes.c_size_t(16), 0)))\n"
        "else: kept.append(kept[-1])\n"
        "for i in range(100):\n    rule = struct.pack('QQ', 1, (len(kept) % 600) * 100 + i)\n"
        "    checked(libc.syscall(ctypes.c_long(445), ctypes.c_int(kept[-1]), 2, rule, 0))",
    ),
    _holds(
        "timers of the kernel",
        "make POSIX timers without end",
        "100 * 512",
        "for _ in range(100):\n    timer = ctypes.c_int()\n"
        "    checked(libc.timer_create(1, None, ctypes.byref(timer)))",
    ),
    _holds(
        "signals in the queue",
        "queue blocked signals without end",
        "100 * 80",
        "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, [40])\n"
        "for _ in range(100): checked(libc.sigqueue(os.getpid(), 40, None))",
    ),
    _holds(
        "rings for asynchronous input and output",
        "have the kernel make rings of aio",
        "MEGABYTE",
        "context = ctypes.c_ulong()\nnumbered(206, 0, 16000, ctypes.byref(context))",
    ),
    _holds(
        "rings of io_uring",
        "have the kernel make rings",
        "MEGABYTE",
        "kept.append(checked(libc.syscall(ctypes.c_long(425), 8192, ctypes.create_string_buffer(120))))",
    ),
    _holds(
        "payloads of keys",
        "hold memory in keys",
        "16 << 10",
        "kept.append(1)\nnumbered(248, 217, b'user', f'@MARKER@-{len(kept)}'.encode(),"
        " bytes(16 << 10), ctypes.c_size_t(16 << 10), -2)",
    ),
    _holds(
        "empty files and long names",
        "hold memory in the names of files",
        "8 * 1024",
        "for i in range(8):\n    kept.append(1)\n    open(f'@MARKER@-{len(kept)}'.ljust(250, 'x'), 'w').close()",
    ),
    _holds(
        "long links",
        "hold memory in what symbolic links say",
        "PAGE",
        "kept.append(1)\nos.symlink('x' * 4000, f'@MARKER@-{len(kept)}')",
    ),
    _holds(
        "attributes of files",
        "hold memory in extended attributes",
        "32 << 10",
        "kept.append(1)\nname = f'@MARKER@-{len(kept)}'\nopen(name, 'w').close()\n"
        "os.setxattr(name, 'user.x', bytes(32 << 10))",
    ),
    _holds(
        "watches",
        "watch every file by inotify",
        "200 * 10",
        "fd = checked(libc.inotify_init1(0))\n"
        "for name in os.listdir(os.path.dirname('@LIBRARY@'))[:10]: checked(libc.inotify_add_watch(fd, "
        "(os.path.dirname('@LIBRARY@') + '/' + name).encode(), 0xFFF))",
    ),
)
JUDGE = """
import os, struct
kept = bytearray(200 << 20)
def f(x):
    items = 3_000_000
    value = b"t" + struct.pack("<I", 2) + b"s" + struct.pack("<I", 5) + b"value" + b"l" + struct.pack("<I", items)
    reply = value + b"l\\0\\0\\0\\0" * items
    for fd in range(3, 64):
        try: os.write(fd, struct.pack("<I", len(reply)))
        except OSError: continue
        view = memoryview(reply)
        while view: view = view[os.write(fd, view):]
"""

MEMORY = (
    attack("memory of the judge", "fill the judge's memory beside its own", JUDGE, OUTCOMES, ("memory",)),
    *PAGES,
    *KERNEL,
)
