"""Streams of the endpoint engine, over a real HTTP server that sends events one by one, breaks off and hangs."""

import json
import threading

import pytest

from moe_ray.errors import EngineLostError
from tests.engines.asking import ask, completion
from tests.engines.endpoint.conftest import Connect
from tests.engines.openai_api import Api, Fault, drawn

WAIT_S = 60
PARTIAL = 'data: {"choices": [{"text": " a"}]}\n\n'


def test_each_event_is_a_delta_that_is_there_before_the_next_is_sent(api: Api, connect: Connect) -> None:
    engine = connect()
    api.steps = threading.Semaphore(0)
    stream = engine.submit(ask("one two", num=4))
    for word in drawn("one two", 4):
        api.steps.release()
        assert next(stream).text == word
    for _ in range(3):
        api.steps.release()
    (last,) = stream
    assert (last.text, last.finish_reason, last.num_prompt_tokens, last.num_completion_tokens) == ("", "length", 2, 4)


@pytest.mark.parametrize("streams", [True, False])
def test_the_joined_deltas_are_the_text_of_generate(api: Api, connect: Connect, streams: bool) -> None:
    api.streams = streams
    engine = connect()
    requests = [
        ask("one two three", num=5),
        ask(completion("one two three", stop=("two th",)), num=5),
        # The API takes four stop strings: the fifth is cut here, though it lies across two events.
        ask(completion("one two three", stop=("#", "%", "~", "^", "o three")), num=5),
    ]
    for request, answer in zip(requests, engine.generate(requests), strict=True):
        stream = engine.submit(request)
        assert "".join(delta.text for delta in stream) == answer.text
        assert stream.result().finish_reason == answer.finish_reason
        assert stream.result().num_completion_tokens == answer.num_completion_tokens


def test_thirty_two_threads_get_each_its_own_answer(api: Api, connect: Connect) -> None:
    engine = connect(max_concurrent_requests=8)
    texts: dict[int, str] = {}

    def read(number: int) -> None:
        texts[number] = "".join(delta.text for delta in engine.submit(ask(f"word{number}", num=3)))

    threads = [threading.Thread(target=read, args=(number,)) for number in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == {number: f" word{number}" * 3 for number in range(32)}
    assert api.most_at_once <= 8


def test_cancelling_in_the_middle_or_before_the_first_token_closes_the_connection(api: Api, connect: Connect) -> None:
    engine = connect()
    api.steps = threading.Semaphore(0)
    middle = engine.submit(ask("one two", num=50))
    api.steps.release()
    assert next(middle).text == " one"
    before = engine.submit(ask("one two", num=50))
    for stream in (middle, before):
        stream.cancel()
        stream.cancel()
        assert list(stream) == []
        assert "cancelled" in (stream.result().error or "")
    assert api.left.acquire(timeout=WAIT_S)
    api.steps = None
    assert engine.submit(ask("still here", num=1)).result().text == " still"


def test_a_request_that_waits_for_room_can_be_cancelled_and_others_go_on(api: Api, connect: Connect) -> None:
    engine = connect(max_concurrent_requests=1)
    api.steps = threading.Semaphore(0)
    first, waiting = engine.submit(ask("one", num=1)), engine.submit(ask("never", num=1))
    waiting.cancel()
    for _ in range(10):
        api.steps.release()
    assert first.result().text == " one"
    assert all(body["prompt"] != "never" for body in api.bodies)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault(status=200, content_type="text/event-stream", body=PARTIAL), "broke off"),
        (
            Fault(status=200, content_type="text/event-stream", body=PARTIAL + 'data: {"error": "lost"}\n\n'),
            "broke off: lost",
        ),
        (Fault(status=200, content_type="text/event-stream", body=PARTIAL + "data: {\n\n"), "not JSON"),
        (Fault(status=400, body='{"error": {"message": "bad"}}'), "refused this prompt: 400: bad"),
        (Fault(status=500), "gave no answer in 4 tries"),
    ],
    ids=["cut", "error event", "not JSON", "refused", "failing"],
)
def test_a_request_that_fails_ends_its_own_stream_and_no_other(
    api: Api, connect: Connect, fault: Fault, words: str
) -> None:
    engine = connect()
    api.broken = lambda body: fault if "poison" in body["prompt"] else None
    for _ in range(3):
        good, bad = engine.submit(ask("fine", num=2)), engine.submit(ask("poison", num=2))
        assert good.result().text == " fine fine"
        *before, last = bad
        assert (last.finish_reason, last.text) == ("error", "")
        assert words in (last.error or "")
        assert "".join(delta.text for delta in before) in ("", " a")
    assert engine.generate([ask("fine", num=1)])[0].text == " fine"


def test_what_passes_before_the_first_piece_is_tried_again(api: Api, connect: Connect) -> None:
    engine = connect()
    api.faults.extend([Fault(status=503), Fault(status=200, body="{")])
    assert engine.submit(ask("a b", num=2)).result().text == " a b"


def test_a_lost_call_of_generate_leaves_the_client_usable(api: Api, connect: Connect) -> None:
    engine = connect(max_retries=1)
    api.broken = lambda body: Fault(status=503)
    with pytest.raises(EngineLostError, match="gave no answer"):
        engine.generate([ask("a", num=1)] * 20)
    api.broken = lambda body: None
    assert engine.generate([ask("a", num=1)])[0].text == " a"
    assert engine.submit(ask("a", num=1)).result().text == " a"


def test_closing_ends_open_streams_with_an_error_and_refuses_new_ones(api: Api, connect: Connect) -> None:
    engine = connect(max_concurrent_requests=2)
    api.steps = threading.Semaphore(0)
    streams = [engine.submit(ask("one two", num=50)) for _ in range(5)]
    engine.close()
    for stream in streams:
        (last,) = stream
        assert (last.finish_reason, last.error) == ("error", "the engine was closed")
    with pytest.raises(EngineLostError, match="closed"):
        engine.submit(ask("late", num=1))
    with pytest.raises(EngineLostError, match="closed"):
        engine.generate([ask("late", num=1)])


def test_reasoning_that_the_api_separates_is_streamed_as_reasoning(api: Api, connect: Connect) -> None:
    engine = connect()
    pieces = [{"reasoning_content": "\nhm "}, {"reasoning_content": "so\n"}, {"content": "yes"}]
    choices = [{"delta": piece} for piece in pieces] + [{"delta": {}, "finish_reason": "stop"}]
    body = "".join(f"data: {json.dumps({'choices': [choice]})}\n\n" for choice in choices)
    api.faults.append(Fault(status=200, content_type="text/event-stream", body=body + "data: [DONE]\n\n"))
    stream = engine.submit(ask("q", num=9))
    deltas = list(stream)
    assert "".join(delta.reasoning for delta in deltas) == "hm so" == stream.result().reasoning
    assert "".join(delta.text for delta in deltas) == "yes"
