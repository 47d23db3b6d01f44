"""The system calls that generated code is denied, as a seccomp filter. Known for x86_64 and aarch64.

Denied are new processes (threads stay), other programs, sockets, signals to, tracing and scheduling of others, mounts
and namespaces, changing the owner, mode, times or attributes of files, whatever outlives its process or escapes the
memory limit (System V and POSIX message queues and shared memory, keys, memory files), watching files, the
administration of the machine, and every call that is newer than this list.
"""

import errno

DENIED_X86_64 = (
    41, 53, 57, 58, 59, 322,  # socket socketpair fork vfork execve execveat
    101, 310, 311, 312, 434, 424, 438, 440, 448,  # ptrace process_vm_* kcmp pidfd_* process_madvise process_mrelease
    200, 129, 297,  # tkill rt_sigqueueinfo rt_tgsigqueueinfo
    141, 142, 144, 203, 251, 256, 279, 314,  # setpriority sched_set* ioprio_set migrate_pages move_pages
    165, 166, 155, 161, 272, 308, 428, 429, 430, 431, 432, 433, 442, 457, 458,  # mounts, namespaces
    321, 298, 323, 425, 426, 427, 250, 248, 249, 154,  # bpf perf_event_open userfaultfd io_uring_* keys modify_ldt
    175, 313, 176, 246, 320, 169, 167, 168, 163, 164, 227, 159, 305, 170, 171, 172, 173, 179, 443,  # administration
    303, 304, 133, 259, 135, 157, 317, 160, 300, 103,  # handles mknod personality prctl seccomp limits fanotify syslog
    29, 30, 31, 68, 69, 70, 71, 64, 65, 66, 220, 240, 241, 319, 447,  # shm* msg* sem* mq_* memfd_create memfd_secret
    90, 91, 268, 452, 92, 93, 94, 260, 132, 235, 280, 261,  # chmod chown utime
    188, 189, 190, 197, 198, 199,  # extended attributes
    253, 254, 294,  # inotify_*
)  # fmt: skip
DENIED_AARCH64 = (
    198, 199, 221, 281,
    117, 270, 271, 272, 434, 424, 438, 440, 448,
    130, 138, 240,
    140, 118, 119, 122, 30, 238, 239, 274,
    40, 39, 41, 51, 97, 268, 428, 429, 430, 431, 432, 433, 442, 457, 458,
    280, 241, 282, 425, 426, 427, 219, 217, 218,
    105, 273, 106, 104, 294, 142, 224, 225, 89, 170, 112, 171, 266, 161, 162, 60, 443,
    264, 265, 33, 92, 167, 277, 164, 262, 116,
    194, 196, 195, 186, 189, 188, 187, 190, 193, 191, 192, 180, 181, 279, 447,
    52, 53, 452, 55, 54, 88,
    5, 6, 7, 14, 15, 16,
    26, 27,
)  # fmt: skip
FIRST_UNKNOWN = 463
"""Numbers from here on are of kernels newer than this list, on every machine."""

# machine: (audit architecture, denied, clone, clone3, (kill, tgkill), prlimit64, ioctl, fcntl)
MACHINES = {
    "x86_64": (0xC000003E, DENIED_X86_64, 56, 435, (62, 234), 302, 16, 72),
    "aarch64": (0xC00000B7, DENIED_AARCH64, 220, 435, (129, 131), 261, 29, 25),
}

LOAD, JUMP_EQUAL, JUMP_GREATER_EQUAL, AND, RETURN = 0x20, 0x15, 0x35, 0x54, 0x06
AT_NUMBER, AT_ARCHITECTURE, AT_ARGUMENT_0, AT_ARGUMENT_1 = 0, 4, 16, 24
ALLOW, ERRNO, KILL_PROCESS = 0x7FFF0000, 0x00050000, 0x80000000
CLONE_THREAD = 0x10000
TERMINAL_INPUT = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX
SIGNAL_BY_IOCTL = (0x8901, 0x8902)  # FIOSETOWN, SIOCSPGRP
SIGNAL_BY_FCNTL = (8, 10, 15)  # F_SETOWN, F_SETSIG, F_SETOWN_EX: the kernel then signals anybody of this user

Instruction = tuple[int, int, int, int]


def denying_filter(machine: str, pid: int, *, threads: bool) -> list[Instruction]:
    """Return the filter for a process that is `pid` to itself, with or without new threads.

    Empty where the machine's numbers are not known.
    """
    if machine not in MACHINES:
        return []
    architecture, denied, clone, clone3, own_signals, prlimit, ioctl, fcntl = MACHINES[machine]
    deny, absent = ERRNO | errno.EPERM, ERRNO | errno.ENOSYS
    filter_ = [(LOAD, 0, 0, AT_ARCHITECTURE), (JUMP_EQUAL, 1, 0, architecture), (RETURN, 0, 0, KILL_PROCESS)]
    filter_ += [(LOAD, 0, 0, AT_NUMBER), (JUMP_GREATER_EQUAL, 0, 1, FIRST_UNKNOWN), (RETURN, 0, 0, absent)]
    filter_ += _when(clone3, [(RETURN, 0, 0, absent)])  # the C library then uses clone
    threads_only = [(AND, 0, 0, CLONE_THREAD), *_choose((CLONE_THREAD,), ALLOW if threads else deny, deny)]
    filter_ += _when(clone, [(LOAD, 0, 0, AT_ARGUMENT_0), *threads_only])
    for number in own_signals:
        filter_ += _when(number, [(LOAD, 0, 0, AT_ARGUMENT_0), *_choose((pid,), ALLOW, deny)])
    filter_ += _when(prlimit, [(LOAD, 0, 0, AT_ARGUMENT_0), *_choose((0,), ALLOW, deny)])
    for number, commands in ((ioctl, TERMINAL_INPUT + SIGNAL_BY_IOCTL), (fcntl, SIGNAL_BY_FCNTL)):
        filter_ += _when(number, [(LOAD, 0, 0, AT_ARGUMENT_1), *_choose(commands, deny, ALLOW)])
    for number in denied:
        filter_ += _when(number, [(RETURN, 0, 0, deny)])
    return [*filter_, (RETURN, 0, 0, ALLOW)]


def _when(number: int, then: list[Instruction]) -> list[Instruction]:
    """Instructions that run `then`, which must return, for one system call."""
    return [(JUMP_EQUAL, 0, len(then), number), *then]


def _choose(values: tuple[int, ...], found: int, other: int) -> list[Instruction]:
    """Instructions that return `found` when what was loaded is one of `values`, else `other`."""
    jumps = [(JUMP_EQUAL, len(values) - position, 0, value) for position, value in enumerate(values)]
    return [*jumps, (RETURN, 0, 0, other), (RETURN, 0, 0, found)]
