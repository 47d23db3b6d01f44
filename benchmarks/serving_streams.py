"""The time between tokens of active streams of `moe-ray serve`, alone and beside many streams that are idle.

    python -m benchmarks.serving_streams [--active 16] [--idle 200] [--seconds 30] [--repetitions 3]

Two scripted models: one draws a word every 50 ms, the other every 20 s. Idle streams are opened over 20 s, so that
their words come at different times; the active ones are measured once each idle one has had its first word. Each
repetition measures the active streams alone, then beside the idle ones. Server and client have cores of their own. The
table has the gaps between the events of all active streams in milliseconds; a stream's first event is not counted.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.load_client import PATH
from benchmarks.machine import machine_line
from benchmarks.scripted_server import scripted_server

WORD_S, IDLE_WORD_S = 0.05, 20.0
TEXT = " ".join(["word"] * 20_000)
HEADROOM = 16
HIGHEST_RATIO = 2.0
EVENT = b'"content":"'


@dataclass(slots=True)
class Stream:
    """One stream that is being read. `event_s` are the times of its events, on the performance counter."""

    event_s: list[float] = field(default_factory=list)
    has_begun: asyncio.Event = field(default_factory=asyncio.Event)

    def gaps_ms(self, since_s: float) -> list[float]:
        """The times between the events that came after `since_s`."""
        counted = [moment for moment in self.event_s if moment >= since_s]
        return [1000 * (later - earlier) for earlier, later in itertools.pairwise(counted)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--active", type=int, default=16)
    parser.add_argument("--idle", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=30.0, help="of each measurement")
    parser.add_argument("--repetitions", type=int, default=3)
    asked = parser.parse_args()
    print(machine_line("ray", "fastapi", "uvicorn"))
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, set(cores[:-1]) or set(cores))
    models = {"active": (WORD_S, asked.active), "idle": (IDLE_WORD_S, asked.idle)}
    settings = {name: {"text": TEXT, "seconds_per_token": pace_s} for name, (pace_s, _) in models.items()}
    max_running = max(number for _, number in models.values()) + HEADROOM
    with (
        tempfile.TemporaryDirectory() as folder,
        scripted_server(Path(folder), settings, max_running=max_running, request_timeout_s=3600.0) as port,
    ):
        os.sched_setaffinity(0, {cores[-1]})
        alone_ms: list[float] = []
        beside_ms: list[float] = []
        for _ in range(asked.repetitions):
            alone_ms += asyncio.run(_measured(port, asked.active, 0, asked.seconds))
            beside_ms += asyncio.run(_measured(port, asked.active, asked.idle, asked.seconds))
    _print(asked, alone_ms, beside_ms)


async def _measured(port: int, num_active: int, num_idle: int, seconds: float) -> list[float]:
    """Return the gaps between events of the active streams."""
    async with _reading(port, "idle", num_idle, over_s=IDLE_WORD_S) as idle:
        for stream in idle:
            await stream.has_begun.wait()
        async with _reading(port, "active", num_active, over_s=WORD_S) as active:
            for stream in active:
                await stream.has_begun.wait()
            since_s = time.perf_counter()
            await asyncio.sleep(seconds)
            return [gap for stream in active for gap in stream.gaps_ms(since_s)]


@contextlib.asynccontextmanager
async def _reading(port: int, model: str, number: int, *, over_s: float) -> AsyncIterator[list[Stream]]:
    """Open streams at even distances within `over_s`, read them in tasks, and hang up at the end."""
    streams = [Stream() for _ in range(number)]
    tasks: list[asyncio.Task[None]] = []
    for stream in streams:
        tasks.append(asyncio.get_running_loop().create_task(_read(port, model, stream)))
        await asyncio.sleep(over_s / number)
    try:
        yield streams
    finally:
        failed = [task for task in tasks if task.done()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if failed:
            raise SystemExit(f"{len(failed)} streams of {model} ended by themselves")


async def _read(port: int, model: str, stream: Stream) -> None:
    """Read one stream for ever."""
    asked = {"model": model, "messages": [{"role": "user", "content": "?"}], "stream": True, "max_tokens": 1_000_000}
    body = json.dumps(asked).encode()
    head = (
        f"POST {PATH} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(head.encode() + body)
        while line := await reader.readline():
            if EVENT in line and b'"content":""' not in line:
                stream.event_s.append(time.perf_counter())
                stream.has_begun.set()
    finally:
        writer.close()


def _print(asked: argparse.Namespace, alone_ms: list[float], beside_ms: list[float]) -> None:
    print(f"{'active':>7}{'idle':>6}{'gaps':>9}{'p50 ms':>9}{'p95 ms':>9}{'p99 ms':>9}{'max ms':>9}")
    for num_idle, gaps_ms in ((0, alone_ms), (asked.idle, beside_ms)):
        cuts = [_quantile(gaps_ms, percent) for percent in (50, 95, 99)]
        shown = "".join(f"{value:>9.1f}" for value in (*cuts, max(gaps_ms)))
        print(f"{asked.active:>7}{num_idle:>6}{len(gaps_ms):>9}{shown}")
    ratio = _quantile(beside_ms, 99) / _quantile(alone_ms, 99)
    is_met = ratio <= HIGHEST_RATIO
    print(
        f"p99 beside idle streams over alone: {ratio:.2f} (target {HIGHEST_RATIO:g}): {'met' if is_met else 'missed'}"
    )


def _quantile(values: list[float], percent: int) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


if __name__ == "__main__":
    main()
