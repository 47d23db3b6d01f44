"""A hub on this machine, with the part of the real one's HTTP API that downloads of models and data sets use."""

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

LARGE_BYTES = 4096
CHUNK_BYTES = 1 << 16


@dataclass
class Served:
    """A repository: its files at each revision. `refusal` is the status and error code of a repository kept back."""

    revisions: dict[str, dict[str, bytes]]
    commits: dict[str, str]
    refusal: tuple[int, str] | None = None

    def commit_of(self, revision: str) -> str | None:
        return revision if revision in self.revisions else self.commits.get(revision)


@dataclass
class FakeHub:
    """What is served, what was asked (method, path, Range), and how the connection is to fail.

    A data set's repository is one whose name begins with `datasets/`.
    """

    repositories: dict[str, Served] = field(default_factory=dict)
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)
    cut_after_bytes: int | None = None
    hold_after_bytes: int | None = None
    refuses_ranges: bool = False
    spoils: bool = False
    url: str = ""
    released: threading.Event = field(default_factory=threading.Event)

    def put(self, repo: str, files: Mapping[str, bytes], branch: str = "main") -> str:
        """Serve `files` as the newest commit of a branch; returns the commit."""
        digest = hashlib.sha1(repr(sorted(files.items())).encode(), usedforsecurity=False)
        commit = digest.hexdigest()
        served = self.repositories.setdefault(repo, Served({}, {}))
        served.revisions[commit] = dict(files)
        served.commits[branch] = commit
        return commit

    def ranges_of(self, name: str) -> list[str | None]:
        """The Range headers of the requests for the contents of a file."""
        return [span for method, path, span in self.asked if method == "GET" and path.endswith(f"/{name}")]


def git_hash(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _etag(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest() if len(data) >= LARGE_BYTES else git_hash(data)


def _sibling(name: str, data: bytes) -> dict[str, Any]:
    large = {"sha256": _etag(data), "size": len(data), "pointerSize": 130}
    return {
        "rfilename": name,
        "size": len(data),
        "blobId": git_hash(data),
        "lfs": large if len(data) >= LARGE_BYTES else None,
    }


def _entry(name: str, data: bytes) -> dict[str, Any]:
    return {"type": "file", "path": name, "size": len(data), "oid": git_hash(data)}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: FakeHub

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        """Answer the one question that is posted: which of some paths exist in a data set."""
        repo, _, revision = unquote(urlsplit(self.path).path).removeprefix("/api/").partition("/paths-info/")
        asked = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        found = self._found(repo, revision)
        if found is not None:
            files = found[0].revisions[found[1]]
            wanted = {name: files[name] for name in asked.get("paths", []) if name in files}
            self._send_json([_entry(name, data) for name, data in wanted.items()])

    def log_message(self, format: str, *args: Any) -> None: ...

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append((self.command, path, self.headers.get("Range")))
        if path == "/":
            self._send(200, b"a hub")
        elif path.startswith("/api/models/"):
            self._api(path.removeprefix("/api/models/"))
        elif path.startswith("/api/datasets/"):
            self._api(path.removeprefix("/api/"))
        else:
            repo, _, rest = path.strip("/").partition("/resolve/")
            revision, _, name = rest.partition("/")
            self._file(repo, revision, name)

    def _found(self, repo: str, revision: str) -> tuple[Served, str] | None:
        served = self.hub.repositories.get(repo)
        if served is None:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
            return None
        if served.refusal is not None:
            self._send(served.refusal[0], b"{}", {"X-Error-Code": served.refusal[1]})
            return None
        commit = served.commit_of(revision)
        if commit is None:
            self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            return None
        return served, commit

    def _api(self, path: str) -> None:
        if "/tree/" in path:
            self._tree(path)
            return
        repo, _, revision = path.partition("/revision/")
        if path.endswith("/refs"):
            repo, revision = path.removesuffix("/refs"), "main"
        found = self._found(repo, revision or "main")
        if found is None:
            return
        served, commit = found
        if path.endswith("/refs"):
            branches = [
                {"name": name, "ref": f"refs/heads/{name}", "targetCommit": at} for name, at in served.commits.items()
            ]
            answer: dict[str, Any] = {"branches": branches, "tags": [], "converts": []}
        else:
            siblings = [_sibling(name, data) for name, data in served.revisions[commit].items()]
            name = repo.removeprefix("datasets/")
            answer = {"id": name, "modelId": name, "sha": commit, "private": False, "tags": [], "siblings": siblings}
        self._send_json(answer)

    def _tree(self, path: str) -> None:
        """List the files below a folder of a repository."""
        repo, _, rest = path.partition("/tree/")
        revision, _, folder = rest.partition("/")
        found = self._found(repo, revision)
        if found is not None:
            files = found[0].revisions[found[1]]
            self._send_json([_entry(name, data) for name, data in files.items() if name.startswith(folder)])

    def _send_json(self, answer: object) -> None:
        self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def _file(self, repo: str, revision: str, name: str) -> None:
        found = self._found(repo, revision)
        if found is None:
            return
        served, commit = found
        data = served.revisions[commit].get(name)
        if data is None:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
            return
        headers = {"X-Repo-Commit": commit, "ETag": f'"{_etag(data)}"', "Accept-Ranges": "bytes"}
        start = self._start(len(data))
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        if self.hub.spoils:
            data = bytes(len(data))
        self._send(206 if start else 200, data[start:], headers)

    def _start(self, num_bytes: int) -> int:
        span = self.headers.get("Range")
        return 0 if span is None or self.hub.refuses_ranges else int(span.removeprefix("bytes=").rstrip("-"))

    def _send(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self._write(body)

    def _write(self, body: bytes) -> None:
        hub = self.hub
        for limit in (hub.cut_after_bytes, hub.hold_after_bytes):
            if limit is not None and len(body) > limit:
                self.wfile.write(body[:limit])
                self.wfile.flush()
                if limit == hub.hold_after_bytes:
                    hub.released.wait(60)
                hub.cut_after_bytes = None
                self.close_connection = True
                return
        self.wfile.write(body)


@contextmanager
def running_hub() -> Iterator[FakeHub]:
    """Serve a hub until the block ends."""
    hub = FakeHub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield hub
    finally:
        hub.released.set()
        server.shutdown()
        server.server_close()
        thread.join(timeout=10)
