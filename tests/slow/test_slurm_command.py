"""A job of `moe-ray slurm -- COMMAND` as its only node runs it: a real agent and a real Ray, without SLURM."""

import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch
import transformers

from tests.execution.commands import ROOT
from tests.specialisation.families import make
from tests.support.commands import Command
from tests.support.tiny_models import make_tokenizer

pytestmark = pytest.mark.slow
TIMEOUT_S = 240


@pytest.fixture
def commands(tmp_path: Path) -> Path:
    """A scheduler that does not answer."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("squeue", "scontrol"):
        (folder / name).write_text("#!/bin/bash\nexit 1\n")
        (folder / name).chmod(0o755)
    return folder


def test_the_agent_runs_a_trace_whose_bytes_are_those_of_this_machine(
    moe_ray: Command, commands: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    make("mixtral", vocab_size=len(tokenizer)).save_pretrained(tmp_path / "mixtral")
    tokenizer.save_pretrained(tmp_path / "mixtral")
    rows = [{"text": f"court law {number}", "label": label} for label in ("law", "bio") for number in range(20)]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    line = "specialise trace ./mixtral --texts texts.jsonl --out results/study/trace"
    code, script = moe_ray("slurm", "--dry-run", "--", *line.split())
    assert code == 0, script
    words = script.split("-m moe_ray.clusters.slurm.agent ", 1)[1].split(" &\n", 1)[0].replace("\\\n", " ")
    run = tmp_path / "results" / "study"
    own = {"SLURM_JOB_ID": "7", "SLURM_NODEID": "0", "SLURM_NNODES": "1"}
    own |= {"SLURM_JOB_END_TIME": str(int(time.time()) + 3600), "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory(prefix="mr", dir="/tmp", ignore_cleanup_errors=True) as short:
        arguments = [str(run) if word == "$run" else word for word in shlex.split(words)]
        arguments = [f"--temp-dir={short}" if word.startswith("--temp-dir=") else word for word in arguments]
        done = subprocess.run(
            [sys.executable, "-m", "moe_ray.clusters.slurm.agent", *arguments],
            env={"PATH": f"{commands}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), **own},
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT_S,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    life = run / "slurm" / "7.0"
    assert (life / "exit_code").read_text() == "0\n"
    record = json.loads((life / "record.json").read_text())
    assert record["saved_after"] > record["saved_before"] == 0
    assert not (life / "token").exists()
    code, shown = moe_ray("specialise", "trace", "./mixtral", "--texts", "texts.jsonl", "--out", "here")
    assert code == 0, shown
    for name in ("layers.parquet", "texts.parquet"):
        assert (run / "trace" / name).read_bytes() == (tmp_path / "here" / name).read_bytes()
