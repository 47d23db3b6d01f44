"""What the way through `moe-ray serve` costs, beside a bare one-hop Ray Serve application with the same scripted model.

    python -m benchmarks.serving_cost [--seconds 5] [--repetitions 5] [--clients 1 16 64]

The model answers at once, so that all time is the way's. `bare` parses the request, asks the model in its own process
and writes an answer of the same length. `model` names a model of moe_ray; `auto` lets a tf-idf router choose, whose
verdict is remembered after the first request of a text. Servers and load client have a core of their own. Each
repetition measures all rows in another order; figures are medians over repetitions. "CPU ms" is the CPU time of all
server processes, Ray's included, for a request.
"""

import argparse
import asyncio
import contextlib
import json
import logging
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
from fastapi import FastAPI, Request
from ray import serve
from starlette.responses import JSONResponse

from benchmarks.machine import machine_line
from moe_ray.config.load import load_experiment
from moe_ray.config.schema import ModelConfig
from moe_ray.engines.base import BatchLimits, GenerateRequest
from moe_ray.engines.registry import make_engine
from moe_ray.engines.streams import streaming
from moe_ray.execution.observer import LoggingObserver
from moe_ray.prompts.messages import Message, Prompt
from moe_ray.runs.serve import serving

TEXT = "one two three four five six seven eight"
QUESTION = "Which court may hear an appeal?"
BARE_PREFIX = "/bare"
LIMITS = BatchLimits(max_rows=64, cache_memory_bytes=1 << 30)
# The first requests import what they need.
WARM_UP_S = 3.0
FIGURES = ("p50_ms", "p99_ms", "per_s", "cpu_ms")
SCRIPTED = {"path": "./none", "engine": "scripted", "engine_settings": {"text": TEXT}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 16, 64])
    asked = parser.parse_args()
    print(machine_line("ray", "fastapi", "uvicorn"))
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, set(cores[:-1]) or set(cores))
    found: defaultdict[tuple[str, int], list[dict[str, Any]]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder, _served(Path(folder)) as ports:
        for name, port in ports.items():
            _measure(Path(folder), port, name, 1, WARM_UP_S, cores[-1])
        rows = [(name, clients) for name in ports for clients in asked.clients]
        for repetition in range(asked.repetitions):
            random.Random(repetition).shuffle(rows)
            for name, clients in rows:
                before_s = cpu_seconds()
                read = _measure(Path(folder), ports[name], name, clients, asked.seconds, cores[-1])
                read["cpu_ms"] = 1000 * (cpu_seconds() - before_s) / read["num_sent"]
                found[name, clients].append(read)
    _print(found, list(asked.clients))


@contextlib.contextmanager
def _served(folder: Path) -> Iterator[dict[str, int]]:
    """Serve the experiment, and the bare application beside it on the same proxy."""
    experiment = load_experiment(_experiment(folder))
    with serving(experiment, LoggingObserver(logging.getLogger("benchmark"))) as served:
        port = served.system.serving.port
        serve.run(_bare_application(), name="bare", route_prefix=BARE_PREFIX)
        yield {"bare": port, "model": port, "auto": port}


def _experiment(folder: Path) -> Path:
    """Write an experiment of two scripted models, and the texts that its router learns from."""
    words = {"legal": "court appeal lawyer contract judge", "code": "python function list string loop"}
    domains, router_data = {}, {}
    for name, vocabulary in words.items():
        rng = random.Random(name)
        for part, number in (("asked", 3), ("learned", 60)):
            lines = [
                json.dumps(
                    {"id": f"{name}-{part}-{index}", "q": " ".join(rng.choices(vocabulary.split(), k=9)), "a": "x"}
                )
                for index in range(number)
            ]
            (folder / f"{name}-{part}.jsonl").write_text("\n".join(lines))
        domains[name] = {
            "task": "free_text",
            "expert": name,
            "data": {"source": f"./{name}-asked.jsonl"},
            "columns": {"question": "q", "reference": "a"},
        }
        router_data[name] = {"source": f"./{name}-learned.jsonl"}
    experiment = {
        "name": "cost",
        "models": dict.fromkeys((*words, "base"), SCRIPTED),
        "baseline": "base",
        "domains": domains,
        "router": {"kind": "tfidf", "data": router_data},
        "runtime": {"cpu_slots": 3, "temp_dir": str(folder / "r")},
        "serving": {"port": 0},
        "output": {"results_dir": str(folder / "results")},
    }
    path = folder / "cost.yaml"
    path.write_text(json.dumps(experiment))
    return path


def _bare_application() -> serve.Application:
    """One hop and nothing else: what any Serve application with this model would cost at least."""
    app = FastAPI()
    engine: Any = None

    @app.post("/v1/chat/completions")
    async def complete(request: Request) -> JSONResponse:
        nonlocal engine
        if engine is None:
            engine = streaming(make_engine(ModelConfig(**SCRIPTED), LIMITS))
        asked = json.loads(await request.body())
        prompt = Prompt(messages=tuple(Message(**one) for one in asked["messages"]))
        request_ = GenerateRequest(id="x", prompt=prompt, max_new_tokens=64, temperature=0.0, top_p=1.0, seed=0)
        answer = await asyncio.to_thread(engine.submit(request_).result)
        message = {"role": "assistant", "content": answer.text}
        return JSONResponse({"id": "x" * 36, "choices": [{"index": 0, "message": message}], "padding": "x" * 300})

    deployment: Any = serve.deployment(serve.ingress(app)())
    options = {"max_ongoing_requests": 256, "ray_actor_options": {"num_cpus": 0}}
    bound: serve.Application = deployment.options(**options).bind()
    return bound


def _measure(folder: Path, port: int, name: str, clients: int, seconds: float, core: int) -> dict[str, Any]:
    body = folder / f"{name}.json"
    model = "auto" if name == "auto" else "legal"
    body.write_text(json.dumps({"model": model, "messages": [{"role": "user", "content": QUESTION}]}))
    command = [sys.executable, "-m", "benchmarks.load_client", "127.0.0.1", str(port), str(body), str(clients)]
    prefix = BARE_PREFIX if name == "bare" else ""
    ended = subprocess.run(
        ["taskset", "-c", str(core), *command, str(seconds), prefix], stdout=subprocess.PIPE, text=True, check=True
    )
    read: dict[str, Any] = json.loads(ended.stdout)
    return read


def cpu_seconds() -> float:
    """CPU time so far of this process's living descendants."""
    total = 0.0
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def _print(found: dict[tuple[str, int], list[dict[str, Any]]], clients: list[int]) -> None:
    print(f"{'row':<8}{'clients':>8}{'p50 ms':>9}{'p99 ms':>9}{'req/s':>9}{'added p50':>11}{'of bare':>9}", end="")
    print(f"{'CPU ms':>8}{'of bare':>9}")
    for number in clients:
        bare = {key: statistics.median(one[key] for one in found["bare", number]) for key in FIGURES}
        for name in ("bare", "model", "auto"):
            rows = found[name, number]
            if any(set(one["statuses"]) != {"200"} for one in rows):
                print(f"{name:<8}{number:>8}  other statuses: {[one['statuses'] for one in rows]}")
                continue
            p50, p99, rate, cpu = (statistics.median(one[key] for one in rows) for key in FIGURES)
            print(f"{name:<8}{number:>8}{p50:>9.1f}{p99:>9.1f}{rate:>9.0f}", end="")
            print(f"{p50 - bare['p50_ms']:>11.1f}{rate / bare['per_s']:>9.0%}", end="")
            print(f"{cpu:>8.1f}{cpu / bare['cpu_ms']:>9.0%}")


if __name__ == "__main__":
    main()
