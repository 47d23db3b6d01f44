"""Linux calls that Python's standard library does not offer, through ctypes. All are of this process alone."""

import ctypes
import os
import struct

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 4, 22, 36, 38
PR_SET_THP_DISABLE = 41
SECCOMP_MODE_FILTER = 2
SIGKILL = 9
LANDLOCK_CREATE, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT = 444, 445, 446
LANDLOCK_GET_ABI = 1
LANDLOCK_PATH_BENEATH = 1
LANDLOCK_READ_ONLY = 0b1101  # execute, read a file, read a directory
LANDLOCK_LIST_ONLY = 0b1000
LANDLOCK_FILE_ONLY = 0b1 | 0b10 | 0b100 | 1 << 14 | 1 << 15
CAPABILITY_VERSION_3 = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result


def prctl(option: int, value: int, pointer: int = 0) -> None:
    """Set one property of this process. Raises `OSError`."""
    arguments = (ctypes.c_ulong(value), ctypes.c_ulong(pointer), ctypes.c_ulong(0), ctypes.c_ulong(0))
    _checked(_libc.prctl(ctypes.c_int(option), *arguments), f"prctl {option}")


def drop_capabilities() -> None:
    """Give up every capability of this process. Raises `OSError`."""
    header = ctypes.create_string_buffer(struct.pack("Ii", CAPABILITY_VERSION_3, 0))
    _checked(_libc.capset(header, ctypes.create_string_buffer(24)), "capset")


def unshare(flags: int) -> None:
    """Leave the namespaces that `flags` name for fresh ones. Raises `OSError`."""
    _checked(_libc.unshare(ctypes.c_int(flags)), "unshare")


def mount(source: str, target: str, kind: str | None, flags: int, options: str = "") -> None:
    """mount(2). Raises `OSError` naming the target."""
    kind_bytes = None if kind is None else kind.encode()
    result = _libc.mount(source.encode(), target.encode(), kind_bytes, ctypes.c_ulong(flags), options.encode() or None)
    _checked(result, f"mount {target}")


def pivot_root(new_root: str, old_root: str) -> None:
    """Make `new_root` the root and put the old one at `old_root`, below it. Raises `OSError`."""
    number = {"x86_64": 155}.get(os.uname().machine, 41)
    _checked(_libc.syscall(ctypes.c_long(number), new_root.encode(), old_root.encode()), "pivot_root")


def unmount(target: str) -> None:
    """Detach the mount at `target`. Raises `OSError`."""
    _checked(_libc.umount2(target.encode(), ctypes.c_int(2)), f"unmount {target}")


def landlock_abi() -> int:
    """Return the version of Landlock that this kernel has; 0 for none."""
    result = _libc.syscall(ctypes.c_long(LANDLOCK_CREATE), None, ctypes.c_size_t(0), ctypes.c_uint(LANDLOCK_GET_ABI))
    return int(max(result, 0))


def file_rules(read_paths: list[str], list_paths: list[str], write_paths: list[str]) -> int:
    """Return a descriptor of rules that forbid every file outside these paths. Of `list_paths` only names can be read.

    TCP, abstract sockets and signals are forbidden too where the kernel's Landlock knows them. Raises `OSError`.
    """
    abi = landlock_abi()
    handled = (1 << {0: 0, 1: 13, 2: 14, 3: 15, 4: 15}.get(abi, 16)) - 1
    attributes = struct.pack("QQQ", handled, 0b11, 0b11)[: 8 if abi < 4 else 16 if abi < 6 else 24]
    size = ctypes.c_size_t(len(attributes))
    created = _libc.syscall(ctypes.c_long(LANDLOCK_CREATE), ctypes.c_char_p(attributes), size, ctypes.c_uint(0))
    ruleset = _checked(created, "landlock")
    access = ((read_paths, LANDLOCK_READ_ONLY & handled), (list_paths, LANDLOCK_LIST_ONLY), (write_paths, handled & ~1))
    rule = ctypes.create_string_buffer(12)
    call = (ctypes.c_long(LANDLOCK_ADD_RULE), ctypes.c_int(ruleset), ctypes.c_int(LANDLOCK_PATH_BENEATH), rule)
    for paths, allowed in access:
        for path in paths:
            _allow(path, allowed, rule, call)
    return ruleset


def _allow(path: str, access: int, rule: ctypes.Array[ctypes.c_char], call: tuple[object, ...]) -> None:
    """Add one rule; `call` is prepared for all, because a box may need some hundred of them."""
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        struct.pack_into("=Qi", rule, 0, access, fd)
        if _libc.syscall(*call, 0) < 0:  # a file has no rights of folders
            struct.pack_into("=Qi", rule, 0, access & LANDLOCK_FILE_ONLY, fd)
            _checked(_libc.syscall(*call, 0), f"landlock {path}")
    finally:
        os.close(fd)


def restrict_files(ruleset: int) -> None:
    """Put `file_rules` into force for this process, for good; needs no_new_privs. Raises `OSError`."""
    _checked(_libc.syscall(ctypes.c_long(LANDLOCK_RESTRICT), ctypes.c_int(ruleset), ctypes.c_uint(0)), "landlock")
    os.close(ruleset)


def install_filter(instructions: list[tuple[int, int, int, int]]) -> None:
    """Install a seccomp filter of BPF instructions (code, jump if true, jump if false, k); needs no_new_privs."""
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *instruction) for instruction in instructions))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(instructions), ctypes.addressof(code)))
    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.addressof(program))
