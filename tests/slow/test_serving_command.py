"""`moe-ray serve` as a command: Ctrl-C under load, and configurations that cannot be served."""

import os
import re
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from moe_ray.routing.training import fit_router
from tests.execution.commands import command, family_of, survivors
from tests.execution.experiments import scripted
from tests.routing.queries import nothing_reported, router_texts
from tests.support.commands import run
from tests.support.served import EXPERTS, TIMEOUT_S, url_of, write_served

pytestmark = pytest.mark.slow

END_TIMEOUT_S = 60.0


def models(**settings: Any) -> dict[str, dict[str, Any]]:
    names = ("baseline", *EXPERTS.values())
    return {name: {**scripted(text="one two three four", **settings), "path": f"scripted/{name}"} for name in names}


@pytest.fixture
def environment(short_folder: Path) -> dict[str, str]:
    return {"HOME": str(short_folder), "OMP_NUM_THREADS": "1"}


def ask(url: str) -> int:
    body = {"model": "baseline", "messages": [{"role": "user", "content": "x"}]}
    return int(httpx2.post(f"{url}/v1/chat/completions", json=body, timeout=TIMEOUT_S).status_code)


@pytest.mark.parametrize("wish", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_under_load_lets_requests_finish_and_leaves_nothing(
    tmp_path: Path, short_folder: Path, environment: dict[str, str], wish: signal.Signals
) -> None:
    experiment = write_served(tmp_path, models(seconds_per_token=0.5), router=None)
    with command(
        "serve", str(experiment.path), "--set", f"runtime.temp_dir={short_folder}", environment=environment
    ) as (process):
        url = url_of(process)
        family = family_of(process)
        with ThreadPoolExecutor(4) as threads:
            asked = [threads.submit(ask, url) for _ in range(4)]
            _wait_for_running(url, 4)
            os.kill(process.pid, wish)
            assert [one.result() for one in asked] == [200] * 4
        out, err = process.communicate(timeout=END_TIMEOUT_S)
    assert process.returncode == 130, out + err
    assert "Draining" in out
    assert "Traceback" not in out + err
    assert survivors(family) == []
    port = int(url.rpartition(":")[2])
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))


def _wait_for_running(url: str, number: int) -> None:
    while f"moe_ray_running_requests {number}" not in httpx2.get(f"{url}/metrics", timeout=TIMEOUT_S).text:
        pass


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        yield holder.getsockname()[1]


def require_refusal(experiment: Any, reason: str, *arguments: str) -> None:
    code, shown = run("serve", experiment.path, *arguments)
    assert code == 2, shown
    assert re.search(reason, shown), shown
    assert "Traceback" not in shown
    assert "remedy" in shown or shown.count("\n") <= 4, shown


def test_a_port_that_is_taken_is_refused_before_anything_starts(tmp_path: Path, taken_port: int) -> None:
    experiment = write_served(tmp_path, models(), router=None)
    require_refusal(experiment, "cannot listen on 127.0.0.1", "--set", f"serving.port={taken_port}")


def test_copies_of_an_unknown_model_are_refused(tmp_path: Path) -> None:
    experiment = write_served(tmp_path, models(), router=None, replicas={"unknown": 2})
    require_refusal(experiment, "no model is called unknown")


def test_a_keys_file_that_is_missing_or_open_to_others_is_refused(tmp_path: Path) -> None:
    experiment = write_served(tmp_path, models(), router=None, api_keys_file="keys")
    require_refusal(experiment, "cannot be read")
    (tmp_path / "keys").write_text("a-key-of-enough-characters\n")
    (tmp_path / "keys").chmod(0o644)
    require_refusal(experiment, "other users of this machine may read it")


def test_a_router_of_other_domains_is_refused(tmp_path: Path) -> None:
    from moe_ray.config.schema import RouterConfig

    texts = router_texts(("legal", "sports"))
    router, _ = fit_router(RouterConfig(kind="tfidf"), texts, device="cpu", report=nothing_reported)
    router.save(tmp_path / "router")
    experiment = write_served(tmp_path, models(), router=tmp_path / "router")
    require_refusal(experiment, "the router chooses between legal, sports")
