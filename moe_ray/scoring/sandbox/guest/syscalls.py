"""The system calls that generated code is denied, as a seccomp filter. Known for x86_64 and aarch64.

Denied are new processes (threads stay), other programs, sockets, signals to and tracing of others, mounts and
namespaces, changing the owner, mode, times or attributes of files, shared memory that outlives its process or
escapes the memory limit, and the administration of the machine.
"""

import errno

DENIED_X86_64 = (
    41, 53, 57, 58, 59, 322,  # socket socketpair fork vfork execve execveat
    101, 310, 311, 312, 434, 424, 438,  # ptrace process_vm_readv process_vm_writev kcmp pidfd_*
    200, 129, 297,  # tkill rt_sigqueueinfo rt_tgsigqueueinfo
    165, 166, 155, 161, 272, 308, 428, 429, 430, 431, 432, 433, 442,  # mounts, namespaces
    321, 298, 323, 425, 426, 427, 250, 248, 249,  # bpf perf_event_open userfaultfd io_uring_* keys
    175, 313, 176, 246, 320, 169, 167, 168, 163, 164, 227, 159, 305, 170, 171, 172, 173, 179,  # administration
    303, 304, 133, 259, 135, 157, 317, 160, 141, 251, 300, 103,  # handles mknod personality prctl seccomp limits ...
    29, 68, 64, 240, 319, 447,  # shmget msgget semget mq_open memfd_create memfd_secret
    90, 91, 268, 452, 92, 93, 94, 260, 132, 235, 280, 261,  # chmod chown utime
    188, 189, 190, 197, 198, 199, 463, 466,  # extended attributes
)  # fmt: skip
DENIED_AARCH64 = (
    198, 199, 221, 281,
    117, 270, 271, 272, 434, 424, 438,
    130, 138, 240,
    40, 39, 41, 51, 97, 268, 428, 429, 430, 431, 432, 433, 442,
    280, 241, 282, 425, 426, 427, 219, 217, 218,
    105, 273, 106, 104, 294, 142, 224, 225, 89, 170, 112, 171, 266, 161, 162, 60,
    264, 265, 33, 92, 167, 277, 164, 140, 30, 262, 116,
    194, 186, 190, 180, 279, 447,
    52, 53, 452, 55, 54, 88,
    5, 6, 7, 14, 15, 16, 463, 466,
)  # fmt: skip
# machine: (audit architecture, denied, clone, clone3, (kill, tgkill), prlimit64, ioctl)
MACHINES = {
    "x86_64": (0xC000003E, DENIED_X86_64, 56, 435, (62, 234), 302, 16),
    "aarch64": (0xC00000B7, DENIED_AARCH64, 220, 435, (129, 131), 261, 29),
}

LOAD, JUMP_EQUAL, JUMP_GREATER_EQUAL, AND, RETURN = 0x20, 0x15, 0x35, 0x54, 0x06
AT_NUMBER, AT_ARCHITECTURE, AT_ARGUMENT_0, AT_ARGUMENT_1 = 0, 4, 16, 24
ALLOW, ERRNO, KILL_PROCESS = 0x7FFF0000, 0x00050000, 0x80000000
CLONE_THREAD = 0x10000
TIOCSTI = 0x5412
X32_BIT = 0x40000000

Instruction = tuple[int, int, int, int]


def denying_filter(machine: str, pid: int, *, threads: bool) -> list[Instruction]:
    """Return the filter for a process that is `pid` to itself, with or without new threads.

    Empty where the machine's numbers are not known.
    """
    if machine not in MACHINES:
        return []
    architecture, denied, clone, clone3, own_signals, prlimit, ioctl = MACHINES[machine]
    deny = ERRNO | errno.EPERM
    filter_ = [(LOAD, 0, 0, AT_ARCHITECTURE), (JUMP_EQUAL, 1, 0, architecture), (RETURN, 0, 0, KILL_PROCESS)]
    filter_ += [(LOAD, 0, 0, AT_NUMBER), (JUMP_GREATER_EQUAL, 0, 1, X32_BIT), (RETURN, 0, 0, deny)]
    filter_ += _when(clone3, [(RETURN, 0, 0, ERRNO | errno.ENOSYS)])  # the C library then uses clone
    threads_only = [(AND, 0, 0, CLONE_THREAD), *_choose(CLONE_THREAD, ALLOW if threads else deny, deny)]
    filter_ += _when(clone, [(LOAD, 0, 0, AT_ARGUMENT_0), *threads_only])
    for number in own_signals:
        filter_ += _when(number, [(LOAD, 0, 0, AT_ARGUMENT_0), *_choose(pid, ALLOW, deny)])
    filter_ += _when(prlimit, [(LOAD, 0, 0, AT_ARGUMENT_0), *_choose(0, ALLOW, deny)])
    filter_ += _when(ioctl, [(LOAD, 0, 0, AT_ARGUMENT_1), *_choose(TIOCSTI, deny, ALLOW)])
    for number in denied:
        filter_ += _when(number, [(RETURN, 0, 0, deny)])
    return [*filter_, (RETURN, 0, 0, ALLOW)]


def _when(number: int, then: list[Instruction]) -> list[Instruction]:
    """Instructions that run `then`, which must return, for one system call."""
    return [(JUMP_EQUAL, 0, len(then), number), *then]


def _choose(value: int, equal: int, different: int) -> list[Instruction]:
    return [(JUMP_EQUAL, 0, 1, value), (RETURN, 0, 0, equal), (RETURN, 0, 0, different)]
