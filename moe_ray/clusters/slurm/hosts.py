"""Where SLURM's commands run: on this machine, or on a login node over one ssh connection."""

import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from moe_ray.errors import UserError

CONNECT_TIMEOUT_S = 10
COMMAND_TIMEOUT_S = 20.0
PERSIST_S = 120

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@:%-]*")


class HostAnswer(NamedTuple):
    """What a command said. `code` is None where it could not be started or took too long."""

    code: int | None
    out_bytes: bytes
    err: str

    @property
    def out(self) -> str:
        """The standard output as text."""
        return self.out_bytes.decode("utf-8", "replace")


class Host:
    """A machine with SLURM's commands. `name` is an ssh host; empty for this machine.

    Raises `UserError` for a name that ssh would take for an option.
    """

    def __init__(self, name: str = "") -> None:
        if name and not _NAME.fullmatch(name):
            raise UserError(f"{name!r} is not an ssh host", where="--host", remedy="write HOST or USER@HOST")
        self.name = name

    def run(
        self,
        command: Sequence[str],
        *,
        timeout_s: float = COMMAND_TIMEOUT_S,
        environment: Mapping[str, str] | None = None,
    ) -> HostAnswer:
        """Run a command and return what it said; never raises for a command that fails or hangs."""
        wrapped = list(command) if not self.name else [*ssh_command(), self.name, shlex.join(command)]
        try:
            done = subprocess.run(
                wrapped,
                capture_output=True,
                timeout=timeout_s,
                check=False,
                stdin=subprocess.DEVNULL,
                env=None if environment is None else dict(environment),
            )
        except FileNotFoundError:
            return HostAnswer(None, b"", f"{wrapped[0]}: command not found")
        except (OSError, subprocess.TimeoutExpired) as error:
            reason = f"no answer within {timeout_s:g} s" if isinstance(error, subprocess.TimeoutExpired) else str(error)
            return HostAnswer(None, b"", f"{command[0]}: {reason}")
        return HostAnswer(done.returncode, done.stdout, done.stderr.decode("utf-8", "replace"))

    def require_reachable(self) -> None:
        """Raise `UserError` when the ssh host cannot be reached."""
        if not self.name:
            return
        answer = self.run(["true"], timeout_s=COMMAND_TIMEOUT_S + CONNECT_TIMEOUT_S)
        if answer.code != 0:
            reason = (answer.err.strip().splitlines() or ["ssh failed"])[-1]
            raise UserError(
                f"cannot reach {self.name}: {reason}",
                where="--host",
                remedy=f"check that `ssh {self.name}` works in this shell",
            )
        if answer.out:
            raise UserError(
                f"the login shell of {self.name} prints text, which breaks rsync: {answer.out.splitlines()[0]!r}",
                where="--host",
                remedy="print it only in interactive shells: put `[[ $- != *i* ]] && return` above it in ~/.bashrc",
            )


def ssh_command() -> list[str]:
    """Return ssh with one shared connection, so that a password or a second factor is asked for once."""
    folder = Path(tempfile.gettempdir()) / f"moe-ray-ssh-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid() or folder.stat().st_mode & 0o077:
        raise UserError("is not private to you", where=str(folder), remedy="remove it and run the same command again")
    batch = [] if sys.stdin.isatty() else ["-o", "BatchMode=yes"]
    return [
        "ssh", "-o", "ControlMaster=auto", "-o", f"ControlPersist={PERSIST_S}", "-o", f"ControlPath={folder}/%C",
        "-o", f"ConnectTimeout={CONNECT_TIMEOUT_S}", *batch,
    ]  # fmt: skip
