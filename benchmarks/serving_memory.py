"""Memory of the processes of `moe-ray serve` under a steady load.

    python -m benchmarks.serving_memory [--minutes 10] [--clients 8]

Each client asks a scripted model again and again, whole answers and streams in turn, with another text each time. The
resident memory of each process is read every two seconds. The table has it at the beginning and at the end of the
counted time, and its growth in MiB a minute, the slope of a least-squares line. The first third is not counted: caches
fill in it.
"""

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import psutil

from benchmarks.load_client import Connection
from benchmarks.machine import machine_line
from benchmarks.scripted_server import scripted_server

MIB = 1 << 20
LOOK_EVERY_S = 2.0
WARM_UP_SHARE = 1 / 3
HIGHEST_GROWTH_MIB = 1.0
# Names as the kernel cuts them.
ROLES = {
    "ray::ServeRepli": "ingress",
    "ray::ServingRep": "replica",
    "ray::ProxyActor": "proxy",
    "ray::SlotOwner": "owner",
}
Samples = dict[str, list[tuple[float, float]]]
"""By process: minutes since the start, and MiB."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--clients", type=int, default=8)
    asked = parser.parse_args()
    print(machine_line("ray", "fastapi", "uvicorn"))
    settings = {"text": "one two three four five six seven eight", "seconds_per_token": 0.005}
    with (
        tempfile.TemporaryDirectory() as folder,
        scripted_server(Path(folder), {"base": settings}, max_running=asked.clients) as port,
    ):
        num_answers, samples = asyncio.run(_measured(port, asked.clients, 60 * asked.minutes))
    print(f"{num_answers} answers, {num_answers / (60 * asked.minutes):.0f} a second")
    _print(samples, WARM_UP_SHARE * asked.minutes)


async def _measured(port: int, num_clients: int, seconds: float) -> tuple[int, Samples]:
    """Keep the clients asking for `seconds`; return the number of answers, and the memory meanwhile."""
    started, samples = time.perf_counter(), defaultdict[str, list[tuple[float, float]]](list)
    asking = [asyncio.ensure_future(_ask_until(port, client, started + seconds)) for client in range(num_clients)]
    while not all(one.done() for one in asking):
        minutes = (time.perf_counter() - started) / 60
        for name, mib in _memory_mib().items():
            samples[name].append((minutes, mib))
        await asyncio.wait(asking, timeout=LOOK_EVERY_S)
    return sum(await asyncio.gather(*asking)), samples


async def _ask_until(port: int, client: int, until: float) -> int:
    num_answers = 0
    while time.perf_counter() < until:
        text = f"question {num_answers} of client {client}"
        asked = {"model": "base", "messages": [{"role": "user", "content": text}], "stream": num_answers % 2 == 1}
        connection = Connection("127.0.0.1", port, json.dumps(asked).encode())
        if (status := await connection.ask()) != 200:
            raise SystemExit(f"status {status}")
        connection.close()
        num_answers += 1
    return num_answers


def _memory_mib() -> dict[str, float]:
    found = {}
    for process in psutil.Process(os.getpid()).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            role = next((role for start, role in ROLES.items() if process.name().startswith(start)), None)
            if role is not None:
                found[f"{role} {process.pid}"] = process.memory_info().rss / MIB
    return found


def _print(samples: Samples, counted_from: float) -> None:
    print(f"{'process':<20}{'MiB before':>12}{'after':>8}{'MiB/minute':>12}")
    worst = 0.0
    for name, values in sorted(samples.items()):
        counted = [(minutes, mib) for minutes, mib in values if minutes >= counted_from]
        if len(counted) < 2:
            raise SystemExit(f"{name} did not live long enough: give it more --minutes")
        growth = statistics.linear_regression(*zip(*counted, strict=True)).slope
        worst = max(worst, growth)
        print(f"{name:<20}{counted[0][1]:>12.1f}{counted[-1][1]:>8.1f}{growth:>12.2f}")
    verdict = "met" if worst < HIGHEST_GROWTH_MIB else "missed"
    print(f"largest growth: {worst:.2f} MiB/minute (target {HIGHEST_GROWTH_MIB:g}): {verdict}")


if __name__ == "__main__":
    main()
