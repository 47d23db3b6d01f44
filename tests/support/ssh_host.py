"""A real sshd on this machine, and an `ssh` that knows it as `login`: keys and settings of their own, one folder.

Needs openssh-server and openssh-client; `why_not` says what is missing. Commands of the login node may run inside
another program, such as the one that enters a lab's namespaces.
"""

import os
import shlex
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

START_TIMEOUT_S = 30.0

SERVER = """\
ListenAddress 127.0.0.1
Port {port}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/authorized_keys
PidFile {folder}/sshd.pid
StrictModes no
PasswordAuthentication no
UsePAM no
LogLevel VERBOSE
ForceCommand {folder}/command
"""

CLIENT = """\
Host login
  HostName 127.0.0.1
  Port {port}
  User {user}
  IdentityFile {folder}/key
  IdentitiesOnly yes
  StrictHostKeyChecking yes
  UserKnownHostsFile {folder}/known_hosts
  GlobalKnownHostsFile /dev/null
"""


def why_not() -> str | None:
    """Return why sshd cannot be started here; None where it can."""
    if os.geteuid() != 0:
        return "needs root, for sshd"
    missing = [name for name in ("sshd", "ssh", "ssh-keygen") if _program(name) is None]
    return f"not installed: {', '.join(missing)}" if missing else None


@dataclass(frozen=True)
class SshHost:
    """A running sshd. `bin` has an `ssh` that reads this host's settings and no others."""

    folder: Path
    server: "subprocess.Popen[bytes]"

    @property
    def bin(self) -> Path:
        """The folder that must come first in PATH."""
        return self.folder / "bin"

    @property
    def num_connections(self) -> int:
        """How many clients have logged in."""
        return (self.folder / "log").read_text().count("Accepted publickey")

    @property
    def sessions(self) -> list[psutil.Process]:
        """The server's processes for connections that are open."""
        return psutil.Process(self.server.pid).children()

    def forget_key(self) -> None:
        """Accept the client's key no longer."""
        (self.folder / "authorized_keys").write_text("")


@contextmanager
def ssh_host(folder: Path, inside: Sequence[str] = ()) -> Iterator[SshHost]:
    """Start sshd; the command of a client runs as the last argument of `inside`, and in a shell without it."""
    folder.mkdir(mode=0o755)
    (folder / "bin").mkdir()
    for name in ("key", "host_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    shutil.copy(folder / "key.pub", folder / "authorized_keys")
    port = _free_port()
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {(folder / 'host_key.pub').read_text()}")
    (folder / "sshd_config").write_text(SERVER.format(port=port, folder=folder))
    (folder / "config").write_text(CLIENT.format(port=port, folder=folder, user=_user()))
    command = shlex.join([*inside, "sh", "-c"])
    _write_program(folder / "command", f'export PATH="$PATH:/usr/sbin:/sbin"\nexec {command} "$SSH_ORIGINAL_COMMAND"')
    _write_program(folder / "bin" / "ssh", f'exec {_program("ssh")} -F {folder}/config "$@"')
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [str(_program("sshd")), "-D", "-e", "-f", str(folder / "sshd_config")], stderr=log, stdin=subprocess.DEVNULL
        )
    host = SshHost(folder, server)
    try:
        _wait_for_port(port, host)
        yield host
    finally:
        for process in [*psutil.Process(server.pid).children(recursive=True), psutil.Process(server.pid)]:
            process.kill()
        server.wait()


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


def _user() -> str:
    return psutil.Process().username()


def _write_program(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/bash\n{script}\n")
    path.chmod(0o755)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for_port(port: int, host: SshHost) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert time.monotonic() < deadline, (host.folder / "log").read_text()
            assert host.server.poll() is None, (host.folder / "log").read_text()
            time.sleep(0.05)
        else:
            return
