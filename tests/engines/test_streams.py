"""The queue of a stream, streams for engines that lack them, and those of the scripted engine."""

import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from moe_ray.config.schema import ModelConfig
from moe_ray.engines.base import (
    NEVER_RAN,
    Delta,
    EngineMemory,
    GenerateRequest,
    Generation,
    Likelihood,
    LikelihoodRequest,
    TokenLogprob,
)
from moe_ray.engines.scripted import ScriptedEngine
from moe_ray.engines.streams import QueuedStream, StopGuard, streaming
from moe_ray.errors import EngineLostError
from tests.engines.asking import ROOMY, ask, completion

WAIT_S = 60


def scripted(**settings: Any) -> ScriptedEngine:
    return ScriptedEngine(ModelConfig(path="m", engine="scripted", engine_settings=settings), ROOMY)


class Batches:
    """An engine of a user's: the required methods alone. It waits for `may_answer`; two threads must not use it."""

    def __init__(self) -> None:
        self.may_answer = threading.Event()
        self.started = threading.Semaphore(0)
        self.asked: list[str] = []
        self.is_closed = False
        self._in_use = threading.Lock()

    def generate(self, requests: Sequence[GenerateRequest]) -> list[Generation]:
        assert self._in_use.acquire(blocking=False)
        self.asked += [request.id for request in requests]
        self.started.release()
        assert self.may_answer.wait(WAIT_S)
        self._in_use.release()
        if any(request.id == "bad" for request in requests):
            raise ValueError("no such prompt")
        return scripted(text="one two").generate(requests)

    def loglikelihoods(self, requests: Sequence[LikelihoodRequest]) -> list[Likelihood]:
        return scripted().loglikelihoods(requests)

    def memory(self) -> EngineMemory:
        return scripted().memory()

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def batches() -> Iterator[Batches]:
    engine = Batches()
    yield engine
    engine.may_answer.set()


def test_a_reader_waits_for_deltas_and_gets_the_rest_with_the_last() -> None:
    stream = QueuedStream()
    read: list[Delta] = []
    reader = threading.Thread(target=lambda: read.extend(stream))
    reader.start()
    (answer,) = scripted(text="one two").generate([ask("q")])
    stream.put(Delta(text="one"))
    stream.finish(answer, text=" two")
    stream.put(Delta(text="too late"))
    reader.join()
    assert [delta.text for delta in read] == ["one", " two"]
    assert stream.result() == answer
    assert list(stream) == []


def test_cancelling_frees_a_reader_and_tells_the_engine_once() -> None:
    cancelled: list[int] = []
    stream = QueuedStream(on_cancel=lambda: cancelled.append(1))
    stream.put(Delta(text="dropped"))
    waiting = threading.Thread(target=stream.result)
    waiting.start()
    stream.cancel()
    stream.cancel()
    waiting.join()
    assert (list(stream), cancelled) == ([], [1])


def test_cancelling_after_the_end_changes_nothing() -> None:
    cancelled: list[int] = []
    stream = QueuedStream(on_cancel=lambda: cancelled.append(1))
    (answer,) = scripted(text="one").generate([ask("q")])
    stream.finish(answer, text="one")
    stream.cancel()
    assert ([delta.text for delta in stream], stream.result(), cancelled) == (["one"], answer, [])


@pytest.mark.parametrize("size", [1, 2, 3, 50])
@pytest.mark.parametrize(
    ("text", "stops", "expected"),
    [
        ("a stop here", ("stop",), "a "),
        ("sstststop!", ("stop",), "sstst"),
        ("no end: sto", ("stop", ""), "no end: "),
        ("abcd", ("abcx", "bc"), "a"),
        ("plain", (), "plain"),
    ],
)
def test_a_stop_string_is_never_passed_on_however_the_text_is_cut(
    text: str, stops: tuple[str, ...], expected: str, size: int
) -> None:
    guard = StopGuard(stops)
    assert "".join(guard.feed(text[at : at + size]) for at in range(0, len(text), size)) == expected


