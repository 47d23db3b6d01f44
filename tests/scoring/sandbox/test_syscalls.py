"""The filter, run by an interpreter of its instructions, for processors that this machine need not be.

The numbers are those of the kernel's own tables (unistd_64.h; asm-generic/unistd.h).
"""

import errno

import pytest

from moe_ray.scoring.sandbox.guest.syscalls import MACHINES, denying_filter

PID = 77
ALLOWED, DENIED, ABSENT, UNSUPPORTED, PRETENDED = "allowed", "denied", "absent", "unsupported", "pretended"
RESULTS = {
    0x7FFF0000: ALLOWED, 0x00050000 | errno.EPERM: DENIED, 0x00050000 | errno.ENOSYS: ABSENT, 0x00050000: PRETENDED,
    0x00050000 | errno.EOPNOTSUPP: UNSUPPORTED, 0x80000000: "killed",
}  # fmt: skip
NUMBERS = {
    "x86_64": {
        "read": 0, "mmap": 9, "madvise": 28, "fcntl": 72, "ioctl": 16, "kill": 62, "clone": 56, "prlimit64": 302,
        "flock": 73, "fsync": 74, "fdatasync": 75, "fadvise64": 221, "io_setup": 206, "timer_create": 222,
        "splice": 275, "tee": 276, "vmsplice": 278, "remap_file_pages": 216, "mlock": 149, "mlockall": 151,
        "mlock2": 325, "sync": 162, "syncfs": 306, "sync_file_range": 277, "readahead": 187, "membarrier": 324,
        "mbind": 237, "set_mempolicy": 238, "vhangup": 153, "fork": 57, "socketpair": 53, "setxattr": 188,
        "add_key": 248, "userfaultfd": 323, "perf_event_open": 298, "bpf": 321, "personality": 135,
        "setpriority": 141, "sched_setattr": 314, "process_vm_readv": 310, "shmget": 29, "memfd_create": 319,
        "inotify_init1": 294, "fanotify_init": 300,
    },
    "aarch64": {
        "read": 63, "mmap": 222, "madvise": 233, "fcntl": 25, "ioctl": 29, "kill": 129, "clone": 220,
        "prlimit64": 261, "flock": 32, "fsync": 82, "fdatasync": 83, "fadvise64": 223, "io_setup": 0,
        "timer_create": 107, "splice": 76, "tee": 77, "vmsplice": 75, "remap_file_pages": 234, "mlock": 228,
        "mlockall": 230, "mlock2": 284, "sync": 81, "syncfs": 267, "sync_file_range": 84, "readahead": 213,
        "membarrier": 283, "mbind": 235, "set_mempolicy": 237, "vhangup": 58, "socketpair": 199, "setxattr": 5,
        "add_key": 217, "userfaultfd": 282, "perf_event_open": 241, "bpf": 280, "personality": 92, "setpriority": 140,
        "sched_setattr": 274, "process_vm_readv": 270, "shmget": 194, "memfd_create": 279, "inotify_init1": 26,
        "fanotify_init": 262,
    },
}  # fmt: skip
EVERYWHERE = {"io_uring_setup": 425, "pidfd_open": 434, "landlock_create_ruleset": 444, "cachestat": 451}
ARGUMENT_DEPENDENT = {"mmap", "madvise", "fcntl", "ioctl", "kill", "clone", "prlimit64"}
PRETENDED_CALLS = {"flock", "fsync", "fdatasync", "fadvise64"}
PRIVATE, SHARED, VALIDATED, ANONYMOUS, HUGETLB = 2, 1, 3, 32, 0x40000


def verdict(machine: str, number: int, *arguments: int, shared_files: bool = True) -> str:
    """Return what the filter decides on one call."""
    instructions = denying_filter(machine, PID, threads=True, shared_files=shared_files)
    data = {0: number, 4: MACHINES[machine].audit} | {16 + 8 * i: value for i, value in enumerate(arguments)}
    at, loaded = 0, 0
    while True:
        code, if_true, if_false, value = instructions[at]
        at += 1
        if code == 0x06:
            return RESULTS[value]
        if code == 0x20:
            loaded = data.get(value, 0)
        elif code == 0x54:
            loaded &= value
        else:
            holds = {0x15: loaded == value, 0x35: loaded >= value, 0x45: bool(loaded & value)}[code]
            at += if_true if holds else if_false


