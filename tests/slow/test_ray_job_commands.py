"""`moe-ray submit -- COMMAND` on a real Ray head: what a job writes is what the command writes here."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import yaml
from safetensors.torch import load_file

from moe_ray.clusters.submission import read_submission
from moe_ray.moe.btx.pretrain import pretrain
from moe_ray.moe.btx.training import in_turn
from tests.execution.commands import command, wait_until
from tests.moe.btx.worlds import ARCHITECTURE, TRAINING, WORDS, pretrain_config, write_texts
from tests.specialisation.families import make
from tests.support.ray_head import Head, ray_head
from tests.support.tiny_models import make_tokenizer

pytestmark = pytest.mark.slow
TIMEOUT_S = 240
TOPICS = {"law": ["court", "law", "contract", "is", "the"], "bio": ["drug", "cell", "question", "answer", "of"]}


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with (
        tempfile.TemporaryDirectory(prefix="mr-", dir="/tmp", ignore_cleanup_errors=True) as folder,
        ray_head(Path(folder)) as running,
    ):
        yield running


@contextmanager
def started(head: Head, *words: str) -> Iterator[Any]:
    """Start `moe-ray WORDS` with the cluster's token."""
    with command(*words, environment={**head.environment, "RAY_AUTH_TOKEN_PATH": str(head.token_file)}) as process:
        yield process


def done(head: Head, *words: str) -> tuple[int, str]:
    with started(head, *words) as process:
        out, err = process.communicate(timeout=TIMEOUT_S)
        return process.returncode, out + err


def submission(head: Head, shared: Path, *words: str) -> list[str]:
    return ["submit", "--address", head.url, "--results-dir", str(shared), "--", *words]


@pytest.fixture
def mixture(tmp_path: Path) -> Path:
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(0)
    folder, tokenizer = tmp_path / "mixtral", make_tokenizer()
    make("mixtral", vocab_size=len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """64 texts: four parts of an ablation."""
    rows = [
        {"text": f"{words[number % 5]} {words[number // 5 % 5]} {words[number // 2 % 5]} {number}", "label": label}
        for label, words in TOPICS.items()
        for number in range(32)
    ]
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_an_ablation_that_was_stopped_resumes_and_ends_in_the_bytes_of_this_machine(
    head: Head, mixture: Path, texts: Path, tmp_path: Path
) -> None:
    shared, out = tmp_path / "shared", tmp_path / "home" / "study" / "ablation"
    asked = ["specialise", "ablate", str(mixture), "--texts", str(texts)]
    words = submission(head, shared, *asked, "--out", str(out))
    there = shared / "study" / "ablation"
    with started(head, *words) as process:
        wait_until((there / "parts" / "00000.parquet").exists, process)
        assert done(head, "stop", str(out.parent))[0] == 0
        shown = "".join(process.communicate(timeout=TIMEOUT_S))
    assert process.returncode == 130, shown
    assert not (there / "ablation.json").exists()

    code, shown = done(head, *words)
    assert code == 0, shown
    assert read_submission(out.parent).attempt == 2
    here = tmp_path / "here"
    code, shown = done(head, *asked, "--out", str(here))
    assert code == 0, shown
    assert (out / "changes.parquet").read_bytes() == (here / "changes.parquet").read_bytes()
    reports = [json.loads((folder / "report.json").read_text()) for folder in (out, here)]
    assert [Path(report.pop("model")).name for report in reports] == ["mixtral", "mixtral"]
    assert reports[0] == reports[1]
    assert done(head, "status", str(out.parent))[1].startswith("succeeded, exit code 0")


def test_experts_are_trained_as_tasks_of_the_cluster_and_have_the_weights_of_this_machine(
    head: Head, tmp_path: Path
) -> None:
    shared, out = tmp_path / "shared", tmp_path / "home" / "study" / "experts"
    files = write_texts(tmp_path)
    given = {
        "architecture": dict(ARCHITECTURE),
        "experts": {name: [{"source": f"./{path.name}"}] for name, path in files.items()},
        "training": dict(TRAINING),
        "runtime": {"cpu_threads": 1, "address": "10.255.255.1:6379"},
    }
    (tmp_path / "experts.yaml").write_text(yaml.safe_dump(given, sort_keys=False))
    words = submission(head, shared, "moe", "pretrain", str(tmp_path / "experts.yaml"), "--out", str(out))
    code, shown = done(head, *words)
    assert code == 0, shown
    pretrain(pretrain_config(tmp_path), tmp_path, tmp_path / "alone", run=in_turn)
    assert done(head, "sync", str(out.parent))[0] == 0
    for name in ("mixture", *(f"experts/{expert}" for expert in WORDS)):
        trained, here = (load_file(folder / name / "model.safetensors") for folder in (out, tmp_path / "alone"))
        assert all(torch.equal(trained[tensor], here[tensor]) for tensor in here)


def test_a_mistake_that_only_the_job_can_find_is_its_exit_code_two(head: Head, texts: Path, tmp_path: Path) -> None:
    out = tmp_path / "home" / "study" / "trace"
    asked = ["specialise", "trace", "/only/on/the/cluster", "--texts", str(texts), "--out", str(out)]
    code, shown = done(head, *submission(head, tmp_path / "shared", *asked))
    assert code == 2, shown
    assert "/only/on/the/cluster" in shown
    assert "failed, exit code 2" in shown
