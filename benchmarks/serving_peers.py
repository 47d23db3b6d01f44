"""`moe-ray serve` beside LiteLLM's proxy and `transformers serve`, on one upstream and on one tiny model.

    python -m benchmarks.serving_peers [--litellm FOLDER] [--seconds 5] [--repetitions 5] [--clients 1 16]

FOLDER is the virtual environment of `litellm[proxy]`; it is not made here. First table: an API that answers at once
(`benchmarks.fake_upstream`), asked directly and through each gateway; moe_ray reaches it by its engine `endpoint`.
Second table: a random Llama of two layers, eight new tokens, by moe_ray's transformers engine and by `transformers
serve`. Servers share one core; clients and upstream have another. One server runs at a time, in turn; figures are
medians over repetitions. "Memory" is the resident memory of all the server's processes.
"""

import argparse
import contextlib
import json
import logging
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from benchmarks.machine import machine_line
from moe_ray.config.load import load_experiment
from moe_ray.execution.observer import LoggingObserver
from moe_ray.runs.serve import serving
from tests.support.tiny_models import make_tiny_checkpoint

START_TIMEOUT_S = 180.0
QUESTION = "Which court may hear an appeal?"
NEW_TOKENS = 8
# The first requests import what they need, and load the model of `transformers serve`.
WARM_UP_S = 8.0
Server = Callable[[Path], "contextlib.AbstractContextManager[tuple[int, str]]"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--litellm", type=Path, help="without it, only the second table is measured")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 16])
    asked = parser.parse_args()
    print(machine_line("ray", "transformers", "fastapi", "uvicorn"))
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, set(cores[:-1]) or set(cores))
    with tempfile.TemporaryDirectory() as name, _upstream(cores[-1]) as upstream:
        folder = Path(name)
        gateways: dict[str, Server] = {
            "direct": lambda _: contextlib.nullcontext((upstream, "fake")),
            "litellm": lambda place: _litellm(place, asked.litellm, upstream),
            "moe-ray": lambda place: _moe_ray(place, _endpoint(upstream)),
        }
        if asked.litellm is not None:
            _compare("gateway", gateways, folder, asked, cores[-1])
        model = folder / "tiny"
        make_tiny_checkpoint(model, "llama")
        servers: dict[str, Server] = {
            "transformers": lambda _: _transformers(model),
            "moe-ray": lambda place: _moe_ray(place, {"path": str(model), "prompt_style": "chat", "gpus": 0}),
        }
        _compare("server", servers, folder, asked, cores[-1])


def _compare(title: str, servers: dict[str, Server], folder: Path, asked: argparse.Namespace, core: int) -> None:
    """Measure each server in turn, `repetitions` times, and print the medians."""
    found: defaultdict[tuple[str, int], list[dict[str, Any]]] = defaultdict(list)
    memory: defaultdict[str, list[int]] = defaultdict(list)
    for repetition in range(asked.repetitions):
        for name, server in servers.items():
            place = folder / f"{title}-{name}-{repetition}"
            place.mkdir()
            with server(place) as (port, model):
                _measure(place, port, model, 1, WARM_UP_S, core)
                for clients in asked.clients:
                    found[name, clients].append(_measure(place, port, model, clients, asked.seconds, core))
                memory[name].append(_memory_bytes())
    print(f"\n{title:<14}{'clients':>8}{'p50 ms':>9}{'p99 ms':>9}{'req/s':>9}{'memory MiB':>12}  statuses")
    for (name, clients), rows in found.items():
        p50, p99, rate = (statistics.median(one[key] for one in rows) for key in ("p50_ms", "p99_ms", "per_s"))
        mebibytes = statistics.median(memory[name]) / 2**20
        statuses = sorted({status for one in rows for status in one["statuses"]})
        print(f"{name:<14}{clients:>8}{p50:>9.1f}{p99:>9.1f}{rate:>9.0f}{mebibytes:>12.0f}  {' '.join(statuses)}")


