"""A Jobs API like Ray's, in this process: tokens, packages, jobs whose ends a test decides, connections that break."""

import io
import json
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class FakeJob:
    """A job. `ends` are the states that successive requests see; the last one stays."""

    body: dict[str, Any]
    states: list[dict[str, Any]]
    log: str = ""


@dataclass
class FakeJobs:
    """What the server holds. `states` and `log` are what a new job gets; `broken` requests get no answer.

    Jobs that print results print nothing, and are in `senders`.
    """

    url: str = ""
    token: str | None = None
    states: list[dict[str, Any]] = field(default_factory=lambda: [{"status": "SUCCEEDED", "driver_exit_code": 0}])
    log: str = "done\n"
    broken: list[str] = field(default_factory=list)
    packages: dict[str, bytes] = field(default_factory=dict)
    jobs: dict[str, FakeJob] = field(default_factory=dict)
    senders: dict[str, FakeJob] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    tokens_seen: list[str] = field(default_factory=list)

    def files(self) -> list[str]:
        """Names of the files of the first package."""
        content = next(iter(self.packages.values()))
        return zipfile.ZipFile(io.BytesIO(content)).namelist()

    def text(self, name: str) -> str:
        """Content of a file of the first package."""
        content = next(iter(self.packages.values()))
        return zipfile.ZipFile(io.BytesIO(content)).read(name).decode()


@contextmanager
def served_jobs() -> Iterator[FakeJobs]:
    """Serve a fake Jobs API on a free port of this machine."""
    fake = FakeJobs()

    class Handler(_Handler):
        jobs = fake

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    fake.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    jobs: FakeJobs

    def log_message(self, *arguments: object) -> None:
        """Print nothing."""

    def do_GET(self) -> None:
        self._answer("GET")

    def do_PUT(self) -> None:
        self._answer("PUT")

    def do_POST(self) -> None:
        self._answer("POST")

    def _answer(self, method: str) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        self.jobs.requests.append((method, self.path))
        if any(part in f"{method} {self.path}" for part in self.jobs.broken):
            self.close_connection = True
            self.connection.close()
            return
        given = self.headers.get("authorization", "")
        self.jobs.tokens_seen += [given] if given else []
        if self.jobs.token is not None and given != f"Bearer {self.jobs.token}":
            self._send(403 if given else 401, "Forbidden" if given else "Unauthorized")
            return
        self._send(*self._routed(method, self.path.strip("/").split("/")[1:], body))

    def _routed(self, method: str, path: list[str], body: bytes) -> tuple[int, Any]:
        fake = self.jobs
        match [method, *path]:
            case ["GET", "version"]:
                return 200, {"ray_version": "2.60.0", "version": "4"}
            case ["GET", "packages", "gcs", name]:
                return (200, "") if name in fake.packages else (404, "does not exist")
            case ["PUT", "packages", "gcs", name]:
                fake.packages[name] = body
                return 200, ""
            case ["POST", "jobs"]:
                return self._submitted(json.loads(body))
            case [_, "jobs", id, *_] if id not in fake.jobs | fake.senders:
                return 404, f"Job {id} does not exist"
            case ["GET", "jobs", id] if id in fake.senders:
                return 200, {"status": "SUCCEEDED", "driver_exit_code": 0, "metadata": {}}
            case ["GET", "jobs", id, "logs"] if id in fake.senders:
                return 200, {"logs": ""}
            case ["GET", "jobs", id]:
                states = fake.jobs[id].states
                state = states.pop(0) if len(states) > 1 else states[0]
                return 200, {**state, "metadata": fake.jobs[id].body["metadata"]}
            case ["GET", "jobs", id, "logs"]:
                return 200, {"logs": fake.jobs[id].log}
            case ["POST", "jobs", id, "stop"]:
                fake.jobs[id].states[:] = [{"status": "STOPPED"}]
                return 200, {"stopped": True}
        return 404, "no such page"

    def _submitted(self, body: dict[str, Any]) -> tuple[int, Any]:
        id = body["submission_id"]
        if id in self.jobs.jobs:
            return 500, f"Traceback\nValueError: Job with submission_id {id} already exists."
        jobs = self.jobs.senders if "-results-" in id else self.jobs.jobs
        jobs[id] = FakeJob(body, list(self.jobs.states), self.jobs.log)
        return 200, {"submission_id": id}

    def _send(self, status: int, content: Any) -> None:
        payload = content.encode() if isinstance(content, str) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)
