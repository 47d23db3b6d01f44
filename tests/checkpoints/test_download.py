"""`moe-ray models download`, against a hub on this machine: what comes, what goes on, what is said when it fails."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import huggingface_hub
import pytest
import transformers
import yaml

from moe_ray.checkpoints.identity import FileHashes, inspect_checkpoint
from moe_ray.cli.main import app
from moe_ray.cli.terminal import EXIT_RUN_FAILED, EXIT_USAGE, reported
from moe_ray.config.schema import ModelConfig
from moe_ray.hub import hub_answers
from tests.checkpoints.fake_hub import FakeHub, running_hub
from tests.support.tiny_models import make_tiny_checkpoint

Command = Callable[..., tuple[int, str]]
Usage = namedtuple("Usage", "total used free")

WEIGHTS = random.Random(0).randbytes(3_000_000)
# huggingface_hub writes 10 MiB at a time, so that of a held connection two such parts are on the disk.
HUGE_NAME = "model-00002-of-00002.safetensors"
HUGE = {HUGE_NAME: random.Random(1).randbytes(26 << 20)}
HELD_BYTES = 22 << 20
FILES = {
    "config.json": b'{"model_type": "llama", "hidden_size": 8, "num_hidden_layers": 1, "vocab_size": 9}',
    "tokenizer.json": b"{}",
    "tokenizer.model": b"sentencepiece" * 1000,
    "model-00001-of-00002.safetensors": WEIGHTS,
    "model-00002-of-00002.safetensors": WEIGHTS[::-1],
    "model.safetensors.index.json": b'{"weight_map": {}}',
    "chat_template.jinja": b"{{ messages }}",
}
DUPLICATES = {
    "pytorch_model.bin": WEIGHTS,
    "pytorch_model.bin.index.json": b"{}",
    "consolidated.safetensors": WEIGHTS,
    "model.fp16.safetensors": WEIGHTS,
    "model-q4.gguf": WEIGHTS,
    "onnx/model.onnx": WEIGHTS,
    "original/consolidated.00.pth": WEIGHTS,
    "modeling_custom.py": b"print('hello')",
    "README.md": b"# A model",
}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    """A hub, a cache of its own, and no memory of whether another hub answered."""
    constants = huggingface_hub.constants
    with running_hub() as running:
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", running.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        hub_answers.cache_clear()
        yield running
        hub_answers.cache_clear()


@pytest.fixture
def moe_ray(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    def command(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["moe-ray", "models", "download", *map(str, arguments)])
        code = reported(app)
        shown = capsys.readouterr()
        return code, shown.out + shown.err

    return command


def experiment(folder: Path, **models: object) -> Path:
    path = folder / "experiment.yaml"
    domain = {
        "task": "free_text",
        "data": {"source": "./texts.jsonl"},
        "columns": {"id": "id", "question": "q", "reference": "r"},
        "prompt": {"template": "{question}"},
    }
    path.write_text(
        yaml.safe_dump(
            {"name": "e", "models": models, "matrix": "full", "baseline": next(iter(models)), "domains": {"d": domain}},
            sort_keys=False,
        )
    )
    return path


def cached(tmp_path: Path, repo: str, name: str, revision: str | None = None) -> str | None:
    found = huggingface_hub.try_to_load_from_cache(repo, name, cache_dir=tmp_path / "cache", revision=revision)
    return found if isinstance(found, str) else None


def files_in(folder: Path) -> dict[str, bytes]:
    """The files of a folder by name; what huggingface_hub notes lies in a hidden folder of it."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_the_cache_then_resolves_the_told_commit_without_a_network(
    hub: FakeHub, moe_ray: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = make_tiny_checkpoint(tmp_path / "made", "llama")
    commit = hub.put("owner/tiny", {path.name: path.read_bytes() for path in checkpoint.iterdir()})
    code, shown = moe_ray(experiment(tmp_path, m={"path": "owner/tiny"}))
    assert code == 0, shown
    assert f"revision: {commit}" in shown
    hub.repositories.clear()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    for revision in (None, "main", commit):
        model = ModelConfig(path="owner/tiny", revision=revision)
        assert inspect_checkpoint("m", model, FileHashes(tmp_path / "hashes")).revision == commit
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            "owner/tiny", revision=revision, cache_dir=tmp_path / "cache"
        )
        loaded = transformers.AutoModelForCausalLM.from_pretrained(
            "owner/tiny", revision=revision, cache_dir=tmp_path / "cache"
        )
        assert len(tokenizer) <= loaded.config.vocab_size


