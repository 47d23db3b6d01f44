"""The seccomp filter for generated code, for x86_64 and aarch64.

The filter denies:

- new processes (threads are allowed), other programs, sockets;
- signals to other processes, tracing them, changing their scheduling or limits;
- mounts, namespaces, administration of the machine;
- changes to the owner, mode, times or attributes of files, and watching files;
- memory that outlives its process or escapes RLIMIT_AS: shared anonymous mappings, huge pages, pages in pipes, System V
  objects, POSIX message queues, memory files, keys, rings, timers, Landlock rules;
- calls that slow down the whole machine: `sync`, `membarrier(GLOBAL)`, locked memory, read-ahead;
- every ioctl and fcntl command that is not listed as harmless, and every call newer than the list.

Calls in `PRETENDED` do nothing and return 0. A lock on a file that no other process can open always succeeds, and
nothing in a scratch has to survive a power failure, so a program that locks or syncs its own files works as usual.
"""

from __future__ import annotations

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
    206, 222, 444, 445, 446,  # io_setup timer_create landlock_*
    275, 276, 278, 216, 149, 151, 325,  # splice tee vmsplice remap_file_pages mlock mlockall mlock2
    162, 306, 277, 187, 324, 451,  # sync syncfs sync_file_range readahead membarrier cachestat
    237, 238, 450, 153,  # mbind set_mempolicy set_mempolicy_home_node vhangup
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
    0, 107, 444, 445, 446,
    76, 77, 75, 234, 228, 230, 284,
    81, 267, 84, 213, 283, 451,
    235, 237, 450, 58,
    52, 53, 452, 55, 54, 88,
    5, 6, 7, 14, 15, 16,
    26, 27,
)  # fmt: skip
FIRST_UNKNOWN = 463
"""Numbers from here on are of kernels newer than this list, on every machine."""


class Amd64:
    """System call numbers of one processor architecture."""

    audit = 0xC000003E
    denied: tuple[int, ...] = DENIED_X86_64
    pretended: tuple[int, ...] = (73, 74, 75, 221)  # flock fsync fdatasync fadvise64
    own_signals = (62, 234)  # kill tgkill
    clone, prlimit, ioctl, fcntl, mmap, madvise = 56, 302, 16, 72, 9, 28


class Arm64(Amd64):
    """The same of the other one."""

    audit = 0xC00000B7
    denied = DENIED_AARCH64
    pretended = (32, 82, 83, 223)
    own_signals = (129, 131)
    clone, prlimit, ioctl, fcntl, mmap, madvise = 220, 261, 29, 25, 222, 233


MACHINES = {"x86_64": Amd64, "aarch64": Arm64}

LOAD, JUMP_EQUAL, JUMP_GREATER_EQUAL, JUMP_ANY_BIT, AND, RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
AT_NUMBER, AT_ARCHITECTURE, AT_ARGUMENTS = 0, 4, 16
ALLOW, ERRNO, KILL_PROCESS = 0x7FFF0000, 0x00050000, 0x80000000
DENY, ABSENT, UNSUPPORTED, PRETEND = ERRNO | errno.EPERM, ERRNO | errno.ENOSYS, ERRNO | errno.EOPNOTSUPP, ERRNO
CLONE3, CLONE_THREAD = 435, 0x10000
MAP_SHARED, MAP_ANONYMOUS, MAP_HUGETLB = 0x01, 0x20, 0x40000  # MAP_SHARED_VALIDATE has the bit of MAP_SHARED
ADVICE_DENIED = (12, 14, 25, 100, 101)  # MADV_ MERGEABLE HUGEPAGE COLLAPSE HWPOISON SOFT_OFFLINE
IOCTL_ALLOWED = (0x5401, 0x802C542A, 0x5413, 0x540F, 0x541B, 0x5421, 0x5450, 0x5451)
"""TCGETS TCGETS2 TIOCGWINSZ TIOCGPGRP FIONREAD FIONBIO FIONCLEX FIOCLEX. Denied are, among others, TIOCSTI,
FIOSETOWN, FS_IOC_SETFLAGS."""
FICLONE = 0x40049409  # pathlib's copy falls back where a file system does not support it, not where it is denied
FCNTL_ALLOWED = (0, 1, 2, 3, 4, 5, 9, 11, 36, 1025, 1030, 1032, 1034)
"""DUPFD GETFD SETFD GETFL SETFL GETLK GETOWN GETSIG OFD_GETLK GETLEASE DUPFD_CLOEXEC GETPIPE_SZ GET_SEALS. Denied are,
among others, SETOWN and SETSIG (signals to any process of this user), SETLEASE, NOTIFY, SETPIPE_SZ."""
FCNTL_PRETENDED = (6, 7, 37, 38)  # SETLK SETLKW OFD_SETLK OFD_SETLKW

