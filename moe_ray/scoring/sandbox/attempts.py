"""Programs that try to get out of a box. `blocked()` of each says whether every attempt was refused.

They are formatted with their targets; `KERNEL` is a part of `PROCESSES`.
"""

KERNEL = """
import ctypes, fcntl, resource
libc = ctypes.CDLL(None, use_errno=True)
NUMBERS = {{
    "x86_64": (206, 306, 248, 298, 321, 323, 425, 434, 324),
    "aarch64": (0, 267, 217, 241, 280, 282, 425, 434, 283),
}}
def command(fd, *arguments):
    try:
        fcntl.fcntl(fd, *arguments)
        return True
    except OSError as error:
        return error.errno not in (1, 13, 22, 38)
def locked(first, second):
    try:
        fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    except OSError:
        return False
def reached_kernel():
    context, timer = ctypes.c_ulong(), ctypes.c_int()
    numbers = NUMBERS.get(os.uname().machine)
    if numbers is None:
        return True
    io_setup, syncfs, add_key, perf, bpf, userfaultfd, ring, pidfd, membarrier = map(ctypes.c_long, numbers)
    library, again = (os.open(os.__file__, os.O_RDONLY) for _ in range(2))
    folder = os.open(os.path.dirname(os.__file__), os.O_RDONLY)
    call, buffer = libc.syscall, ctypes.create_string_buffer(128)
    return any([
        call(io_setup, 1, ctypes.byref(context)) >= 0,
        libc.timer_create(1, None, ctypes.byref(timer)) == 0,
        call(syncfs, library) >= 0,
        call(add_key, b"user", b"moe-ray-probe", b"1", ctypes.c_size_t(1), -2) >= 0,
        call(perf, buffer, 0, -1, -1, 0) >= 0 or ctypes.get_errno() not in (1, 13, 38),
        call(bpf, 0, buffer, 72) >= 0,
        call(userfaultfd, 1) >= 0,
        call(ring, 1, buffer) >= 0,
        call(pidfd, os.getppid(), 0) >= 0,
        call(membarrier, 1, 0) >= 0,
        libc.personality(0xFFFFFFFF) != -1,
        libc.mlock(buffer, ctypes.c_size_t(1)) == 0,
        locked(library, again),
        command(library, fcntl.F_SETLEASE, fcntl.F_RDLCK),
        command(folder, fcntl.F_NOTIFY, fcntl.DN_ACCESS),
        command(library, 1036, buffer.raw[:8]),
    ])
"""
NETWORK = """
import socket
def reached(family, address):
    try:
        with socket.socket(family) as s:
            s.settimeout(1)
            s.connect(address)
            return True
    except OSError:
        return False
def blocked():
    return not any([reached(socket.AF_INET, ("127.0.0.1", {port})), reached(socket.AF_UNIX, {abstract!r})])
"""
WRITES = """
import fcntl, os
def refused(attempt):
    try:
        attempt()
    except OSError:
        return True
    return False
def set_flags():
    flags = fcntl.ioctl(os.open({secret!r}, os.O_RDONLY), 0x80086601, bytes(8))
    fcntl.ioctl(os.open({secret!r}, os.O_RDONLY), 0x40086602, flags)
def blocked():
    return all([
        refused(lambda: open({folder!r} + "/new", "w").close()),
        refused(lambda: os.mkdir({folder!r} + "/folder")),
        refused(lambda: os.truncate({secret!r}, 0)),
        refused(lambda: os.chmod({secret!r}, 0o600)),
        refused(lambda: os.utime({secret!r}, (1, 1))),
        refused(lambda: os.setxattr({secret!r}, "user.moe-ray", b"1")),
        refused(set_flags),
        refused(lambda: os.unlink({secret!r})),
    ])
"""
READS = """
def refused(path):
    try:
        open(path).read(1)
    except OSError:
        return True
    return False
def blocked():
    return all([refused(path) for path in {paths!r}])
"""
PROCESSES = """
import os, threading
{kernel}
def blocked():
    if reached_kernel():
        return False
    try:
        if os.fork() == 0:
            os._exit(0)
        return False
    except OSError:
        pass
    for target in ({pid}, os.getppid()):
        try:
            os.kill(target, 0)
            return False
        except OSError:
            pass
    stop, threads = threading.Event(), []
    try:
        for _ in range({num_threads}):
            thread = threading.Thread(target=stop.wait, daemon=True)
            thread.start()
            threads.append(thread)
        return False
    except (RuntimeError, MemoryError):
        return True
    finally:
        stop.set()
"""
TIME = """
import signal
for number in (signal.SIGTERM, signal.SIGXCPU, signal.SIGALRM):
    signal.signal(number, signal.SIG_IGN)
def blocked():
    while True:
        pass
"""
OUTPUT = """
def blocked():
    while True:
        print("x" * 10000)
"""
ENVIRONMENT = """
import os
def blocked():
    if set(os.environ) - {{"LC_ALL", "LC_CTYPE", "TMPDIR", "LD_LIBRARY_PATH", "PWD"}}:
        return False
    try:
        open("/proc/{pid}/environ").read()
    except OSError:
        return True
    return False
"""
