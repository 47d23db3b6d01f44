"""Processes of an agent: they end with it, and may import their packages before it is known what they run.

From a shared file system packages take seconds to import, and the nodes of a job wait for each other meanwhile.
"""

import ctypes
import json
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1
# Without the working directory on the import path, where a file such as json.py would replace a package.
_WAIT = """
import sys
if not sys.flags.safe_path:
    del sys.path[0]
import contextlib, importlib, json, os
module = importlib.import_module(sys.argv[1])
for name in sys.argv[2:]:
    with contextlib.suppress(ImportError):
        importlib.import_module(name)
line = sys.stdin.readline()
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
if line:
    given = json.loads(line)
    os.environ.update(given["environment"])
    sys.argv[:] = given["argv"]
    sys.exit(module.main())
"""


def start_child(command: Sequence[str], environment: Mapping[str, str], **options: Any) -> "subprocess.Popen[bytes]":
    """Start a process in a session of its own that gets SIGTERM when this process dies."""

    def tie() -> None:
        LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

    return subprocess.Popen(
        command,
        env=dict(environment),
        start_new_session=True,
        preexec_fn=tie,
        **{"stdin": subprocess.DEVNULL, **options},
    )


class PreparedProgram:
    """A process that imports `modules` and waits; `run` has it call the `main` of the first one.

    Of the others, one that cannot be imported is left to `main`. `options` are those of `subprocess.Popen`.
    """

    def __init__(self, modules: Sequence[str], environment: Mapping[str, str], **options: Any) -> None:
        command = [sys.executable, "-c", _WAIT, *modules]
        self._process = start_child(command, environment, stdin=subprocess.PIPE, **options)

    def run(self, argv: Sequence[str], **variables: str) -> "subprocess.Popen[bytes] | None":
        """Run the program as `argv`, whose first word is its name, with more environment variables.

        Returns the process; None where it has ended, as when a module cannot be imported.
        """
        line = json.dumps({"argv": list(argv), "environment": variables}) + "\n"
        assert self._process.stdin is not None
        try:
            with self._process.stdin as pipe:
                pipe.write(line.encode())
        except BrokenPipeError:
            self._process.wait()
            return None
        return self._process
