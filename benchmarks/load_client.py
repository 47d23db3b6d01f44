"""An HTTP load client on plain sockets: `clients` that each send the next request when the last is answered.

    python -m benchmarks.load_client HOST PORT BODY_FILE CLIENTS SECONDS [PREFIX]

prints one JSON object: milliseconds at p50 and p99, requests per second, statuses by number, and how many requests
were answered in all. The first fifth of the time counts for the last figure alone.
"""

import asyncio
import json
import statistics
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

PATH = "/v1/chat/completions"
WARM_UP_SHARE = 0.2


class Connection:
    """One keep-alive connection."""

    def __init__(self, host: str, port: int, body: bytes, prefix: str = "") -> None:
        self._host, self._port = host, port
        head = (
            f"POST {prefix}{PATH} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        self._request = head.encode() + body
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def ask(self) -> int:
        """Send the request, read the whole answer, return its status."""
        if self._writer is None or self._reader is None:
            self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
        self._writer.write(self._request)
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        length = next((line for line in head.split(b"\r\n") if line.startswith(b"content-length:")), None)
        if length is not None:
            await self._reader.readexactly(int(length.split(b":")[1]))
        else:
            while (size := int(await self._reader.readline(), 16)) > 0:
                await self._reader.readexactly(size + 2)
            await self._reader.readline()
        return int(head.split(b" ", 2)[1])

    def close(self) -> None:
        """Hang up."""
        if self._writer is not None:
            self._writer.close()


async def measure(
    host: str, port: int, body: bytes, num_clients: int, seconds: float, prefix: str = ""
) -> dict[str, Any]:
    """Keep `num_clients` requests under way for `seconds`."""
    started = time.perf_counter()
    counted_from, until = started + WARM_UP_SHARE * seconds, started + seconds
    times_ms: list[float] = []
    statuses: Counter[int] = Counter()
    num_sent = 0

    async def client() -> None:
        nonlocal num_sent
        connection = Connection(host, port, body, prefix)
        while (sent := time.perf_counter()) < until:
            status = await connection.ask()
            num_sent += 1
            if sent >= counted_from:
                statuses[status] += 1
                times_ms.append(1000 * (time.perf_counter() - sent))
        connection.close()

    await asyncio.gather(*(client() for _ in range(num_clients)))
    cuts = statistics.quantiles(times_ms, n=100)
    rate = len(times_ms) / (time.perf_counter() - counted_from)
    return {"p50_ms": cuts[49], "p99_ms": cuts[98], "per_s": rate, "statuses": dict(statuses), "num_sent": num_sent}


def main() -> None:
    host, port, body, clients, seconds, *prefix = sys.argv[1:]
    content = Path(body).read_bytes()
    print(json.dumps(asyncio.run(measure(host, int(port), content, int(clients), float(seconds), *prefix))))


if __name__ == "__main__":
    main()
