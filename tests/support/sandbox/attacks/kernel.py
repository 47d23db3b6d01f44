"""Attacks on what all processes of the machine or of the user share: kernel objects, locks on files, the disk."""

from tests.support.sandbox.attacks.attack import Attack, attempt, kernel_call

LIBRARY = "library = os.open('@LIBRARY@', os.O_RDONLY)\nfolder = os.open(os.path.dirname('@LIBRARY@'), os.O_RDONLY)\n"


def _command(name: str, tries: str, expression: str, need: str = "processes") -> Attack:
    """Return an attempt that is one expression over `library` and `folder`, which are open."""
    code = f"import array, ctypes, fcntl, os, struct\nlibc = ctypes.CDLL(None, use_errno=True)\n{LIBRARY}"
    return attempt(name, tries, f"{code}def attempt(): return {expression}\n", need)


SHARED = (
    kernel_call(
        "all rings of aio",
        "take every event of fs.aio-max-nr",
        "call(206, 0, 60000, ctypes.byref(ctypes.c_ulong()))",
        "processes",
    ),
    kernel_call(
        "timers of the user",
        "take the timers that all processes of the user share",
        "libc.timer_create(1, None, ctypes.byref(ctypes.c_int())) == 0",
        "processes",
    ),
    kernel_call(
        "signals of the user",
        "queue a signal to itself, out of the user's share",
        "libc.sigqueue(os.getpid(), 0, None) == 0",
        "processes",
    ),
    attempt(
        "a lock on the library",
        "flock a file that others may lock",
        "import fcntl\nfirst, second = open('@LIBRARY@'), open('@LIBRARY@')\ndef attempt():\n"
        "    fcntl.flock(first, fcntl.LOCK_EX)\n    try: fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
        "    except BlockingIOError: return True\n    return False\n",
        "processes",
    ),
    attempt(
        "a record lock on the library",
        "keep others from writing a file",
        "import fcntl, struct\nfirst, second = open('@LIBRARY@'), open('@LIBRARY@')\n"
        "def lock(kind): return struct.pack('hhqqi4x', kind, 0, 0, 1, 0)\ndef attempt():\n"
        "    fcntl.fcntl(first, 37, lock(0))\n"
        "    return struct.unpack('hhqqi4x', fcntl.fcntl(second, 36, lock(1)))[0] != 2\n",
        "processes",
    ),
    _command("a lease", "have others wait until they may write", "fcntl.fcntl(library, 1024, 0) == 0"),
    _command("a notice of a folder", "dnotify", "fcntl.fcntl(folder, 1026, 0x80000001) == 0"),
    _command("a larger pipe", "take the pipe pages of the user", "fcntl.fcntl(os.pipe()[1], 1031, 1 << 20) > 0"),
    _command("a hint about a file", "F_SET_RW_HINT", "fcntl.fcntl(library, 1036, struct.pack('Q', 2)) is not None"),
    _command("an asynchronous descriptor", "FIOASYNC", "fcntl.ioctl(os.pipe()[0], 0x5452, struct.pack('i', 1)) == 0"),
    _command(
        "flags of a file",
        "FS_IOC_SETFLAGS on a file of the library",
        "fcntl.ioctl(library, 0x40086602, fcntl.ioctl(library, 0x80086601, bytes(8))) is not None",
        "filesystem_writes",
    ),
    _command("flags read", "FS_IOC_GETFLAGS", "fcntl.ioctl(library, 0x80086601, bytes(8)) is not None"),
    _command(
        "flags by the newer call",
        "FS_IOC_FSSETXATTR",
        "fcntl.ioctl(library, 0x401C5820, fcntl.ioctl(library, 0x801C581F, bytes(28))) is not None",
    ),
    _command("a clone of a file", "FICLONE", "fcntl.ioctl(os.pipe()[1], 0x40049409, library) == 0"),
    _command("a frozen file system", "FIFREEZE", "fcntl.ioctl(folder, 0xC0045877, 0) == 0"),
    _command("where a file lies", "FIEMAP", "fcntl.ioctl(library, 0xC020660B, bytes(32)) is not None"),
    _command(
        "an attribute by descriptor",
        "fsetxattr on a file of the library",
        "os.setxattr(library, 'user.@MARKER@', b'1') is None",
        "filesystem_writes",
    ),
    kernel_call("sync", "have the machine write everything", "call(162, 81)", "processes"),
    kernel_call("sync of one file system", "syncfs", "call(306, 267, os.open('@LIBRARY@', os.O_RDONLY))", "processes"),
    kernel_call(
        "sync of a range", "sync_file_range", "call(277, 84, os.open('@LIBRARY@', os.O_RDONLY), 0, 0, 7)", "processes"
    ),
    kernel_call(
        "read-ahead",
        "fill the page cache",
        "call(187, 213, os.open('@LIBRARY@', os.O_RDONLY), 0, 1 << 20)",
        "processes",
    ),
    kernel_call(
        "the page cache",
        "learn by cachestat what others read",
        "call(451, 451, os.open('@LIBRARY@', os.O_RDONLY), bytes(16), ctypes.create_string_buffer(40), 0)",
        "processes",
    ),
    kernel_call("membarrier", "interrupt every processor", "call(324, 283, 1, 0, 0)", "processes"),
    kernel_call(
        "locked pages", "mlock", "libc.mlock(ctypes.create_string_buffer(1), ctypes.c_size_t(1)) == 0", "memory"
    ),
    kernel_call("all pages locked", "mlockall of what comes", "libc.mlockall(2) == 0", "memory"),
    kernel_call("a merge of pages", "MADV_MERGEABLE", "call(28, 233, 0, 0, 12)", "processes"),
    kernel_call("where memory lies", "set_mempolicy", "call(238, 237, 0, 0, 0)", "processes"),
    kernel_call("a rule set of Landlock", "landlock_create_ruleset", "call(444, 444, bytes(8), 8, 0)", "processes"),
    kernel_call("the user's priority", "setpriority(PRIO_USER)", "libc.setpriority(2, 0, 19) == 0", "processes"),
    kernel_call("a deadline", "sched_setattr", "call(314, 274, 0, struct.pack('II40x', 48, 0), 0)", "processes"),
    kernel_call(
        "the processors of the parent",
        "sched_setaffinity",
        "call(203, 122, os.getppid(), 8, bytes([1]) * 8)",
        "processes",
    ),
    kernel_call(
        "the host's limits",
        "prlimit of the process that runs moe_ray",
        "libc.prlimit(@PID@, 7, None, ctypes.create_string_buffer(16)) == 0",
        "processes",
    ),
    kernel_call(
        "the host's memory",
        "process_vm_readv",
        "call(310, 270, @PID@, struct.pack('PQ', 0, 0), 1, struct.pack('PQ', 0, 0), 1, 0)",
        "processes",
    ),
    kernel_call("a handle of the host", "pidfd_open", "call(434, 434, @PID@, 0)", "processes"),
    kernel_call("a descriptor of the host", "pidfd_getfd", "call(438, 438, 0, 0, 0)", "processes"),
    kernel_call("a comparison with the host", "kcmp", "call(312, 272, os.getpid(), @PID@, 0, 0, 0)", "processes"),
    kernel_call("keys asked for", "request_key", "call(249, 218, b'user', b'@MARKER@', 0, -4)", "processes"),
    kernel_call("the session's keys", "keyctl", "call(250, 219, 0, -3, 0)", "processes"),
    kernel_call("fanotify", "watch the whole file system", "call(300, 262, 0, 0)", "processes"),
    attempt(
        "installed packages",
        "import what is installed beside the standard library",
        "import glob, os, sys\nhome = os.path.dirname('@LIBRARY@')\ndef attempt():\n"
        "    places = [p for d in (home, os.path.dirname(home) + '/python3') for k in ('site', 'dist')\n"
        "              for p in glob.glob(f'{d}/{k}-packages/**/*.py', recursive=True)]\n"
        "    return any(open(p).read(1) is not None for p in places)\n",
        "filesystem_reads",
    ),
    attempt(
        "packages of the system's Python",
        "the same of another Python",
        "import glob\ndef attempt():\n    files = glob.glob('/usr/lib/python3*/*-packages/**/*.py', recursive=True)\n"
        "    return any(open(name).read(1) is not None for name in files)\n",
        "filesystem_reads",
    ),
)
