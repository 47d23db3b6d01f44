"""Attacks on files, on the network, and on what outlives a process."""

from tests.support.sandbox.attacks.attack import Attack, attack, attempt, kernel_call

READS, WRITES, NETWORK = "filesystem_reads", "filesystem_writes", "network"


def _write(name: str, tries: str, body: str) -> Attack:
    return attempt(name, tries, f"import os\ndef attempt():\n    {body}\n    return True\n", WRITES)


def _read(name: str, tries: str, expression: str) -> Attack:
    return attempt(name, tries, f"import os\ndef attempt(): return {expression}\n", READS)


def _socket(family: str, kind: str) -> Attack:
    code = f"import socket\ndef attempt(): return socket.socket(socket.{family}, socket.{kind}).fileno() >= 0\n"
    return attempt(f"socket {family} {kind}", f"open a {kind} socket", code, NETWORK)


SOCKETS = (
    ("AF_INET", "SOCK_STREAM"), ("AF_INET", "SOCK_RAW"), ("AF_INET6", "SOCK_DGRAM"), ("AF_UNIX", "SOCK_STREAM"),
    ("AF_NETLINK", "SOCK_RAW"), ("AF_PACKET", "SOCK_RAW"), ("AF_VSOCK", "SOCK_STREAM"), ("AF_ALG", "SOCK_SEQPACKET"),
    ("AF_CAN", "SOCK_RAW"),
)  # fmt: skip

