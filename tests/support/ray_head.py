"""A Ray head of its own with a dashboard and a token, and a relay before the dashboard that can be cut."""

import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import psutil

START_TIMEOUT_S = 120.0
END_TIMEOUT_S = 20.0
MAX_STARTS = 3
MARK = "MOE_RAY_TEST_HEAD"


@dataclass(frozen=True)
class Head:
    """A running head. `environment` is for commands that may use its token; it has a private HOME."""

    url: str
    token_file: Path
    home: Path
    environment: dict[str, str]


def free_ports(number: int) -> list[int]:
    """Return ports of 127.0.0.1 that nothing listens on now."""
    sockets = [socket.socket() for _ in range(number)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()


@contextmanager
def ray_head(folder: Path, *, num_cpus: int = 2) -> Iterator[Head]:
    """Start a head below `folder`, whose path must be short, and end its processes by their ids."""
    home, token_file = folder / "home", folder / "token"
    home.mkdir()
    descriptor = os.open(token_file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(32))
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    path = f"{Path(sys.executable).parent}:{kept.get('PATH', '')}"
    environment = {**kept, "HOME": str(home), "PATH": path, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    mark = secrets.token_hex(8)
    own = {**environment, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token_file), MARK: mark}
    try:
        for _ in range(MAX_STARTS):
            url, process = _start(folder, own, num_cpus)
            if _answers(url, token_file.read_text(), process, folder / "head.log"):
                break
        else:
            raise AssertionError((folder / "head.log").read_text())
        yield Head(url=url, token_file=token_file, home=home, environment=environment)
    finally:
        _end(mark)
        process.wait(END_TIMEOUT_S)


def _start(folder: Path, environment: dict[str, str], num_cpus: int) -> tuple[str, subprocess.Popen[bytes]]:
    names = ("port", "dashboard-port", "ray-client-server-port", "dashboard-agent-listen-port", "metrics-export-port")
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    options = [f"--{name}={port}" for name, port in ports.items()]
    options += [f"--num-cpus={num_cpus}", "--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1"]
    options += [
        f"--temp-dir={folder / 'ray'}",
        f"--object-store-memory={100 << 20}",
        "--disable-usage-stats",
        "--block",
    ]
    with (folder / "head.log").open("w") as log:
        process = subprocess.Popen(
            [str(Path(sys.executable).parent / "ray"), "start", "--head", *options],
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return f"http://127.0.0.1:{ports['dashboard-port']}", process


def _answers(url: str, token: str, process: subprocess.Popen[bytes], log: Path) -> bool:
    """Wait for the dashboard. False where Ray gave up: on a busy machine its own 30 s for a raylet can be too short."""
    deadline_s = time.monotonic() + START_TIMEOUT_S
    headers = {"Authorization": f"Bearer {token}"}
    while process.poll() is None:
        assert time.monotonic() < deadline_s, log.read_text()
        try:
            answer = httpx2.get(f"{url}/api/version", headers=headers, trust_env=False)
            if answer.status_code == 200 and "block forever" in log.read_text():
                return True
        except httpx2.HTTPError:
            pass
        time.sleep(0.2)
    return False


def _end(mark: str) -> None:
    """End all processes that carry the mark in their environment: the head's, and those that it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        found = [process for process in psutil.process_iter() if _is_marked(process, mark)]
        for process in found:
            try:
                process.send_signal(number)
            except psutil.NoSuchProcess:
                continue
        if not psutil.wait_procs(found, timeout=END_TIMEOUT_S / 2)[1]:
            return


def _is_marked(process: psutil.Process, mark: str) -> bool:
    try:
        return process.environ().get(MARK) == mark
    except (psutil.Error, OSError):
        return False


@dataclass
class Relay:
    """Passes connections on to a port. `cut` ends those that are open and refuses new ones until `restore`."""

    target: int
    port: int = 0
    num_cut: int = 0
    _is_cut: bool = False
    _open: list[socket.socket] = field(default_factory=list)

    def cut(self) -> None:
        self._is_cut = True
        for one in list(self._open):
            self.num_cut += 1
            _shut(one)

    def restore(self) -> None:
        self._is_cut = False

    def serve(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            if self._is_cut:
                client.close()
                continue
            server = socket.create_connection(("127.0.0.1", self.target))
            for source, sink in ((client, server), (server, client)):
                self._open.append(source)
                threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
        except OSError:
            pass
        finally:
            _shut(sink)
            self._open.remove(source)
            source.close()


def _shut(one: socket.socket) -> None:
    try:
        one.shutdown(socket.SHUT_RDWR)
    except OSError:
        return


@contextmanager
def relay_to(port: int) -> Iterator[Relay]:
    """Relay a free port of this machine to `port`."""
    relay = Relay(target=port)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        relay.port = listener.getsockname()[1]
        thread = threading.Thread(target=relay.serve, args=(listener,))
        thread.start()
        try:
            yield relay
        finally:
            relay.cut()
            _shut(listener)
    thread.join()