def test_weights_come_once_and_only_what_loads_them(hub: FakeHub, moe_ray: Command, tmp_path: Path) -> None:
    hub.put("owner/model", {**FILES, **DUPLICATES})
    code, shown = moe_ray(experiment(tmp_path, m={"path": "owner/model"}), "--to", tmp_path / "to")
    assert code == 0, shown
    assert files_in(tmp_path / "to" / "m") == FILES
    assert f"path: {tmp_path / 'to' / 'm'}" in shown


def test_without_safetensors_the_pickled_weights_come(hub: FakeHub, moe_ray: Command, tmp_path: Path) -> None:
    files = {"config.json": b"{}", "pytorch_model.bin": WEIGHTS, "tf_model.h5": WEIGHTS}
    hub.put("owner/old", files)
    assert moe_ray(experiment(tmp_path, m={"path": "owner/old"}), "--to", tmp_path / "to")[0] == 0
    assert sorted(files_in(tmp_path / "to" / "m")) == ["config.json", "pytorch_model.bin"]


def test_code_comes_only_where_it_is_trusted(hub: FakeHub, moe_ray: Command, tmp_path: Path) -> None:
    hub.put("owner/model", {**FILES, **DUPLICATES})
    file = experiment(tmp_path, m={"path": "owner/model", "trust_remote_code": True})
    assert moe_ray(file, "--to", tmp_path / "to")[0] == 0
    assert (tmp_path / "to" / "m" / "modeling_custom.py").is_file()


def test_a_tokenizer_of_its_own_comes_without_weights(hub: FakeHub, moe_ray: Command, tmp_path: Path) -> None:
    hub.put("owner/model", FILES)
    hub.put("owner/words", FILES)
    file = experiment(tmp_path, m={"path": "owner/model", "tokenizer": "owner/words"})
    code, shown = moe_ray(file)
    assert code == 0, shown
    assert cached(tmp_path, "owner/words", "tokenizer.json")
    assert not cached(tmp_path, "owner/words", "model-00001-of-00002.safetensors")


def test_only_one_model_comes_and_what_is_not_on_the_hub_is_said(
    hub: FakeHub, moe_ray: Command, tmp_path: Path
) -> None:
    hub.put("owner/a", FILES)
    hub.put("owner/b", FILES)
    (tmp_path / "here").mkdir()
    models = {
        "a": {"path": "owner/a"},
        "b": {"path": "owner/b"},
        "here": {"path": "./here"},
        "fake": {"path": "fake", "engine": "scripted"},
    }
    file = experiment(tmp_path, **models)
    assert moe_ray(file, "--only", "b")[0] == 0
    assert (cached(tmp_path, "owner/a", "config.json"), bool(cached(tmp_path, "owner/b", "config.json"))) == (
        None,
        True,
    )
    shown = moe_ray(file)[1]
    assert "here: " in shown
    assert "is local" in shown
    assert "fake: engine scripted, nothing to fetch" in shown
    code, shown = moe_ray(file, "--only", "c")
    assert (code, "choose one of a, b, here, fake" in shown) == (EXIT_USAGE, True)


def test_a_second_command_fetches_nothing(hub: FakeHub, moe_ray: Command, tmp_path: Path) -> None:
    hub.put("owner/model", FILES)
    file = experiment(tmp_path, m={"path": "owner/model"})
    for options in ((), ("--to", tmp_path / "to")):
        assert moe_ray(file, *options)[0] == 0
        hub.asked.clear()
        code, shown = moe_ray(file, *options)
        assert (code, "already downloaded" in shown) == (0, True)
        assert [path for method, path, _ in hub.asked if method == "GET" and "/resolve/" in path] == []