OUTSIDE = (
    _write("writing outside", "make a file in a folder that all may write", "open('@OUTSIDE@/written', 'w').close()"),
    _write("writing into /tmp", "the same in the machine's temporary folder", "open('/tmp/@MARKER@', 'w').close()"),
    _write("writing into /var/tmp", "the same where files stay", "open('/var/tmp/@MARKER@', 'w').close()"),
    _write("writing into shared memory", "the same in /dev/shm", "open('/dev/shm/@MARKER@', 'w').close()"),
    _write("writing into the home", "the same in the user's home", "open('@HOME@/@MARKER@', 'w').close()"),
    _write("a folder outside", "make a folder", "os.mkdir('@OUTSIDE@/folder')"),
    _write(
        "writing through a link",
        "leave the scratch by a symbolic link",
        "os.symlink('@OUTSIDE@', '@MARKER@'); open('@MARKER@/written', 'w').close()",
    ),
    _write(
        "a hard link", "link a file of the machine into a folder of all", "os.link('@LIBRARY@', '@OUTSIDE@/linked')"
    ),
    _write("dots", "leave the scratch by ..", "open('../../../../../..@OUTSIDE@/written', 'w').close()"),
    _write("changing a file's mode", "let others write", "os.chmod('@OUTSIDE@', 0o700)"),
    _write("changing a file's times", "hide that it was written", "os.utime('@OUTSIDE@', (1, 1))"),
    _write("extended attributes", "write where few look", "os.setxattr('@OUTSIDE@', 'user.@MARKER@', b'1')"),
    _write(
        "patching the library",
        "write into Python's own library, for the program that runs next",
        "open('@LIBRARY@', 'r+').close()",
    ),
    _write(
        "code that every Python runs",
        "leave a sitecustomize.py where the next interpreter finds it",
        "open(os.path.dirname('@LIBRARY@') + '/site-packages/@MARKER@.pth', 'w').close()",
    ),
    _write(
        "a device",
        "make the node of a disk",
        "os.mknod('@MARKER@', 0o060666, os.makedev(8, 0)); open('@MARKER@').close()",
    ),
    _read("reading the home", "list the user's home", "os.listdir('@HOME@') is not None"),
    _read("reading other runs", "list the folder of the results", "os.listdir('@REPOSITORY@') is not None"),
    _read(
        "reading the tests' source",
        "find what is expected in a file",
        "len(open('@REPOSITORY@/pyproject.toml').read()) > 0",
    ),
    _read("reading the accounts", "read /etc/passwd", "len(open('/etc/passwd').read()) > 0"),
    _read("reading the machine's processes", "list /proc", "'1' in os.listdir('/proc')"),
    _read("the root of another process", "leave through /proc/1/root", "os.listdir('/proc/1/root/') is not None"),
    _read("reading a disk", "read the disk below the files", "open('/dev/vda', 'rb').read(1) is not None"),
    attempt(
        "the tests' module",
        "import what holds the tests",
        "import sys\ndef attempt():\n    sys.path.insert(0, '@REPOSITORY@')\n"
        "    import tests.support.sandbox.attacks.attack as tests\n    return bool(tests.TESTS)\n",
        READS,
    ),
    attempt(
        "watching files",
        "learn by inotify what others do",
        "import ctypes\nlibc = ctypes.CDLL(None)\ndef attempt():\n"
        "    return libc.inotify_add_watch(libc.inotify_init1(0), b'@OUTSIDE@', 0xFFF) >= 0\n",
        READS,
    ),
    attempt(
        "its environment",
        "read secrets from its own variables",
        "import os\nown = {'LC_ALL', 'LC_CTYPE', 'TMPDIR', 'LD_LIBRARY_PATH', 'PWD'}\n"
        "def attempt(): return bool(set(os.environ) - own)\n",
        "environment",
    ),
    attempt(
        "the host's environment",
        "read the variables of the process that runs moe_ray",
        "def attempt(): return len(open('/proc/@PID@/environ').read()) > 0\n",
        "environment",
    ),
    attempt(
        "the parent's environment",
        "read the variables of what watches it",
        "import os\ndef attempt(): return len(open(f'/proc/{os.getppid()}/environ').read()) > 0\n",
        "environment",
    ),
    *(_socket(family, kind) for family, kind in SOCKETS),
    attempt(
        "a pair of sockets",
        "socketpair",
        "import socket\ndef attempt(): return socket.socketpair() is not None\n",
        NETWORK,
    ),
    attempt(
        "looking up a name",
        "leak data through DNS",
        "import socket\ndef attempt(): return socket.getaddrinfo('localhost', 80) and socket.create_server(('', 0))\n",
        NETWORK,
    ),
    attempt(
        "an abstract socket",
        "serve others under a name that is in no folder",
        "import socket\ndef attempt():\n    with socket.socket(socket.AF_UNIX) as s: s.bind('\\0@MARKER@')\n"
        "    return True\n",
        NETWORK,
    ),
    kernel_call(
        "System V shared memory", "leave a segment behind", "libc.shmget(@KEY@, 4096, 0o1600) >= 0", "processes"
    ),
    kernel_call("System V semaphores", "leave semaphores behind", "libc.semget(@KEY@, 1, 0o1600) >= 0", "processes"),
    kernel_call("System V messages", "leave a queue behind", "libc.msgget(@KEY@, 0o1600) >= 0", "processes"),
    kernel_call(
        "others' System V objects", "remove what it did not make", "call(31, 195, 0, 2, bytes(256))", "processes"
    ),
    kernel_call("POSIX messages", "leave a queue behind", "call(240, 180, b'@MARKER@', 0o102, 0o600, 0)", "processes"),
    attempt(
        "POSIX shared memory",
        "leave memory behind by its library",
        "from multiprocessing import shared_memory\ndef attempt():\n"
        "    shared_memory.SharedMemory('@MARKER@', create=True, size=4096).close()\n    return True\n",
        WRITES,
    ),
    kernel_call(
        "the kernel's keys", "leave a key behind", "call(248, 217, b'user', b'@MARKER@', b'1', 1, -4)", "processes"
    ),
    attack(
        "a terminal",
        "type into the terminal of the user",
        "import fcntl\ndef f(x):\n    for fd in (0, 1, 2):\n        fcntl.ioctl(fd, 0x5412, b'\\n')\n    return 0",
    ),
    attempt(
        "the user's terminal", "open it", "def attempt():\n    open('/dev/tty', 'r+b', 0).close()\n    return True\n"
    ),
)