def test_an_engine_that_streams_is_left_as_it_is() -> None:
    engine = scripted()
    assert streaming(engine) is engine


def test_an_engine_without_submit_answers_one_request_at_a_time(batches: Batches) -> None:
    engine = streaming(batches)
    streams = [engine.submit(ask("q", id=str(number))) for number in range(8)]
    batches.may_answer.set()
    answers = engine.generate([ask("q", id="batch")])
    for stream in streams:
        (only,) = stream
        assert (only.text, only.finish_reason, only.num_completion_tokens) == ("one two", "stop", 2)
    assert answers[0].text == "one two"
    engine.close()
    assert batches.is_closed


def test_errors_and_cancelled_requests_of_such_an_engine_are_their_streams_own(batches: Batches) -> None:
    engine = streaming(batches)
    streams = {id: engine.submit(ask("q", id=id)) for id in ("running", "cancelled", "bad", "good")}
    assert batches.started.acquire(timeout=WAIT_S)
    streams["cancelled"].cancel()
    streams["running"].cancel()
    batches.may_answer.set()
    assert streams["bad"].result().error == "no such prompt"
    assert streams["good"].result().text == "one two"
    assert list(streams["running"]) == list(streams["cancelled"]) == []
    assert "cancelled" not in batches.asked
    engine.close()
    with pytest.raises(EngineLostError, match="closed"):
        engine.submit(ask("late"))


def test_scripted_words_come_one_by_one_and_add_up_to_generate() -> None:
    engine = scripted(replies={"a": " one  two three ", "t": "<think>\nhm so</think> the answer"}, error_on=("e",))
    for request in (
        ask("q", id="a", num=9),
        ask("q", id="a", num=2),
        ask(completion("q", stop=("o three",)), id="a"),
        ask("q", id="t", num=9),
        ask("q", id="e"),
        ask("q", id="hashed"),
    ):
        stream = engine.submit(request)
        deltas = list(stream)
        (expected,) = engine.generate([request])
        assert "".join(delta.text for delta in deltas) == expected.text
        assert "".join(delta.reasoning for delta in deltas) == (expected.reasoning or "")
        assert sum((delta.token_ids for delta in deltas), ()) == expected.token_ids
        assert (deltas[-1].finish_reason, deltas[-1].error) == (expected.finish_reason, expected.error)


def test_scripted_streams_that_hang_or_last_can_be_cancelled_and_closed() -> None:
    engine = scripted(hang_on=("h",), seconds_per_token=1000.0)
    hanging, slow, cancelled = engine.submit(ask("q", id="h")), engine.submit(ask("q")), engine.submit(ask("q"))
    cancelled.cancel()
    assert list(cancelled) == []
    engine.close()
    for stream in (hanging, slow):
        (last,) = stream
        assert last.error == "the engine was closed"
    with pytest.raises(EngineLostError, match="closed"):
        engine.submit(ask("late"))


def test_scripted_requests_do_not_wait_for_each_other() -> None:
    engine = scripted(hang_on=("h",))
    hanging = engine.submit(ask("q", id="h"))
    assert engine.submit(ask("q", id="other")).result().error is None
    hanging.cancel()


@pytest.mark.parametrize("num_put", [0, 1, 2])
def test_log_probabilities_that_were_not_put_come_with_the_last_delta(num_put: int) -> None:
    told = tuple(TokenLogprob(text, token, -1.0) for token, text in enumerate(["a", "b", "</s>"]))
    stream = QueuedStream()
    for token in range(num_put):
        stream.put(Delta(token_ids=(token,), num_tokens=1, logprobs=(told[token],)))
    answer = Generation(
        text="", token_ids=(0, 1), finish_reason="stop", num_prompt_tokens=1, timing=NEVER_RAN, logprobs=told
    )
    stream.finish(answer, num_tokens=2 - num_put)
    assert sum((delta.logprobs for delta in stream), ()) == told
