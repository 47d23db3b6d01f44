"""Calls into Ray that hang: the caller gets its time back, and Ctrl-C works."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from moe_ray.errors import RayUnresponsiveError, RunFailedError, UserError
from moe_ray.execution import ray_calls

ROOT = Path(__file__).parents[2]
PATIENCE_S = 0.5
SOON_S = 5.0


@pytest.fixture
def hanging() -> Iterator[threading.Event]:
    """An event that a call may wait for; it is set at the end, so that the calling thread is free again."""
    event = threading.Event()
    yield event
    event.set()
    ray_calls.call_within(SOON_S, lambda: None) if not ray_calls.is_silent() else _until_free()


def _until_free() -> None:
    deadline = time.monotonic() + SOON_S
    while ray_calls.is_silent() and time.monotonic() < deadline:
        time.sleep(0.01)


def test_a_call_returns_and_raises_what_its_function_does() -> None:
    assert ray_calls.call(divmod, 7, 2) == (3, 1)
    assert ray_calls.call(int, "11", base=2) == 3
    with pytest.raises(ZeroDivisionError):
        ray_calls.call(divmod, 1, 0)
    with pytest.raises(StopIteration):
        ray_calls.call(next, iter(()))


def test_all_calls_run_on_one_thread_that_lives_on() -> None:
    """Linux ends the processes of a local cluster with the thread that started them."""
    first, second = (ray_calls.call(threading.current_thread) for _ in range(2))
    assert first is second is not threading.current_thread()
    assert first.is_alive()
    assert first.daemon, "it does not keep the process from ending"


def test_a_call_that_hangs_is_an_error_and_later_calls_are_refused_until_it_returns(hanging: threading.Event) -> None:
    with ray_calls.watching(PATIENCE_S, lambda _waited_s: None):
        with pytest.raises(RayUnresponsiveError, match=r"a call has not returned within 0.5 s"):
            ray_calls.call(hanging.wait)
        assert ray_calls.is_silent()
        started = time.monotonic()
        assert not ray_calls.call_at_end(hanging.wait, patience_s=60.0)
        with pytest.raises(RunFailedError, match="an earlier call has not returned"):
            ray_calls.call_within(60.0, print)
        assert time.monotonic() - started < SOON_S
        hanging.set()
        _until_free()
        assert ray_calls.call(lambda: "again") == "again"


def test_a_known_reason_ends_the_waiting_before_its_time(hanging: threading.Event) -> None:
    started = time.monotonic()
    with (
        ray_calls.watching(60.0, lambda waited_s: "its process raylet has ended" if waited_s else None),
        pytest.raises(RayUnresponsiveError, match=r"raylet has ended\n  remedy: .*run the same command again"),
    ):
        ray_calls.call(hanging.wait)
    assert time.monotonic() - started < SOON_S


@pytest.mark.usefixtures("default_sigint")
def test_an_interrupt_works_while_a_call_hangs_and_what_waited_behind_it_never_runs(
    hanging: threading.Event,
) -> None:
    entered, ran = threading.Event(), []

    def hang() -> None:
        entered.set()
        hanging.wait()

    def interrupt() -> None:
        entered.wait()
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        ray_calls.call_within(60.0, hang)
    assert not ray_calls.call_at_end(lambda: ran.append(1), patience_s=PATIENCE_S)
    assert time.monotonic() - started < SOON_S
    hanging.set()
    _until_free()
    assert ray_calls.call(lambda: list(ran)) == []


def test_a_process_ends_with_its_code_though_a_call_hangs_and_its_exit_handlers_would_wait() -> None:
    code = """
import atexit, threading
from moe_ray.execution import ray_calls
from moe_ray.errors import RayUnresponsiveError
atexit.register(threading.Event().wait)
with ray_calls.watching(0.3, lambda waited_s: None):
    try:
        ray_calls.call(threading.Event().wait)
    except RayUnresponsiveError:
        print("silent")
        ray_calls.end_process(7)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (7, "silent\n", "")


def test_a_reason_is_one_line_without_rays_own_ids() -> None:
    error = RuntimeError(
        "The actor died unexpectedly before finishing this task.\n\tclass_name: Replica\n\tactor_id: c5b8\n"
        "\tpid: 23943\n\tnamespace: 7029\n\tip: 192.0.2.2\n"
        "The worker was ended because memory ran out: half a \ud800 character."
    )
    assert ray_calls.reason_of(error) == (
        "RuntimeError: The actor died unexpectedly before finishing this task. "
        "The worker was ended because memory ran out: half a \ufffd character."
    )
    assert ray_calls.reason_of(UserError("no such weights", remedy="name others")).startswith("no such weights remedy")
    assert len(ray_calls.reason_of(RuntimeError("x" * 10_000))) == ray_calls.MAX_REASON_CHARACTERS
