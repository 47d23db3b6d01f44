"""Traces and ablations as processes that are killed and started again, alone or two on one folder."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import transformers

from tests.specialisation.families import make
from tests.support.tiny_models import make_tokenizer

pytestmark = pytest.mark.slow

WORDS = {"law": ["court", "law", "contract", "is", "the"], "bio": ["drug", "cell", "question", "answer", "of"]}
NUM_TEXTS, TIMEOUT_S = 240, 240
TABLES = {
    "trace": ("texts.parquet", "layers.parquet", "tokens.parquet", "trace.json"),
    "ablate": ("changes.parquet", "ablation.json", "plan.json", "report.json"),
}
OPTIONS = {"trace": ("--tokens",), "ablate": ("--experts", "1,4", "--layers", "1", "--batch-size", "21")}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mixture and texts."""
    folder, tokenizer, rng = tmp_path_factory.mktemp("world"), make_tokenizer(), random.Random(1)
    transformers.utils.logging.disable_progress_bar()
    make("mixtral", vocab_size=len(tokenizer)).save_pretrained(folder / "mixture")
    tokenizer.save_pretrained(folder / "mixture")
    lines = [
        json.dumps({"text": " ".join(rng.choice(words) for _ in range(rng.randint(4, 12))), "label": label})
        for label, words in WORDS.items()
        for _ in range(NUM_TEXTS // 2)
    ]
    (folder / "texts.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def start(command: str, world: Path, out: Path, *more: str) -> subprocess.Popen[str]:
    given = (world / "mixture", "--texts", world / "texts.jsonl", "--out", out, *OPTIONS[command], *more)
    return subprocess.Popen(
        [sys.executable, "-m", "moe_ray", "specialise", command, *map(str, given)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def finish(process: subprocess.Popen[str]) -> str:
    shown, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, shown
    return shown


def parts_of(command: str, out: Path) -> list[Path]:
    folder = out.with_name(f".{out.name}.parts") if command == "trace" else out / "parts"
    marks = folder.glob("*/trace.json") if command == "trace" else folder.glob("[0-9]*.parquet")
    return list(marks)


def kill_after_a_part(command: str, process: subprocess.Popen[str], out: Path, num_parts: int = 1) -> None:
    """Kill the process as soon as it has written `num_parts` more parts."""
    before, end_s = len(parts_of(command, out)), time.monotonic() + TIMEOUT_S
    while len(parts_of(command, out)) < before + num_parts:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end_s
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=TIMEOUT_S)


def content(command: str, out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in TABLES[command]}


def uninterrupted(command: str, world: Path) -> dict[str, bytes]:
    out = world / f"whole-{command}"
    finish(start(command, world, out))
    return content(command, out)


@pytest.fixture(scope="module")
def whole_trace(world: Path) -> dict[str, bytes]:
    return uninterrupted("trace", world)


@pytest.fixture(scope="module")
def whole_ablation(world: Path) -> dict[str, bytes]:
    return uninterrupted("ablate", world)


@pytest.mark.parametrize(("command", "whole"), [("trace", "whole_trace"), ("ablate", "whole_ablation")])
def test_a_command_that_is_killed_twice_continues_to_the_same_bytes(
    command: str, whole: str, world: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    expected, out = request.getfixturevalue(whole), tmp_path / "out"
    for _ in range(2):
        kill_after_a_part(command, start(command, world, out), out)
    assert len(parts_of(command, out)) >= 2
    finish(start(command, world, out))
    assert content(command, out) == expected
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert not (out / "parts").exists()


def test_shards_of_two_processes_of_which_one_is_killed_are_the_same_trace(
    whole_trace: dict[str, bytes], world: Path, tmp_path: Path
) -> None:
    shards = {f"{number}/2": tmp_path / f"shard-{number}" for number in (1, 2)}
    one, two = (start("trace", world, out, "--shard", shard) for shard, out in shards.items())
    kill_after_a_part("trace", one, shards["1/2"])
    finish(two)
    finish(start("trace", world, shards["1/2"], "--shard", "1/2"))
    merged = ["specialise", "merge", *map(str, shards.values()), "--out", str(tmp_path / "out")]
    subprocess.run([sys.executable, "-m", "moe_ray", *merged], check=True, capture_output=True)
    assert content("trace", tmp_path / "out") == whole_trace


def test_an_ablation_that_two_processes_share_is_the_same_when_one_is_killed(
    whole_ablation: dict[str, bytes], world: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    one, two = start("ablate", world, out), start("ablate", world, out)
    kill_after_a_part("ablate", one, out)
    finish(two)
    assert content("ablate", out) == whole_ablation


def test_two_processes_that_share_an_ablation_both_end_well(
    whole_ablation: dict[str, bytes], world: Path, tmp_path: Path
) -> None:
    processes = [start("ablate", world, tmp_path / "out") for _ in range(2)]
    for process in processes:
        finish(process)
    assert content("ablate", tmp_path / "out") == whole_ablation