def _measure(place: Path, port: int, model: str, clients: int, seconds: float, core: int) -> dict[str, Any]:
    body = place / "body.json"
    messages = [{"role": "user", "content": QUESTION}]
    body.write_text(json.dumps({"model": model, "messages": messages, "max_tokens": NEW_TOKENS}))
    command = [sys.executable, "-m", "benchmarks.load_client", "127.0.0.1", str(port), str(body), str(clients)]
    ended = subprocess.run(
        ["taskset", "-c", str(core), *command, str(seconds)], stdout=subprocess.PIPE, text=True, check=True
    )
    read: dict[str, Any] = json.loads(ended.stdout)
    return read


@contextlib.contextmanager
def _upstream(core: int) -> Iterator[int]:
    port = _free_port()
    command = ["taskset", "-c", str(core), sys.executable, "-m", "benchmarks.fake_upstream", str(port)]
    with _running(command, f"http://127.0.0.1:{port}/", post=True):
        yield port


@contextlib.contextmanager
def _litellm(place: Path, environment: Path, upstream: int) -> Iterator[tuple[int, str]]:
    config = place / "litellm.json"
    params = {"model": "openai/fake", "api_base": f"http://127.0.0.1:{upstream}/v1", "api_key": "none"}
    # moe_ray needs no key on 127.0.0.1 either.
    general = {"dangerously_permit_weak_or_unset_master_key": True}
    models = [{"model_name": "fake", "litellm_params": params}]
    config.write_text(json.dumps({"model_list": models, "general_settings": general}))
    port = _free_port()
    command = [str(environment / "bin" / "litellm"), "--config", str(config), "--port", str(port)]
    with _running([*command, "--host", "127.0.0.1"], f"http://127.0.0.1:{port}/health/liveliness"):
        yield port, "fake"


@contextlib.contextmanager
def _transformers(model: Path) -> Iterator[tuple[int, str]]:
    port = _free_port()
    program = str(Path(sys.executable).parent / "transformers")
    command = [program, "serve", "--host", "127.0.0.1", "--port", str(port)]
    with _running(command, f"http://127.0.0.1:{port}/health"):
        yield port, str(model)


@contextlib.contextmanager
def _moe_ray(place: Path, model: dict[str, Any]) -> Iterator[tuple[int, str]]:
    (place / "data.jsonl").write_text(json.dumps({"id": "1", "q": "one", "a": "two"}))
    source = {"source": "./data.jsonl"}
    domain = {"task": "free_text", "data": source, "columns": {"question": "q", "reference": "a"}}
    experiment = {
        "name": "peers",
        "models": {"base": model},
        "baseline": "base",
        "domains": {"all": domain},
        "runtime": {"cpu_slots": 1, "temp_dir": str(place / "r")},
        "serving": {"port": 0},
        "output": {"results_dir": str(place / "results")},
    }
    path = place / "peers.yaml"
    path.write_text(json.dumps(experiment))
    with serving(load_experiment(path), LoggingObserver(logging.getLogger("benchmark"))) as served:
        yield served.system.serving.port, "base"


def _endpoint(upstream: int) -> dict[str, Any]:
    settings = {"base_url": f"http://127.0.0.1:{upstream}/v1", "max_concurrent_requests": 64}
    return {"path": "fake", "engine": "endpoint", "engine_settings": settings}


@contextlib.contextmanager
def _running(command: list[str], url: str, *, post: bool = False) -> Iterator[None]:
    """Run a server until the block ends; the block begins when `url` answers."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            _await(process, urllib.request.Request(url, data=b"{}" if post else None), log)
            yield
        finally:
            process.terminate()
            process.wait(30)


def _await(process: "subprocess.Popen[bytes]", request: urllib.request.Request, log: Any) -> None:
    until = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(request, timeout=5):
            return
        time.sleep(0.2)
    log.seek(0)
    raise SystemExit(f"{process.args!r} did not start:\n{log.read().decode(errors='replace')[-3000:]}")


def _memory_bytes() -> int:
    """Resident memory of this process's descendants; the benchmark's own upstream is among them (20 MiB)."""
    total = 0
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            total += process.memory_info().rss
    return total


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


if __name__ == "__main__":
    main()