Instruction = tuple[int, int, int, int]


def denying_filter(machine: str, pid: int, *, threads: bool, shared_files: bool) -> list[Instruction]:
    """Return the filter for a process that is `pid` to itself, with or without new threads.

    `shared_files` allows shared mappings of files, where the box bounds what all files take. Empty where the machine's
    numbers are not known.
    """
    known = MACHINES.get(machine)
    if known is None:
        return []
    filter_ = [(LOAD, 0, 0, AT_ARCHITECTURE), (JUMP_EQUAL, 1, 0, known.audit), (RETURN, 0, 0, KILL_PROCESS)]
    filter_ += [(LOAD, 0, 0, AT_NUMBER), (JUMP_GREATER_EQUAL, 0, 1, FIRST_UNKNOWN), (RETURN, 0, 0, ABSENT)]
    filter_ += _when(CLONE3, [(RETURN, 0, 0, ABSENT)])  # the C library then uses clone
    threads_only = [(AND, 0, 0, CLONE_THREAD), *_choose({CLONE_THREAD: ALLOW if threads else DENY}, DENY)]
    filter_ += _when(known.clone, [_argument(0), *threads_only])
    for number in known.own_signals:
        filter_ += _when(number, [_argument(0), *_choose({pid: ALLOW}, DENY)])
    filter_ += _when(known.prlimit, [_argument(0), *_choose({0: ALLOW}, DENY)])
    controls = dict.fromkeys(IOCTL_ALLOWED, ALLOW) | {FICLONE: UNSUPPORTED}
    filter_ += _when(known.ioctl, [_argument(1), *_choose(controls, DENY)])
    commands = dict.fromkeys(FCNTL_ALLOWED, ALLOW) | dict.fromkeys(FCNTL_PRETENDED, PRETEND)
    filter_ += _when(known.fcntl, [_argument(1), *_choose(commands, DENY)])
    filter_ += _when(known.madvise, [_argument(2), *_choose(dict.fromkeys(ADVICE_DENIED, DENY), ALLOW)])
    filter_ += _when(known.mmap, [_argument(3), *_private_only(shared_files=shared_files)])
    for number in known.denied:
        filter_ += _when(number, [(RETURN, 0, 0, DENY)])
    for number in known.pretended:
        filter_ += _when(number, [(RETURN, 0, 0, PRETEND)])
    return [*filter_, (RETURN, 0, 0, ALLOW)]


def _when(number: int, then: list[Instruction]) -> list[Instruction]:
    """Instructions that run `then`, which must return, for one system call."""
    return [(JUMP_EQUAL, 0, len(then), number), *then]


def _argument(index: int) -> Instruction:
    """Load the low half of an argument."""
    return (LOAD, 0, 0, AT_ARGUMENTS + 8 * index)


def _choose(results: dict[int, int], other: int) -> list[Instruction]:
    """Instructions that return the result of the value that was loaded, or `other`."""
    cases = [line for value, result in results.items() for line in ((JUMP_EQUAL, 0, 1, value), (RETURN, 0, 0, result))]
    return [*cases, (RETURN, 0, 0, other)]


def _private_only(*, shared_files: bool) -> list[Instruction]:
    """Instructions that deny shared and huge mappings by the flags that were loaded."""
    shared = [(JUMP_ANY_BIT, 1, 0, MAP_ANONYMOUS), (RETURN, 0, 0, ALLOW)] if shared_files else []
    deny = (RETURN, 0, 0, DENY)
    return [
        (JUMP_ANY_BIT, 0, 1, MAP_HUGETLB), deny, (JUMP_ANY_BIT, 1, 0, MAP_SHARED), (RETURN, 0, 0, ALLOW), *shared, deny,
    ]  # fmt: skip
