"""Planted truths over many seeds, and an ablation whose process is killed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from moe_ray.specialisation.ablation.measuring import AblationOptions
from moe_ray.specialisation.ablation.report import AblationReport, make_ablation_report
from tests.specialisation.families import make
from tests.specialisation.planted_models import ablated, planted_mixtral, random_texts, tokens_of
from tests.support.tiny_models import make_tokenizer

pytestmark = pytest.mark.slow

NUM_SEEDS, NUM_DRAWS, TEXTS_PER_CLASS = 20, 20, 14
# Changes of the weights of the experts that stay, when one that knows nothing is removed.
SMALL = 0.1


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads wait for each other longer than such small models compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def report_of(model: Any, seed: int, out: Path, operation: Any) -> AblationReport:
    options = AblationOptions(operation=operation, num_draws=NUM_DRAWS, batch_size=NUM_DRAWS + 1, seed=seed)
    texts = random_texts(np.random.default_rng(seed), TEXTS_PER_CLASS)
    return make_ablation_report(ablated(model, texts, out, options))


def found_losses(report: AblationReport) -> set[tuple[int, str]]:
    return {
        (one.expert, one.label)
        for one in report.effects
        if one.kind == "specific" and one.q_value is not None and one.q_value < 0.05 and (one.value or 0) < -SMALL
    }


def test_an_expert_that_one_class_needs_is_found_in_every_seed_and_no_other(tmp_path: Path) -> None:
    proportions = []
    for seed in range(NUM_SEEDS):
        needed, other = seed % 4, (seed + 1) % 4
        first = {token: needed if place % 2 else other for place, token in enumerate(tokens_of(0))}
        first |= {token: (seed + 2 + place % 2) % 4 for place, token in enumerate(tokens_of(1))}
        model = planted_mixtral(first, {needed: [token for token in tokens_of(0) if first[token] == needed]}, seed=seed)
        found = found_losses(report_of(model, seed, tmp_path / str(seed), "reroute"))
        assert (needed, "a") in found
        proportions.append(len(found - {(needed, "a")}) / len(found))
    assert np.mean(proportions) <= 0.05


def test_an_ablation_whose_process_is_killed_continues_to_the_same_bytes(tmp_path: Path) -> None:
    transformers.utils.logging.disable_progress_bar()
    tokenizer = make_tokenizer()
    make("mixtral", vocab_size=len(tokenizer)).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    lines = [
        json.dumps({"text": f"the court is {number} of a drug", "label": "ab"[number % 2]}) for number in range(34)
    ]
    (tmp_path / "texts.jsonl").write_text("\n".join(lines))

    def start(out: str) -> subprocess.Popen[bytes]:
        given = [
            "--texts",
            str(tmp_path / "texts.jsonl"),
            "--layers",
            "1",
            "--experts",
            "0",
            "--out",
            str(tmp_path / out),
        ]
        command = [sys.executable, "-m", "moe_ray", "specialise", "ablate", str(tmp_path / "model"), *given]
        return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)

    assert start("whole").wait(300) == 0
    killed = start("killed")
    while not list((tmp_path / "killed" / "parts").glob("*.parquet")):
        assert killed.poll() is None
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait(60)
    assert not (tmp_path / "killed" / "ablation.json").exists()
    assert start("killed").wait(300) == 0
    for name in ("plan.json", "changes.parquet", "ablation.json", "report.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
