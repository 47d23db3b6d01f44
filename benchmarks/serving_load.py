"""`moe-ray serve` at half, once and twice the requests that it can answer, sent in open loop.

    python -m benchmarks.serving_load [--seconds 60]

A scripted model takes 0.4 s for each answer and runs 8 at a time, so that 20 requests a second are its capacity.
Requests come as a Poisson process whatever the server does. For each load the table gives the accepted and the
refused (503), the p50 and p99 of their times, and the server's memory in all its processes, before and 10 s after.
Any other status, and an accepted request that was not answered, ends the program with an error.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.load_client import Connection
from benchmarks.machine import machine_line
from benchmarks.scripted_server import scripted_server

NUM_WORDS, WORD_S, MAX_RUNNING, MAX_QUEUED = 8, 0.05, 8, 8
CAPACITY_PER_S = MAX_RUNNING / (NUM_WORDS * WORD_S)
LOADS = (0.5, 1.0, 2.0)
REST_S = 10.0
MIB = 1 << 20
HIGHEST_RATIO, HIGHEST_REFUSAL_MS, HIGHEST_GROWTH = 1.5, 10.0, 0.05


@dataclass(slots=True)
class Load:
    """What became of the requests of one load, in milliseconds, and the server's memory before and after."""

    accepted_ms: list[float] = field(default_factory=list)
    refused_ms: list[float] = field(default_factory=list)
    before_bytes: int = 0
    after_bytes: int = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="of each load")
    asked = parser.parse_args()
    print(machine_line("ray"))
    settings = {"text": " ".join(["word"] * NUM_WORDS), "seconds_per_token": WORD_S}
    limits = {"max_running": MAX_RUNNING, "max_queued": MAX_QUEUED}
    with (
        tempfile.TemporaryDirectory() as folder,
        scripted_server(Path(folder), {"base": settings}, **limits) as port,
    ):
        asyncio.run(_send(port, 0.5 * CAPACITY_PER_S, 3.0, random.Random(0)))
        found = {}
        for factor in LOADS:
            found[factor] = _measured(port, factor * CAPACITY_PER_S, asked.seconds)
            _print_row(factor, found[factor])
    _print_verdict(found)


def _measured(port: int, per_s: float, seconds: float) -> Load:
    before = _memory_bytes()
    load = asyncio.run(_send(port, per_s, seconds, random.Random(1)))
    time.sleep(REST_S)
    load.before_bytes, load.after_bytes = before, _memory_bytes()
    return load


async def _send(port: int, per_s: float, seconds: float, rng: random.Random) -> Load:
    """Send requests at random times, `per_s` of them on average, and wait for all answers."""
    body = json.dumps({"model": "base", "messages": [{"role": "user", "content": "?"}]}).encode()
    load, idle, tasks = Load(), list[Connection](), list[asyncio.Task[None]]()

    async def ask() -> None:
        connection = idle.pop() if idle else Connection("127.0.0.1", port, body)
        started = time.perf_counter()
        status = await connection.ask()
        elapsed_ms = 1000 * (time.perf_counter() - started)
        idle.append(connection)
        if status not in (200, 503):
            raise SystemExit(f"status {status}")
        (load.accepted_ms if status == 200 else load.refused_ms).append(elapsed_ms)

    until, due = time.perf_counter() + seconds, time.perf_counter()
    while due < until:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.append(asyncio.get_running_loop().create_task(ask()))
        due += rng.expovariate(per_s)
    await asyncio.gather(*tasks)
    for connection in idle:
        connection.close()
    return load


def _memory_bytes() -> int:
    """Resident memory of all processes that serve: every child of this one."""
    total = 0
    for process in psutil.Process(os.getpid()).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            total += process.memory_info().rss
    return total


def _print_row(factor: float, load: Load) -> None:
    if factor == LOADS[0]:
        print(f"{'load':>5}{'accepted':>10}{'p50 ms':>9}{'p99 ms':>9}{'refused':>9}{'p50 ms':>9}{'p99 ms':>9}", end="")
        print(f"{'MiB before':>12}{'after':>8}")
    print(f"{factor:>5}{len(load.accepted_ms):>10}{_shown(load.accepted_ms)}{len(load.refused_ms):>9}", end="")
    print(f"{_shown(load.refused_ms)}{load.before_bytes / MIB:>12.0f}{load.after_bytes / MIB:>8.0f}")


def _shown(times_ms: list[float]) -> str:
    return f"{statistics.median(times_ms):>9.1f}{_p99(times_ms):>9.1f}" if len(times_ms) > 1 else f"{'-':>9}{'-':>9}"


def _p99(times_ms: list[float]) -> float:
    return statistics.quantiles(times_ms, n=100, method="inclusive")[98]


def _print_verdict(found: dict[float, Load]) -> None:
    ratio = _p99(found[2.0].accepted_ms) / _p99(found[1.0].accepted_ms)
    refusal_ms = _p99(found[2.0].refused_ms)
    growth = found[2.0].after_bytes / found[2.0].before_bytes - 1
    for what, value, limit in (
        ("p99 of accepted at 2 over 1", ratio, HIGHEST_RATIO),
        ("p99 of refusals in ms", refusal_ms, HIGHEST_REFUSAL_MS),
        ("memory growth after 2", growth, HIGHEST_GROWTH),
    ):
        print(f"{what}: {value:.3g} (target {limit:g}): {'met' if value <= limit else 'missed'}")


if __name__ == "__main__":
    main()
