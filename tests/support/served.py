"""A small experiment behind its endpoint: real Ray, real Serve over HTTP, tiny models and a router that was trained.

The domains are those of `tests.routing.queries`. Every engine has a model:

- `baseline` and `code-expert` are tiny llamas of the transformers engine,
- `legal-expert` is scripted,
- `biomedical-expert` is an endpoint: the API of `tests.engines.openai_api`.
"""

import json
import re
import socket
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import ray
import yaml

from moe_ray.config.load import LoadedExperiment, load_experiment
from moe_ray.config.schema import RouterConfig
from moe_ray.routing.training import fit_router
from moe_ray.runs.serve import serving
from moe_ray.serving.app import owner_of
from moe_ray.serving.leases import Claim, Lease
from moe_ray.serving.running import Served
from tests.engines.openai_api import Api
from tests.execution.experiments import RUNTIME, Recorder, scripted
from tests.routing.queries import DOMAINS, nothing_reported, queries, router_texts
from tests.support.tiny_models import make_tiny_checkpoint

TIMEOUT_S = 120.0
NUM_EXAMPLES = 4
MAX_NEW_TOKENS = 12
REPLIES = {
    f"{domain}-{50_000 + place}": f"Reply {place} to a question of {domain}, word for word."
    for domain in DOMAINS
    for place in range(NUM_EXAMPLES)
}
EXPERTS = {domain: f"{domain}-expert" for domain in DOMAINS}


def train_router(folder: Path) -> Path:
    """Train a router of the tests' domains."""
    config = RouterConfig(kind="tfidf")
    router, _ = fit_router(config, router_texts(), device="cpu", report=nothing_reported)
    router.save(folder)
    return folder


def of_every_engine(folder: Path, api: Api) -> dict[str, dict[str, Any]]:
    """The models of the module's docstring. The baseline reads 512 tokens, `code-expert` 128."""
    settings = {"base_url": api.base_url}
    llamas = {
        name: make_tiny_checkpoint(folder / name, "llama", seed)
        for seed, name in enumerate(("baseline", "code-expert"))
    }
    config = json.loads((llamas["baseline"] / "config.json").read_text())
    (llamas["baseline"] / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 512}))
    return {
        **{name: {"path": str(path), "dtype": "float32"} for name, path in llamas.items()},
        "legal-expert": {**scripted(replies=REPLIES, text="I am the legal expert."), "path": "scripted/legal"},
        "biomedical-expert": {"path": "tiny", "engine": "endpoint", "engine_settings": settings},
    }


