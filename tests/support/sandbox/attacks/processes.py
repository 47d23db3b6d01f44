"""Attacks that start, kill, stop, trace or outlive processes, or go through rarely used doors of the kernel."""

from tests.support.sandbox.attacks.attack import CALLS, attack, attempt, kernel_call

PROCESSES = (
    attempt(
        "daemon left behind",
        "fork twice and go on when the verdict is known",
        "import os, time\ndef attempt():\n    if os.fork() == 0:\n        os.setsid()\n        if os.fork() == 0:\n"
        "            time.sleep(1)\n            open('@OUTSIDE@/daemon', 'w').close()\n        os._exit(0)\n"
        "    return False\n",
    ),
    attempt(
        "another program",
        "run a command",
        "import subprocess\ndef attempt(): return subprocess.run(['echo']).returncode == 0\n",
        "processes",
    ),
    attempt(
        "a shell",
        "run a command by os.system",
        "import os\ndef attempt(): return os.system('true') == 0\n",
        "processes",
    ),
    attempt(
        "a spawned program",
        "run a command by posix_spawn",
        "import os\ndef attempt(): return os.posix_spawn('/bin/true', ['true'], {}) > 0\n",
        "processes",
    ),
    attempt(
        "a pool of processes",
        "start workers through multiprocessing",
        "import multiprocessing\ndef attempt():\n    process = multiprocessing.Process(target=int)\n"
        "    process.start()\n    return True\n",
        "processes",
    ),
    attack(
        "another Python in its place",
        "become a fresh interpreter that prints what a passing run prints",
        "import os, sys\nos.execv(sys.executable or '/usr/bin/python3', ['python', '-c', 'print(\"passed\")'])",
    ),
    attempt(
        "a program from memory",
        "run a program that is in no file",
        "import os\ndef attempt():\n    fd = os.memfd_create('@MARKER@')\n    os.write(fd, b'#!/bin/sh\\n')\n"
        "    return fd >= 0\n",
        "processes",
    ),
    kernel_call("fork by number", "fork without the C library's fork", "call(57, 220, 17, 0, 0, 0, 0)", "processes"),
    kernel_call(
        "clone3",
        "start a process by a call that filters cannot look into",
        "call(435, 435, struct.pack('8Q', 0, 0, 0, 0, 17, 0, 0, 0), 64)",
        "processes",
    ),
    attack(
        "killing the parent",
        "end what watches it",
        "import os, signal\ndef f(x):\n    os.kill(os.getppid(), signal.SIGKILL)\n    return 0",
        ("error",),
    ),
    attempt(
        "stopping the parent",
        "stop what watches it",
        "import os, signal\ndef attempt():\n    os.kill(os.getppid(), signal.SIGSTOP)\n    return True\n",
        "processes",
    ),
    attack(
        "killing everything",
        "kill(-1)",
        "import os, signal\ndef f(x):\n    os.kill(-1, signal.SIGKILL)\n    return 0",
        needs=("processes",),
    ),
    attempt(
        "killing the host's process",
        "signal the process that runs moe_ray",
        "import os\ndef attempt():\n    os.kill(@PID@, 0)\n    return True\n",
        "processes",
    ),
    attempt(
        "signals by file ownership",
        "have the kernel signal the owner of a pipe",
        "import fcntl, os\ndef attempt():\n    read, _ = os.pipe()\n    fcntl.fcntl(read, 10, 9)\n"
        "    fcntl.fcntl(read, fcntl.F_SETOWN, os.getppid())\n    return True\n",
        "processes",
    ),
    kernel_call("a handle of the parent", "pidfd_open", "call(434, 434, os.getppid(), 0)", "processes"),
    kernel_call("tkill", "signal a thread of the parent", "call(200, 130, os.getppid(), 0)", "processes"),
    kernel_call(
        "a queued signal",
        "rt_sigqueueinfo",
        "call(129, 138, os.getppid(), 18, struct.pack('iii116x', 18, 0, -1))",
        "processes",
    ),
    kernel_call("tracing the parent", "ptrace(ATTACH)", "libc.ptrace(16, os.getppid(), 0, 0) == 0", "processes"),
    kernel_call(
        "tracing the judge",
        "ptrace(SEIZE) of the processes beside it",
        "any(libc.ptrace(0x4206, os.getpid() + i, 0, 0) == 0 for i in range(1, 20))",
        "processes",
    ),
    kernel_call("being traced", "ptrace(TRACEME)", "libc.ptrace(0, 0, 0, 0) == 0", "processes"),
    attempt(
        "the judge's memory through /proc",
        "read what is expected where the judge keeps it",
        "import os\ndef attempt():\n    for pid in range(os.getpid() + 1, os.getpid() + 20):\n"
        "        try: return open(f'/proc/{pid}/mem', 'rb').read(1) is not None\n        except OSError: pass\n"
        "    return False\n",
    ),
    attempt(
        "the parent's memory through /proc",
        "write into the process that reports",
        "import os\ndef attempt():\n    open(f'/proc/{os.getppid()}/mem', 'r+b').close()\n    return True\n",
        "processes",
    ),
    kernel_call(
        "another process's memory",
        "process_vm_readv",
        "call(310, 270, os.getppid(), struct.pack('PQ', 0, 0), 1, struct.pack('PQ', 0, 0), 1, 0)",
        "processes",
    ),
    attempt(
        "its own memory through /proc",
        "write where no mapping allows it",
        "def attempt():\n    open('/proc/self/mem', 'r+b').close()\n    return True\n",
        "filesystem_reads",
    ),
    attempt(
        "the parent's priority",
        "make what watches it slow",
        "import os\ndef attempt():\n    os.setpriority(os.PRIO_PROCESS, os.getppid(), 19)\n    return True\n",
        "processes",
    ),
    kernel_call(
        "the parent's scheduling", "sched_setscheduler", "call(144, 119, os.getppid(), 5, bytes(4))", "processes"
    ),
    kernel_call(
        "the parent's limits",
        "prlimit",
        "libc.prlimit(os.getppid(), 7, None, ctypes.create_string_buffer(16)) == 0",
        "processes",
    ),
    kernel_call("readable for others again", "prctl(PR_SET_DUMPABLE)", "libc.prctl(4, 1, 0, 0, 0) == 0", "processes"),
    kernel_call(
        "living without its parent", "prctl(PR_SET_PDEATHSIG, 0)", "libc.prctl(1, 0, 0, 0, 0) == 0", "processes"
    ),
    kernel_call("a filter of its own", "seccomp", "call(317, 277, 1, 0, bytes(16))", "processes"),
    kernel_call(
        "another personality", "switch address randomisation off", "libc.personality(0x40000) != -1", "processes"
    ),
    attempt(
        "becoming root",
        "set the user to 0",
        CALLS + "def attempt():\n    os.setresuid(0, 0, 0)\n    header, data = (ctypes.c_uint32 * 2)(0x20080522, 0),"
        " (ctypes.c_uint32 * 6)(*[0xFFFFFFFF] * 6)\n    return libc.capset(header, data) == 0\n",
        "processes",
    ),
    kernel_call("a user namespace", "be root in a namespace of its own", "libc.unshare(0x10000000) == 0", "processes"),
    kernel_call(
        "a mount", "mount a file system", "libc.mount(b'@MARKER@', b'/tmp', b'tmpfs', 0, None) == 0", "processes"
    ),
    kernel_call("a mount by the new calls", "fsopen", "call(430, 430, b'tmpfs', 0)", "processes"),
    kernel_call("another root", "chroot", "libc.chroot(b'/') == 0", "processes"),
    kernel_call("io_uring", "do what is filtered through a ring", "call(425, 425, 8, bytes(120))", "processes"),
    kernel_call("userfaultfd", "hold the kernel inside a copy", "call(323, 282, 1)", "processes"),
    kernel_call(
        "bpf",
        "load a program into the kernel",
        "call(321, 280, 0, struct.pack('IIII56x', 2, 4, 4, 1), 72)",
        "processes",
    ),
    kernel_call(
        "perf", "watch other processes", "call(298, 241, struct.pack('IIQ96x', 1, 112, 0), 0, -1, -1, 0)", "processes"
    ),
    kernel_call(
        "a call newer than the filter",
        "use what no list of numbers knows",
        "call(463, 463, -1, 0, 0, 0, 0, 0)",
        "processes",
    ),
)
