"""`moe-ray slurm prefetch` and offline nodes, with the hub's real clients against a hub on this machine."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml

from moe_ray.cli.terminal import EXIT_USAGE
from tests.checkpoints.fake_hub import FakeHub, running_hub
from tests.support.commands import Command

ROOT = Path(__file__).parents[2]
CHECKPOINT = {
    "config.json": b'{"model_type": "llama"}',
    "model.safetensors": bytes(range(256)) * 64,
    "tokenizer.json": b"{}",
    "tokenizer_config.json": b"{}",
}
ROWS = b"".join(b'{"id": "%d", "q": "what?", "r": "that"}\n' % number for number in range(5))


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with running_hub() as running:
        running.put("owner/tiny", {**CHECKPOINT, "pytorch_model.bin": bytes(10_000)})
        running.put("owner/words", CHECKPOINT)
        running.put(
            "datasets/owner/questions", {"test.jsonl": ROWS, "train.jsonl": ROWS, "README.md": b"# Questions\n"}
        )
        yield running


def experiment(folder: Path, **changes: Any) -> Path:
    path = folder / "experiment.yaml"
    domain = {
        "task": "free_text",
        "data": {"source": "owner/questions"},
        "columns": {"id": "id", "question": "q", "reference": "r"},
        "prompt": {"template": "{question}"},
    }
    content = {
        "name": "e",
        "models": {"m": {"path": "owner/tiny", "tokenizer": "owner/words"}},
        "baseline": "m",
        "domains": {"d": domain, "e": domain},
    }
    path.write_text(yaml.safe_dump(content | changes, sort_keys=False), encoding="utf-8")
    return path


class Login:
    """A login node with a site file that names the cache of the nodes."""

    def __init__(self, folder: Path, url: str) -> None:
        self.cache = folder / "shared" / "huggingface"
        self.site = folder / "site.yaml"
        self.site.write_text(
            yaml.safe_dump({"offline": True, "environment": {"HF_HOME": str(self.cache), "HF_HUB_OFFLINE": "1"}})
        )
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "SLURM", "RAY_"))}
        bin_ = folder / "bin"
        bin_.mkdir()
        for name, script in {"sbatch": "echo 17", "sinfo": "exit 1", "squeue": "exit 1"}.items():
            (bin_ / name).write_text(f"#!/bin/bash\n{script}\n")
            (bin_ / name).chmod(0o755)
        self.environment = {
            **kept, "HF_ENDPOINT": url, "HOME": str(folder), "PYTHONPATH": str(ROOT), "PATH": f"{bin_}:{kept['PATH']}",
            "MOE_RAY_CACHE": str(folder / "own-cache"),
        }  # fmt: skip

    def moe_ray(self, *arguments: object, **more: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "moe_ray", *map(str, arguments)]
        done = subprocess.run(
            command, env={**self.environment, **more}, capture_output=True, text=True, check=False, timeout=120
        )
        return done.returncode, done.stdout + done.stderr


@pytest.fixture
def login(tmp_path: Path, hub: FakeHub) -> Login:
    return Login(tmp_path, hub.url)


@pytest.mark.slow
def test_after_a_prefetch_offline_nodes_have_all_and_the_job_is_submitted(
    login: Login, hub: FakeHub, tmp_path: Path
) -> None:
    file = experiment(tmp_path)
    submit = ("slurm", file, "--site", login.site, "--results-dir", tmp_path / "results")
    code, shown = login.moe_ray(*submit)
    assert code == EXIT_USAGE, shown
    assert "models.m.path (owner/tiny), models.m.tokenizer (owner/words), domains.d.data (owner/questions" in shown
    assert "moe-ray slurm prefetch" in shown
    assert not hub.asked, "without a request"

    code, plan = login.moe_ray("slurm", "prefetch", file, "--site", login.site, "--dry-run")
    assert code == 0, plan
    assert not [path for method, path, _ in hub.asked if method == "GET" and path.endswith(".safetensors")]
    assert "models.m.path: owner/tiny at " in plan
    assert "to fetch" in plan

    code, shown = login.moe_ray("slurm", "prefetch", file, "--site", login.site)
    assert code == 0, shown
    assert "domains.d.data: owner/questions, split test, 5 records" in shown
    assert [path.name for path in login.cache.rglob("pytorch_model.bin")] == []
    assert [path.parts[-4] for path in login.cache.rglob("model.safetensors")] == ["models--owner--tiny"]

    code, shown = login.moe_ray("slurm", "prefetch", file, "--site", login.site)
    assert code == 0, shown
    assert shown.count("already there") == 3, shown

    hub.repositories.clear()
    hub.asked.clear()
    code, shown = login.moe_ray(*submit)
    assert code == 0, shown
    assert not hub.asked
    script = next(tmp_path.glob("results/e/slurm/job.sh")).read_text()
    for line in ("HF_HUB_OFFLINE=1", "HF_DATASETS_OFFLINE=1", f"HF_HOME={login.cache}"):
        assert f"export {line}\n" in script


def test_all_that_is_wrong_is_said_at_once_with_lines_and_remedies(login: Login, hub: FakeHub, tmp_path: Path) -> None:
    hub.put("owner/gated", CHECKPOINT)
    hub.repositories["owner/gated"].refusal = (403, "GatedRepo")
    models = {
        "m": {"path": "owner/gated"},
        "n": {"path": "owner/absent"},
        "o": {"path": "./nothing-here"},
        "p": {"path": "owner/tiny", "revision": "mian"},
    }
    file = experiment(
        tmp_path, models=models, matrix="full", router={"kind": "transformer", "base_model": "owner/none"}
    )
    code, shown = login.moe_ray("slurm", "prefetch", file, "--site", login.site)
    assert code == EXIT_USAGE, shown
    assert "5 problems" in shown
    for words in (
        "owner/gated is gated", "hf auth login", "the hub has no owner/absent", "nothing-here does not exist",
        "did you mean main?", "router.base_model: the hub has no owner/none", "experiment.yaml:",
    ):  # fmt: skip
        assert words in shown, words
    assert not list(login.cache.rglob("*.safetensors"))


def test_a_disk_that_is_too_small_is_refused_before_a_download(
    login: Login, hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import collections, shutil\n"
        "shutil.disk_usage = lambda _: collections.namedtuple('Usage', 'total used free')(9999, 8999, 1000)\n"
    )
    file = experiment(tmp_path)
    path = f"{tmp_path}:{login.environment['PYTHONPATH']}"
    code, shown = login.moe_ray("slurm", "prefetch", file, "--site", login.site, PYTHONPATH=path)
    assert code == EXIT_USAGE, shown
    assert "are still to be fetched, and 0.977 KiB are free" in shown
    assert "HF_HOME in the site file's environment" in shown
    assert "of disk space needed in all" in shown, "the plan comes first"
    assert not list(login.cache.rglob("*.safetensors"))


@pytest.mark.parametrize("words", [["slurm"], ["slurm", "submit"], ["slurm", "--nodes", "2"]])
def test_slurm_alone_submits(words: list[str], moe_ray: Command) -> None:
    code, shown = moe_ray(*words, "nothing.yaml")
    assert (code, "nothing.yaml: no such file" in shown) == (EXIT_USAGE, True)


def test_without_a_network_it_is_said_at_once(login: Login, tmp_path: Path) -> None:
    file = experiment(tmp_path)
    code, shown = login.moe_ray("slurm", "prefetch", file, HF_ENDPOINT="http://127.0.0.1:9")
    assert code == EXIT_USAGE
    assert "the hub cannot be reached at http://127.0.0.1:9" in shown
    assert "Traceback" not in shown


@pytest.mark.slow
def test_a_router_and_worked_examples_are_fetched_too(login: Login, hub: FakeHub, tmp_path: Path) -> None:
    hub.put("datasets/owner/other", {"train.jsonl": ROWS})
    router = {
        "kind": "transformer",
        "base_model": "owner/words",
        "other": [{"source": "owner/other", "column": "q"}],
        "data": {"d": {"source": "owner/questions", "split": "train"}},
    }
    file = experiment(tmp_path, router=router, models={"m": {"path": "x", "engine": "scripted"}})
    code, shown = login.moe_ray("slurm", "prefetch", file, "--site", login.site)
    assert code == 0, shown
    for words in ("router.base_model: owner/words", "router.other.0: owner/other", "router.data.d: owner/questions"):
        assert words in shown, words
    code, shown = login.moe_ray("slurm", file, "--site", login.site, "--results-dir", tmp_path / "results")
    assert code == 0, shown


def test_local_paths_are_looked_at_and_nothing_is_asked(login: Login, hub: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(ROWS)
    domain = {
        "task": "free_text",
        "data": {"source": "./rows.jsonl"},
        "columns": {"id": "id", "question": "q", "reference": "r"},
        "prompt": {"template": "{question}"},
    }
    file = experiment(tmp_path, domains={"d": domain}, models={"m": {"path": "x", "engine": "scripted"}})
    code, shown = login.moe_ray("slurm", "prefetch", file)
    assert code == 0, shown
    assert f"domains.d.data: {tmp_path / 'rows.jsonl'} is local" in shown
    assert not hub.asked


def test_metrics_of_the_hub_are_loaded_once_each_with_all_that_they_fetch(
    tmp_path: Path, moe_ray: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []

    class Metric:
        features: ClassVar[dict[str, None]] = {"predictions": None, "references": None}

        def compute(self, **_: Any) -> dict[str, float]:
            return {"score": 1.0}

    def load(name: str, *_: Any, **__: Any) -> Metric:
        loaded.append(name)
        return Metric()

    monkeypatch.setattr("evaluate.load", load)
    (tmp_path / "rows.jsonl").write_bytes(ROWS)
    changes = {"data": {"source": "./rows.jsonl"}, "graders": ["rouge_l", "evaluate:bleu"]}
    domain = yaml.safe_load(experiment(tmp_path).read_text(encoding="utf-8"))["domains"]["d"] | changes
    file = experiment(tmp_path, domains={"d": domain}, models={"m": {"path": "x", "engine": "scripted"}})
    code, shown = moe_ray("slurm", "prefetch", file)
    assert (code, loaded) == (0, ["bleu"]), shown
    assert "domains.d.graders: evaluate:bleu, size unknown" in shown
