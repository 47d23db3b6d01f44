"""Copies of checkpoints by several processes, by one that is killed, and on a disk that is really full."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from moe_ray.checkpoints.staging import FOLDER_VARIABLE, MAX_BYTES_VARIABLE, stage_model
from moe_ray.config.schema import ModelConfig
from tests.checkpoints.checkpoint_files import FILES, tree, write_snapshot
from tests.support.slurm_lab import wait_until

# A process that stages a model, and waits in the middle of a file until it is allowed to go on.
PROCESS = """
import shutil, sys, time
from pathlib import Path
from moe_ray.checkpoints.staging import stage_model
from moe_ray.config.schema import ModelConfig

source, slow_file, mark, go = sys.argv[1], sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4])
plain = shutil.copyfileobj

def copy(read, written, length):
    if slow_file and Path(f"/proc/self/fd/{read.fileno()}").readlink().name == slow_file:
        written.write(read.read(1000))
        written.flush()
        mark.touch()
        while not go.exists():
            time.sleep(0.02)
    plain(read, written, length)

shutil.copyfileobj = copy
print("asks", flush=True)
staged = stage_model(ModelConfig(path=source))
print("copied" if staged.notice else "found", staged.model.path, flush=True)
"""


def process(source: Path, local: Path, slow_file: str, mark: Path, go: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", PROCESS, str(source), slow_file, str(mark), str(go)]
    environment = {**os.environ, FOLDER_VARIABLE: str(local), MAX_BYTES_VARIABLE: ""}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_of_two_processes_one_copies_and_the_other_waits_for_it(source: Path, tmp_path: Path) -> None:
    local, mark, go = tmp_path / "local", tmp_path / "mark", tmp_path / "go"
    slow = process(source, local, "config.json", mark, go)
    try:
        wait_until(mark.exists, "the first process copies", 60)
        other = process(source, local, "", mark, go)
        assert other.stdout is not None
        assert other.stdout.readline() == "asks\n"
        assert other.poll() is None
        go.touch()
        said = [slow.communicate(timeout=60)[0].split(), other.communicate(timeout=60)[0].split()]
    finally:
        slow.kill()
    assert [said[0][1], said[1][0]] == ["copied", "found"]
    assert said[0][2] == said[1][1]
    assert tree(Path(said[0][2])) == FILES


def test_after_a_kill_in_the_middle_the_next_process_completes_the_copy(
    source: Path, local: Path, tmp_path: Path
) -> None:
    """Files that were whole are kept, and the one that was being copied is copied from its beginning."""
    name = "model-00002-of-00002.safetensors"
    killed = process(source, local, name, tmp_path / "mark", tmp_path / "go")
    wait_until((tmp_path / "mark").exists, "the copy is under way", 60)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    (incoming,) = local.glob("*/incoming")
    assert incoming.stat().st_size == 1000
    whole = incoming.parent / "files" / "model" / "model-00001-of-00002.safetensors"
    assert not (whole.parent / name).exists()
    kept = whole.stat().st_ino
    staged = stage_model(ModelConfig(path=str(source)))
    assert "was copied to" in str(staged.notice)
    assert tree(Path(staged.model.path)) == FILES
    assert whole.stat().st_ino == kept


# Stages a model where the disk is full although it claims to have room: another process may fill it meanwhile.
ON_A_SMALL_DISK = """
import collections, shutil, sys
from pathlib import Path
from moe_ray.checkpoints.staging import stage_model
from moe_ray.config.schema import ModelConfig

shutil.disk_usage = lambda _: collections.namedtuple("Usage", "total used free")(1 << 40, 0, 1 << 40)
staged = stage_model(ModelConfig(path=sys.argv[1]))
print(staged.model.path == sys.argv[1], staged.notice)
print([path.name for path in Path(sys.argv[2]).rglob("*") if path.suffix != ".lock"])
"""


def test_a_real_disk_that_is_full_costs_only_the_copy(source: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    script = 'mount -t tmpfs -o size=16k small "$1" || exit 77; exec "$2" -c "$3" "$4" "$1/copies"'
    command = ["unshare", "--mount", "bash", "-c", script, "-", disk, sys.executable, ON_A_SMALL_DISK, source]
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("needs root, for a small file system")
    environment = {**os.environ, FOLDER_VARIABLE: str(disk / "copies")}
    done = subprocess.run(
        list(map(str, command)), env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    if done.returncode == 77 or "unshare failed" in done.stderr:
        pytest.skip("cannot mount here")
    first, left = done.stdout.splitlines()
    assert first.startswith("True "), done.stdout + done.stderr
    assert "No space left on device" in first
    assert left == "[]"


ANSWERS = """
import sys
from moe_ray.checkpoints.staging import stage_model
from moe_ray.config.schema import ModelConfig
from moe_ray.engines.base import BatchLimits, GenerateRequest
from moe_ray.engines.registry import make_engine
from moe_ray.prompts.messages import Message, Prompt

prompt = Prompt(messages=(Message(role="user", content="Is the answer yes or no?"),))
request = GenerateRequest(id="x", prompt=prompt, max_new_tokens=12, temperature=0.0, top_p=1.0, seed=0)
given = ModelConfig(path="owner/tiny", dtype="float32")
staged = stage_model(given).model
assert staged.path.startswith(sys.argv[1]), staged.path
engines = [make_engine(model, BatchLimits(max_rows=1, cache_memory_bytes=1 << 30)) for model in (given, staged)]
(one,), (other,) = (engine.generate([request]) for engine in engines)
assert one.text, one
assert (one.text, one.num_prompt_tokens) == (other.text, other.num_prompt_tokens), (one, other)
assert engines[0].tokenizer_facts() == engines[1].tokenizer_facts()
"""


@pytest.mark.slow
def test_a_copy_of_a_hub_snapshot_gives_the_answers_of_the_hub_id(tmp_path: Path) -> None:
    from tests.support.tiny_models import make_tiny_checkpoint  # here, because it loads torch

    made = make_tiny_checkpoint(tmp_path / "made", "llama")
    write_snapshot(tmp_path / "cache", tree(made))
    environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", ANSWERS, str(tmp_path / "local")],
        env={**environment, FOLDER_VARIABLE: str(tmp_path / "local")},
        capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
