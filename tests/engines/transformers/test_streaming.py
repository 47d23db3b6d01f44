"""Streams of the transformers engine: rows that come and go while others decode, on the CPU."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from moe_ray.engines.base import BatchLimits, Generation, Stream
from moe_ray.engines.transformers.engine import TransformersEngine
from moe_ray.errors import EngineLostError
from tests.engines.asking import ONE_ROW, ROOMY, TEXTS, ask, ask_all, completion, engine
from tests.support.tiny_models import Architecture

Checkpoint = Callable[[Architecture], Path]
WAIT_S = 120


class Steps:
    """Lets the model take one step for each that is allowed, and notes how many rows each had."""

    def __init__(self, model: Any) -> None:
        self._allowed = threading.Semaphore(0)
        self._taken = threading.Semaphore(0)
        self.num_rows: list[int] = []
        self._handle = model.register_forward_pre_hook(self._before, with_kwargs=True)

    def _before(self, _model: Any, _args: Any, inputs: dict[str, Any]) -> None:
        assert self._allowed.acquire(timeout=WAIT_S)
        self.num_rows.append(inputs["input_ids"].shape[0])
        self._taken.release()

    def take(self) -> None:
        """Allow one step, and wait until it has begun."""
        self._allowed.release()
        assert self._taken.acquire(timeout=WAIT_S)

    def free(self) -> None:
        """Let all further steps go on by themselves."""
        self._handle.remove()
        self._allowed.release(1000)


@pytest.fixture
def llama(checkpoint: Checkpoint) -> Iterator[TransformersEngine]:
    made = engine(checkpoint("llama"), BatchLimits(max_rows=4, cache_memory_bytes=1 << 30))
    yield made
    made.close()


@pytest.fixture
def steps(llama: TransformersEngine) -> Iterator[Steps]:
    watched = Steps(llama._loaded.model)
    yield watched
    watched.free()


def uneven(num: int) -> list[Any]:
    """Requests of many lengths, so that rows come and go at different steps."""
    return [ask(TEXTS[at % 5] + " law" * (at % 7), id=str(at), num=3 + at % 23) for at in range(num)]


def read(stream: Stream) -> Generation:
    """Read a stream to its end, and check that its deltas add up to its result."""
    deltas = list(stream)
    result = stream.result()
    assert "".join(delta.text for delta in deltas) == result.text
    assert sum((delta.token_ids for delta in deltas), ()) == result.token_ids
    assert [delta.finish_reason for delta in deltas[:-1]] == [None] * (len(deltas) - 1)
    last = deltas[-1]
    assert (last.finish_reason, last.error) == (result.finish_reason, result.error)
    assert (last.num_prompt_tokens, last.num_completion_tokens) == (
        result.num_prompt_tokens,
        result.num_completion_tokens,
    )
    return result


def content(answer: Generation) -> tuple[Any, ...]:
    """All of an answer but its times."""
    return (answer.text, answer.token_ids, answer.finish_reason, answer.num_prompt_tokens, answer.error)


@pytest.mark.parametrize("architecture", ["llama", "mistral", "gemma3", "gpt2", "phi3_longrope"])
def test_thirty_two_concurrent_requests_get_the_texts_of_one_batch(
    checkpoint: Checkpoint, architecture: Architecture
) -> None:
    loaded = engine(checkpoint(architecture), BatchLimits(max_rows=32, cache_memory_bytes=1 << 30))
    requests = uneven(32)
    found: dict[int, Generation] = {}

    def use(number: int) -> None:
        found[number] = read(loaded.submit(requests[number]))

    threads = [threading.Thread(target=use, args=(number,)) for number in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    loaded.close()
    expected = loaded.generate(requests)
    assert [content(found[number]) for number in range(32)] == [content(one) for one in expected]
    assert max(one.timing.batch_rows for one in found.values()) > 1


def test_no_more_rows_run_at_once_than_the_limits_allow(llama: TransformersEngine, steps: Steps) -> None:
    streams = [llama.submit(request) for request in uneven(12)]
    steps.free()
    assert all(read(stream).error is None for stream in streams)
    assert max(stream.result().timing.batch_rows for stream in streams) == 4


def test_a_request_is_admitted_while_another_decodes(llama: TransformersEngine, steps: Steps) -> None:
    long = llama.submit(ask("the drug is", num=40))
    for _ in range(3):
        steps.take()
    assert [next(long).num_tokens for _ in range(3)] == [1, 1, 1]
    short = llama.submit(ask("contract", num=2))
    steps.free()
    assert content(read(short)) == content(llama.generate([ask("contract", num=2)])[0])
    assert len(long.result().token_ids) == 40


def test_a_cancelled_request_stops_within_two_tokens_amid_others(llama: TransformersEngine, steps: Steps) -> None:
    requests = [ask(text, id=str(at), num=30) for at, text in enumerate(TEXTS[:3])]
    streams = [llama.submit(request) for request in requests]
    cancelled = streams[1]
    while max(steps.num_rows, default=0) < 3:
        steps.take()
    next(cancelled)
    before = len(steps.num_rows)
    cancelled.cancel()
    cancelled.cancel()
    assert list(cancelled) == []
    assert "cancelled" in (cancelled.result().error or "")
    steps.free()
    for stream in (streams[0], streams[2]):
        stream.result()
    expected = llama.generate(requests)
    assert content(streams[2].result()) == content(expected[2])
    assert content(streams[0].result()) == content(expected[0])
    assert sum(num == 3 for num in steps.num_rows[before:]) <= 2


def test_a_request_cancelled_before_its_first_token_is_never_read(llama: TransformersEngine, steps: Steps) -> None:
    running = [llama.submit(ask(text, num=6)) for text in TEXTS[:4]]
    waiting = llama.submit(ask("never", num=6))
    waiting.cancel()
    last = llama.submit(ask("contract", num=2))
    steps.free()
    assert all(read(stream).error is None for stream in [*running, last])
    assert list(waiting) == []


def test_each_request_has_its_own_temperature_and_seed(llama: TransformersEngine) -> None:
    requests = [
        ask(text, id=str(at), num=14, temperature=at * 0.4, top_p=0.9, seed=at) for at, text in enumerate(TEXTS)
    ]
    streams = [llama.submit(request) for request in requests]
    assert [content(read(one)) for one in streams] == [content(one) for one in llama.generate(requests)]


def test_stop_strings_never_leak_wherever_they_begin(llama: TransformersEngine) -> None:
    """Each piece of an answer is tried as a stop string, those across several tokens and characters too."""
    (whole,) = llama.generate([ask(TEXTS[1], num=24)])
    text = whole.text
    stops = {text[at : at + size] for at in range(0, len(text), 2) for size in (1, 3, 5)}
    requests = [ask(completion(TEXTS[1], stop=(stop, "never there")), id=stop, num=24) for stop in sorted(stops)]
    streams = [llama.submit(request) for request in requests]
    for stream, request in zip(streams, requests, strict=True):
        assert read(stream).text == text[: text.find(request.prompt.stop[0])]


def test_a_prompt_that_does_not_fit_ends_its_own_stream(llama: TransformersEngine) -> None:
    good, bad = llama.submit(ask("contract", num=2)), llama.submit(ask("law " * 200, num=2))
    assert read(bad).finish_reason == "error"
    assert "the context holds 128" in (bad.result().error or "")
    assert read(good).error is None


def test_a_prompt_on_which_the_model_fails_ends_its_own_stream(llama: TransformersEngine) -> None:
    poison = llama._loaded.tokenizer.convert_tokens_to_ids("~")

    def fail(_model: Any, _args: Any, inputs: dict[str, Any]) -> None:
        if (inputs["input_ids"] == poison).any() and inputs["input_ids"].shape[1] > 1:
            raise RuntimeError("no kernel for this")

    handle = llama._loaded.model.register_forward_pre_hook(fail, with_kwargs=True)
    requests = [ask("the drug is", num=9), ask("~~~", num=9), ask("contract", num=9)]
    streams = [llama.submit(request) for request in requests]
    good, bad, also_good = (read(stream) for stream in streams)
    handle.remove()
    assert bad.error == "the model failed on this prompt: no kernel for this"
    expected = llama.generate(requests)
    assert [content(good), content(also_good)] == [content(expected[0]), content(expected[2])]


def test_rows_that_do_not_fit_the_memory_together_run_with_fewer_beside_them(llama: TransformersEngine) -> None:
    requests = uneven(8)
    expected = llama.generate(requests)

    def fail(_model: Any, _args: Any, inputs: dict[str, Any]) -> None:
        if inputs["input_ids"].shape[0] > 2:
            raise torch.OutOfMemoryError("out of memory")

    handle = llama._loaded.model.register_forward_pre_hook(fail, with_kwargs=True)
    streams = [llama.submit(request) for request in requests]
    found = [content(read(stream)) for stream in streams]
    handle.remove()
    assert found == [content(one) for one in expected]


def test_a_single_row_that_does_not_fit_the_memory_says_so(checkpoint: Checkpoint) -> None:
    loaded = engine(checkpoint("llama"), ONE_ROW)

    def fail(_model: Any, _args: Any, _inputs: dict[str, Any]) -> None:
        raise torch.OutOfMemoryError("out of memory")

    handle = loaded._loaded.model.register_forward_pre_hook(fail, with_kwargs=True)
    assert "out of memory with one row" in (read(loaded.submit(ask("contract", num=2))).error or "")
    handle.remove()
    assert read(loaded.submit(ask("contract", num=2))).error is None
    loaded.close()


def test_generate_and_streams_take_turns(llama: TransformersEngine) -> None:
    expected = [content(one) for one in llama.generate(ask_all(num=12))]
    streams = [llama.submit(request) for request in ask_all(num=12)]
    assert [content(one) for one in llama.generate(ask_all(num=12))] == expected
    assert [content(read(stream)) for stream in streams] == expected


def test_closing_ends_open_streams_with_an_error_and_refuses_new_ones(llama: TransformersEngine, steps: Steps) -> None:
    streams = [llama.submit(ask(text, num=20)) for text in TEXTS]
    steps.take()
    next(streams[0])
    closing = threading.Thread(target=llama.close)
    closing.start()
    decoder = llama._streaming
    with decoder._changed:
        assert decoder._changed.wait_for(lambda: decoder._lost is not None, timeout=WAIT_S)
    steps.free()
    closing.join()
    for stream in streams:
        assert list(stream)[-1].error == "the engine was closed"
    with pytest.raises(EngineLostError, match="closed"):
        llama.submit(ask("late"))


def test_a_reasoning_trace_is_streamed_apart_from_the_answer(checkpoint: Checkpoint) -> None:
    """The marks are words that the tiny model draws by itself."""
    drawn = engine(checkpoint("llama")).generate([ask(TEXTS[1], num=24)])[0].text
    marks = {"open": drawn[2:5], "close": drawn[12:15]}
    loaded = engine(checkpoint("llama"), ROOMY, reasoning={**marks, "starts_open": True})
    (expected,) = loaded.generate([ask(TEXTS[1], num=24)])
    stream = loaded.submit(ask(TEXTS[1], num=24))
    deltas = list(stream)
    loaded.close()
    assert expected.reasoning
    assert "".join(delta.reasoning for delta in deltas) == expected.reasoning
    assert "".join(delta.text for delta in deltas) == expected.text
