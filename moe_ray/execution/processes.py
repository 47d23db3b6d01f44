"""What Linux says of the memory of a process."""

from pathlib import Path

_KIB = 1024


def peak_resident_bytes(pid: int) -> int:
    """Return the most memory that process `pid` had resident so far; 0 for one that is gone or going.

    Read from the kernel's table: ru_maxrss of a process that was forked is its parent's, where that is larger.
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0
    # "VmHWM:     12345 kB"; a process that has ended and was not waited for has no such line.
    found = (line.split() for line in status.splitlines() if line.startswith("VmHWM:"))
    return next((int(words[1]) * _KIB for words in found), 0)
