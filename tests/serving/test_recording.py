"""Recorded calls are Parquet files that evaluate reads, and each request leaves one line without texts in the log."""

import asyncio
import contextlib
import json
import logging
import stat
import time
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import pyarrow.parquet as pq
import pytest

from moe_ray.config.schema import DomainConfig
from moe_ray.config.serving import ServingConfig
from moe_ray.domains.loading import load_domain
from moe_ray.engines.base import NEVER_RAN, Delta, Generation
from moe_ray.errors import ConfigError
from moe_ray.prompts.messages import Message, Prompt
from moe_ray.serving import recording
from moe_ray.serving.access import AccessGate
from moe_ray.serving.api import make_api
from moe_ray.serving.backend import Ticket
from moe_ray.serving.calls import ApiCall, ApiError, RoutingVerdict
from moe_ray.serving.metrics import MetricCounts
from moe_ray.serving.outcome import REQUEST_LOG, ChoiceText
from moe_ray.serving.recording import Recorder, rows_of
from moe_ray.serving.replica import CallPiece

PATIENCE_S = 30.0
KEY = "a-key-of-sixteen-characters-or-more"
SECRET = "the patient's name is Ada"
VERDICT = RoutingVerdict(
    requested="auto", expert="desk", probabilities={"tickets": 0.9, "manual": 0.1}, confidence=0.9, out_of_domain=False
)


class FakeBackend:
    """One model that answers with `words`, and fails after them where the test wants it."""

    def __init__(self, words: tuple[str, ...] = ("billing", " it", " is")) -> None:
        self.system = SimpleNamespace(serving=ServingConfig(), max_calls=192)
        self.metrics = MetricCounts()
        self.words = words
        self.fails = False

    async def judge(self, ticket: Ticket) -> RoutingVerdict:
        return VERDICT

    async def answer(self, ticket: Ticket) -> tuple[RoutingVerdict, list[Generation]]:
        one = Generation(
            text="".join(self.words),
            token_ids=(1, 2, 3),
            finish_reason="stop",
            num_prompt_tokens=7,
            timing=NEVER_RAN,
        )
        return VERDICT, [one] * ticket.call.n

    async def stream(self, ticket: Ticket) -> AsyncGenerator[list[CallPiece]]:
        for word in self.words:
            yield [CallPiece(0, Delta(text=word, num_tokens=1))]
        if self.fails:
            raise ApiError(500, "the model's process has ended", kind="server_error")
        yield [CallPiece(0, Delta(finish_reason="stop", num_prompt_tokens=7, num_completion_tokens=3))]


@contextlib.asynccontextmanager
async def no_lifespan(_app: Any) -> AsyncIterator[None]:
    yield


def ask(backend: Any, recorder: Recorder | None, *bodies: dict[str, Any]) -> list[httpx2.Response]:
    """Send chats to the application, without a server."""
    app = make_api(backend, AccessGate((), ("testserver",)), no_lifespan, recorder)

    async def send() -> list[httpx2.Response]:
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://testserver") as http:
            shared = {"model": "auto", "messages": [{"role": "user", "content": SECRET}]}
            headers = {"x-request-id": "r-1", "authorization": f"Bearer {KEY}"}
            return [await http.post("/v1/chat/completions", json=shared | body, headers=headers) for body in bodies]

    return asyncio.run(send())