@pytest.mark.parametrize("machine", NUMBERS)
def test_every_listed_call_is_denied_by_the_number_it_has_on_this_processor(machine: str) -> None:
    calls = NUMBERS[machine] | EVERYWHERE
    for name in calls.keys() - ARGUMENT_DEPENDENT - PRETENDED_CALLS - {"read"}:
        assert (name, verdict(machine, calls[name])) == (name, DENIED)
    assert {verdict(machine, calls[name]) for name in PRETENDED_CALLS} == {PRETENDED}
    assert verdict(machine, calls["read"]) == ALLOWED
    assert {verdict(machine, number) for number in (435, 463, 500, 1 << 30)} == {ABSENT}


@pytest.mark.parametrize("machine", NUMBERS)
@pytest.mark.parametrize(
    ("flags", "with_files", "without_files"),
    [
        (PRIVATE | ANONYMOUS, ALLOWED, ALLOWED),
        (PRIVATE, ALLOWED, ALLOWED),
        (SHARED, ALLOWED, DENIED),
        (VALIDATED, ALLOWED, DENIED),
        (SHARED | ANONYMOUS, DENIED, DENIED),
        (VALIDATED | ANONYMOUS, DENIED, DENIED),
        (PRIVATE | ANONYMOUS | HUGETLB, DENIED, DENIED),
        (8 | ANONYMOUS, ALLOWED, ALLOWED),
    ],
)
def test_only_private_memory_can_be_mapped(machine: str, flags: int, with_files: str, without_files: str) -> None:
    number = NUMBERS[machine]["mmap"]
    arguments = (0, 4096, 3, flags, 2**32 - 1, 0)
    assert verdict(machine, number, *arguments) == with_files
    assert verdict(machine, number, *arguments, shared_files=False) == without_files


@pytest.mark.parametrize("machine", NUMBERS)
def test_commands_of_files_are_allowed_by_name(machine: str) -> None:
    fcntl, ioctl = NUMBERS[machine]["fcntl"], NUMBERS[machine]["ioctl"]
    expected = {0: ALLOWED, 3: ALLOWED, 1030: ALLOWED, 6: PRETENDED, 37: PRETENDED} | dict.fromkeys(
        (8, 10, 15, 1024, 1026, 1031, 1033, 9999), DENIED
    )
    assert {command: verdict(machine, fcntl, 3, command) for command in expected} == expected
    flags, clone_file, push_input, own = 0x40086602, 0x40049409, 0x5412, 0x8901
    expected = {0x5401: ALLOWED, 0x541B: ALLOWED} | dict.fromkeys((flags, push_input, own), DENIED)
    expected[clone_file] = UNSUPPORTED
    assert {command: verdict(machine, ioctl, 3, command) for command in expected} == expected


@pytest.mark.parametrize("machine", NUMBERS)
def test_advice_limits_and_signals_depend_on_their_target(machine: str) -> None:
    calls = NUMBERS[machine]
    advice = {4: ALLOWED, 8: ALLOWED, 12: DENIED, 14: DENIED, 25: DENIED}
    assert {value: verdict(machine, calls["madvise"], 0, 0, value) for value in advice} == advice
    assert [verdict(machine, calls["kill"], pid, 9) for pid in (PID, 1, 2**32 - 1)] == [ALLOWED, DENIED, DENIED]
    assert [verdict(machine, calls["prlimit64"], pid) for pid in (0, PID)] == [ALLOWED, DENIED]
    assert [verdict(machine, calls["clone"], flags) for flags in (0x10000, 17)] == [ALLOWED, DENIED]


def test_another_architecture_of_the_same_processor_ends_the_process() -> None:
    instructions = denying_filter("x86_64", PID, threads=True, shared_files=True)
    assert instructions[:3] == [(0x20, 0, 0, 4), (0x15, 1, 0, 0xC000003E), (0x06, 0, 0, 0x80000000)]
    assert denying_filter("riscv64", PID, threads=True, shared_files=True) == []