def write_served(
    folder: Path,
    models: Mapping[str, Mapping[str, Any]],
    *,
    router: Path | None,
    num_slots: int = 4,
    **serving_options: Any,
) -> LoadedExperiment:
    """Write an experiment whose domains go to `<domain>-expert`, if that is one of `models`, and load it."""
    folder.mkdir(parents=True, exist_ok=True)
    domains = {}
    for domain in DOMAINS:
        asked = queries([domain], NUM_EXAMPLES, first=50_000)
        records = [{"id": one.id, "question": one.text, "label": "yes"} for one in asked]
        (folder / f"{domain}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        domains[domain] = {
            "task": "decision",
            "data": {"source": f"./{domain}.jsonl"},
            "columns": {"id": "id", "question": "question", "label": "label"},
            "choices": ["yes", "no"],
            "prompt": {"template": "{question}"},
            **({"expert": EXPERTS[domain]} if EXPERTS[domain] in models else {}),
        }
    experiment: dict[str, Any] = {
        "name": "served",
        "models": dict(models),
        "baseline": "baseline",
        "matrix": "full",
        "likelihood": False,
        "domains": domains,
        "decoding": {"max_new_tokens": MAX_NEW_TOKENS},
        "runtime": {**RUNTIME, "cpu_slots": num_slots, "shard_size": 4},
        "serving": {"port": 0, **serving_options},
        "output": {"results_dir": str(folder / "results")},
    }
    if router is not None:
        experiment["router"] = {"kind": "tfidf", "path": str(router)}
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump(experiment, sort_keys=False))
    return load_experiment(path)


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A served experiment, as its clients and its operator see it."""

    experiment: LoadedExperiment
    served: Served
    client: httpx2.Client

    @property
    def url(self) -> str:
        return self.served.url

    def chat(self, model: str, content: str, *, headers: Mapping[str, str] | None = None, **fields: Any) -> Any:
        """Post a chat of one message; return the response."""
        body = {"model": model, "messages": [{"role": "user", "content": content}], **fields}
        return self.client.post("/v1/chat/completions", json=body, headers=headers)

    def metrics(self) -> dict[str, float]:
        """The samples of /metrics, spelled as there."""
        lines = self.client.get("/metrics").raise_for_status().text.splitlines()
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}

    def totals(self) -> dict[str, float]:
        """The metrics summed over their labels, once all requests so far are in them. For one ingress replica."""
        mark = 'moe_ray_requests_total{path="/v1/route",status="415"}'
        before = self.metrics().get(mark, 0.0)
        assert self.client.post("/v1/route").status_code == 415
        wait_for(lambda: self.metrics().get(mark, 0.0) > before)
        found: dict[str, float] = defaultdict(float)
        for name, value in self.metrics().items():
            found[name.partition("{")[0]] += value
        return found

    def leave_unanswered(self, model: str, **headers: str) -> socket.socket:
        """Send a chat of a model, and return the connection; its answer is not read. `headers` are added."""
        stream = headers.pop("stream", "false")
        body = f'{{"model": "{model}", "messages": [{{"role": "user", "content": "x"}}], "stream": {stream}}}'
        named = {"Host": "localhost", "Content-Type": "application/json", "Content-Length": str(len(body)), **headers}
        lines = "".join(f"{name}: {value}\r\n" for name, value in named.items())
        url = httpx2.URL(self.url)
        connection = socket.create_connection((url.host, url.port or 80), timeout=TIMEOUT_S)
        connection.sendall(f"POST /v1/chat/completions HTTP/1.1\r\n{lines}\r\n{body}".encode())
        return connection

    def replica(self, model: str) -> Any:
        """The actor that holds a model, which is loaded for it if need be."""
        owner = owner_of(self.served.system, {})
        call = f"test-{uuid.uuid4()}"
        lease = ray.get(owner.acquire.remote(Claim(model, "test", call)), timeout=TIMEOUT_S)
        assert isinstance(lease, Lease)
        ray.get(owner.release.remote(call))
        return lease.replica


def url_of(process: Any) -> str:
    """Wait for the line that says where the system is served."""
    for line in process.stdout:
        if found := re.search(r"Serving at (http://\S+)/v1", line):
            return found[1]
    raise AssertionError(process.stderr.read())


def num_open(replica: Any) -> int:
    """Calls that a replica is answering."""
    found: int = ray.get(replica.num_open.remote(), timeout=TIMEOUT_S)
    return found


def require_refusal_in_openais_shape(response: Any) -> None:
    """Fail for a fault of the server, and for a refusal of schemathesis's request that lacks OpenAI's error object."""
    assert response.status_code < 500, response.text
    if response.status_code >= 400:
        assert response.headers["content-type"][0].startswith("application/json"), response.headers
        error = json.loads(response.content)["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["message"]
        assert isinstance(error["message"], str)


def wait_for(holds: Callable[[], object]) -> None:
    """Return as soon as `holds`; fails where it does not in a patient time."""
    deadline = time.monotonic() + TIMEOUT_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@contextmanager
def endpoint_of(experiment: LoadedExperiment) -> Iterator[Endpoint]:
    """Serve `experiment` on a free port of this machine, on the Ray that is connected."""
    with (
        serving(experiment, Recorder()) as served,
        httpx2.Client(base_url=served.url, timeout=TIMEOUT_S) as client,
    ):
        assert served.failed == {}
        yield Endpoint(experiment=experiment, served=served, client=client)