def read(directory: Path) -> list[dict[str, Any]]:
    return [row for path in sorted(directory.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def ticket(query: str) -> Ticket:
    prompt = Prompt(messages=(Message(role="user", content=query),))
    call = ApiCall(endpoint="chat", model="auto", prompts=(prompt,), query=query)
    return Ticket(id="r-1", call=call, verdict=VERDICT)


def rows(query: str, answer: str) -> list[dict[str, Any]]:
    return rows_of(ticket(query), [ChoiceText([answer], [], "stop")])


def test_whole_and_streamed_answers_are_recorded_alike(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "recorded", "ingress#1")
    assert [one.status_code for one in ask(FakeBackend(), recorder, {}, {"stream": True})] == [200, 200]
    recorder.close()
    unary, streamed = read(tmp_path / "recorded")
    assert unary["query"] == SECRET
    assert unary["answer"] == "billing it is"
    assert (unary["model"], unary["domain"], unary["confidence"]) == ("desk", "tickets", 0.9)
    for name in unary.keys() - {"id", "recorded_at"}:
        assert unary[name] == streamed[name]
    assert unary["id"] != streamed["id"]


def test_a_client_that_says_store_false_is_not_recorded(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, "ingress")
    ask(FakeBackend(), recorder, {"store": False}, {"store": False, "stream": True})
    recorder.close()
    assert list(tmp_path.iterdir()) == []


def test_a_stream_that_fails_is_not_recorded(tmp_path: Path) -> None:
    backend, recorder = FakeBackend(), Recorder(tmp_path, "ingress")
    backend.fails = True
    (response,) = ask(backend, recorder, {"stream": True})
    assert "error" in response.text
    recorder.close()
    assert read(tmp_path) == []


def test_no_key_and_no_header_is_in_a_file(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, "ingress")
    ask(FakeBackend(), recorder, {"user": "someone@example.org"})
    recorder.close()
    (path,) = tmp_path.glob("*.parquet")
    written = json.dumps(pq.read_table(path).to_pylist(), default=str)
    assert KEY not in written
    assert "example.org" not in written
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "section",
    [
        {"task": "free_text", "columns": {"question": "query", "reference": "answer"}},
        {
            "task": "decision",
            "columns": {"question": "query", "label": "answer"},
            "choices": ["billing", "delivery"],
        },
    ],
    ids=["free_text", "decision"],
)
def test_evaluate_reads_a_recorded_file_as_a_domain(tmp_path: Path, section: dict[str, Any]) -> None:
    recorder = Recorder(tmp_path, "ingress")
    recorder.add(rows("Where is my invoice?", "billing") + rows("Where is my parcel?", "delivery"))
    recorder.close()
    (path,) = tmp_path.glob("*.parquet")
    config = DomainConfig.model_validate({**section, "data": {"source": str(path)}})
    loaded = load_domain("recorded", config, tmp_path)
    assert {example.reference for example in loaded.examples} == {"billing", "delivery"}
    assert {example.id for example in loaded.examples} == {row["id"] for row in read(tmp_path)}
    assert any("invoice" in example.prompts["chat"].messages[-1].content for example in loaded.examples)


def test_a_file_is_written_after_its_number_of_rows_and_after_its_time(tmp_path: Path) -> None:
    by_rows = Recorder(tmp_path / "rows", "a", max_rows=2, max_age_s=PATIENCE_S)
    by_rows.add(rows("one", "1") + rows("two", "2"))
    by_age = Recorder(tmp_path / "age", "a", max_age_s=0.05)
    by_age.add(rows("one", "1"))
    deadline = time.monotonic() + PATIENCE_S
    for directory, number in ((tmp_path / "rows", 2), (tmp_path / "age", 1)):
        while len(read(directory)) < number and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(read(directory)) == number
    by_rows.close()
    by_age.close()


def test_what_waits_for_the_disk_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "MAX_PENDING_BYTES", 10_000)
    recorder = Recorder(tmp_path, "ingress")
    recorder.add(rows("q", "a" * 9_000))
    recorder.add(rows("q", "b" * 9_000))
    assert recorder.take_dropped() == 1
    assert recorder.take_dropped() == 0
    recorder.close()
    assert len(read(tmp_path)) == 1


def test_answers_that_cannot_be_written_are_counted_and_leave_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fill(*_arguments: object, **_more: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", fill)
    recorder = Recorder(tmp_path, "ingress")
    recorder.add(rows(SECRET, "a"))
    recorder.close()
    assert recorder.take_dropped() == 1
    assert list(tmp_path.iterdir()) == []
    assert "No space left" in caplog.text
    assert SECRET not in caplog.text


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be written"):
        Recorder(tmp_path / "file" / "below", "ingress")


def test_prompts_of_token_ids_have_no_row() -> None:
    call = ApiCall(endpoint="completions", model="desk", prompts=(Prompt(messages=(), token_ids=(1, 2)),), query=None)
    assert rows_of(Ticket(id="r", call=call, verdict=VERDICT), [ChoiceText(["a"], [], "stop")]) == []


@pytest.fixture
def log_lines(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    monkeypatch.setattr(REQUEST_LOG, "handlers", [handler])
    monkeypatch.setattr(REQUEST_LOG, "level", logging.INFO)
    monkeypatch.setattr(REQUEST_LOG, "_cache", {})
    return lines


def test_each_request_leaves_one_line_without_texts_and_keys(log_lines: list[str]) -> None:
    ask(FakeBackend(), None, {}, {"stream": True}, {"messages": []})
    whole, streamed, refused = map(json.loads, log_lines)
    assert whole["id"] == "r-1"
    for line, is_stream in ((whole, False), (streamed, True)):
        assert line["stream"] is is_stream
        assert (line["status"], line["end"], line["path"]) == (200, "complete", "/v1/chat/completions")
        assert (line["model"], line["expert"]) == ("auto", "desk")
        assert (line["prompt_tokens"], line["completion_tokens"]) == (7, 3)
    assert (refused["status"], refused["end"]) == (400, "refused")
    assert not any(text in line for line in log_lines for text in (SECRET, KEY, "billing"))


def test_a_stream_that_breaks_is_logged_as_failed(log_lines: list[str]) -> None:
    backend = FakeBackend()
    backend.fails = True
    ask(backend, None, {"stream": True})
    assert json.loads(log_lines[0])["end"] == "failed"