@contextmanager
def started(command: list[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """A process that is killed at the end of the block."""
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def await_held_file(tmp_path: Path, process: subprocess.Popen[str]) -> None:
    """Wait until the largest file is held in the middle."""
    for _ in range(600):
        if any(path.stat().st_size >= 10 << 20 for path in tmp_path.rglob("*.incomplete")):
            return
        assert process.poll() is None
        time.sleep(0.2)
    raise AssertionError("no file is under way")


@pytest.mark.slow
def test_a_killed_download_fetches_only_what_is_not_whole(hub: FakeHub, tmp_path: Path) -> None:
    """SIGKILL, in the middle of the last file; the second process asks for that one alone, from its beginning."""
    hub.put("owner/model", {**FILES, **HUGE})
    file = experiment(tmp_path, m={"path": "owner/model"})
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "moe_ray", "models", "download", str(file)]
    hub.hold_after_bytes = HELD_BYTES
    with started(command, environment) as first:
        await_held_file(tmp_path, first)
    hub.hold_after_bytes = None
    came = {path.rpartition("/")[2] for method, path, _ in hub.asked if method == "GET" and "/resolve/" in path}
    assert len(came) > 1
    hub.asked.clear()
    second = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert second.returncode == 0, second.stdout + second.stderr
    again = [path.rpartition("/")[2] for method, path, _ in hub.asked if method == "GET" and "/resolve/" in path]
    assert sorted(again) == sorted({*FILES, *HUGE} - came | {HUGE_NAME})
    assert hub.ranges_of(HUGE_NAME) == [None]
    folder = next((tmp_path / "cache").glob("models--*/snapshots/*"))
    assert files_in(folder) == {**FILES, **HUGE}


@pytest.mark.slow
def test_an_interrupted_download_says_how_to_go_on(hub: FakeHub, tmp_path: Path) -> None:
    hub.put("owner/model", {**FILES, **HUGE})
    file = experiment(tmp_path, m={"path": "owner/model"})
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_CACHE": str(tmp_path / "cache")}
    hub.hold_after_bytes = HELD_BYTES
    command = [sys.executable, "-m", "moe_ray", "models", "download", str(file)]
    with started(command, environment) as process:
        await_held_file(tmp_path, process)
        process.send_signal(signal.SIGINT)
        hub.released.set()
        shown = process.communicate(timeout=60)[0]
    assert process.returncode == 130
    assert "the same command continues" in shown
    assert "Traceback" not in shown


def test_a_connection_that_breaks_is_taken_up_by_itself(hub: FakeHub, moe_ray: Command, tmp_path: Path) -> None:
    hub.put("owner/model", FILES)
    hub.cut_after_bytes = 2_000_000
    code, shown = moe_ray(experiment(tmp_path, m={"path": "owner/model"}), "--to", tmp_path / "to")
    assert code == 0, shown
    assert files_in(tmp_path / "to" / "m") == FILES


def test_a_broken_connection_goes_on_in_the_middle_of_the_file(hub: FakeHub, moe_ray: Command, tmp_path: Path) -> None:
    hub.put("owner/model", {**FILES, **HUGE})
    hub.cut_after_bytes = HELD_BYTES
    code, shown = moe_ray(experiment(tmp_path, m={"path": "owner/model"}), "--to", tmp_path / "to")
    assert code == 0, shown
    assert hub.ranges_of(HUGE_NAME) == [None, f"bytes={20 << 20}-"]
    assert files_in(tmp_path / "to" / "m") == {**FILES, **HUGE}


def test_a_folder_carried_from_another_machine_is_completed(hub: FakeHub, moe_ray: Command, tmp_path: Path) -> None:
    """Weights are known by their hash, though huggingface_hub's notes were left behind."""
    hub.put("owner/model", FILES)
    (tmp_path / "to" / "m").mkdir(parents=True)
    name = "model-00001-of-00002.safetensors"
    (tmp_path / "to" / "m" / name).write_bytes(WEIGHTS)
    assert moe_ray(experiment(tmp_path, m={"path": "owner/model"}), "--to", tmp_path / "to")[0] == 0
    assert hub.ranges_of(name) == []
    assert files_in(tmp_path / "to" / "m") == FILES


@pytest.mark.slow
def test_a_server_that_will_not_go_on_sends_the_file_again(hub: FakeHub, moe_ray: Command, tmp_path: Path) -> None:
    hub.put("owner/model", {**FILES, **HUGE})
    hub.cut_after_bytes = HELD_BYTES
    hub.refuses_ranges = True
    assert moe_ray(experiment(tmp_path, m={"path": "owner/model"}), "--to", tmp_path / "to")[0] == 0
    assert hub.ranges_of(HUGE_NAME) == [None, f"bytes={20 << 20}-"]
    assert files_in(tmp_path / "to" / "m") == {**FILES, **HUGE}


@pytest.mark.parametrize("options", [[], ["--to", "to"]])
def test_damaged_bytes_are_thrown_away_and_said(
    hub: FakeHub, moe_ray: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    hub.put("owner/model", FILES)
    hub.spoils = True
    file = experiment(tmp_path, m={"path": "owner/model"})
    code, shown = moe_ray(file, *options)
    assert (code, "its checksum is wrong" in shown) == (EXIT_RUN_FAILED, True)
    hub.spoils = False
    code, shown = moe_ray(file, *options)
    assert code == 0, shown
    assert {path.read_bytes() for path in tmp_path.rglob("*.safetensors")} == {WEIGHTS, WEIGHTS[::-1]}


def test_a_disk_that_is_too_small_is_said_with_both_numbers_before_anything_comes(
    hub: FakeHub, moe_ray: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is there already does not count."""
    hub.put("owner/model", {"config.json": b"{}", "model.safetensors": bytes(3 << 20)})
    file = experiment(tmp_path, m={"path": "owner/model"})
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10, 10, 2 << 20))
    code, shown = moe_ray(file, "--to", tmp_path / "to")
    assert code == EXIT_USAGE
    assert "3.00 MiB are still to be fetched, and 2.00 MiB are free" in shown
    assert [path for method, path, _ in hub.asked if method == "GET" and "/resolve/" in path] == []
    (tmp_path / "to" / "m").mkdir(parents=True, exist_ok=True)
    (tmp_path / "to" / "m" / "model.safetensors").write_bytes(bytes(3 << 20))
    assert moe_ray(file, "--to", tmp_path / "to")[0] == 0


@pytest.mark.parametrize(
    ("repo", "revision", "refusal", "words"),
    [
        ("owner/absent", None, None, "the hub has no owner/absent"),
        ("owner/gated", None, (403, "GatedRepo"), "hf auth login"),
        ("owner/private", None, (401, ""), "hf auth login"),
        ("owner/model", "mian", None, "did you mean main?"),
        ("owner/quantised", None, None, "holds no weights that transformers loads (it holds .gguf, .json)"),
        ("not a hub id", None, None, "a hub id is owner/name"),
    ],
)
def test_what_the_hub_refuses_is_said_with_its_line_and_a_remedy(
    hub: FakeHub,
    moe_ray: Command,
    tmp_path: Path,
    repo: str,
    revision: str | None,
    refusal: tuple[int, str] | None,
    words: str,
) -> None:
    hub.put("owner/model", FILES)
    hub.put("owner/quantised", {"config.json": b"{}", "model-q4.gguf": WEIGHTS})
    for name in ("owner/gated", "owner/private"):
        hub.put(name, FILES)
        hub.repositories[name].refusal = refusal
    code, shown = moe_ray(experiment(tmp_path, m={"path": repo, "revision": revision}))
    assert (code, words in shown) == (EXIT_USAGE, True), shown
    assert "experiment.yaml:" in shown
    assert "models.m.path" in shown
    assert "remedy:" in shown


def test_without_a_network_it_is_said_at_once(
    hub: FakeHub, moe_ray: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    code, shown = moe_ray(experiment(tmp_path, m={"path": "owner/model"}))
    assert (code, "the hub cannot be reached at http://127.0.0.1:9" in shown) == (EXIT_USAGE, True)
    assert "--to FOLDER" in shown
