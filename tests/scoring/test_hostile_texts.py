"""Whatever a model answers, it is graded, and the time that takes is bounded by its length."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_ray.scoring.decisions import DecisionGrader
from moe_ray.scoring.numbers import FinalNumberGrader
from moe_ray.scoring.references import CompletenessGrader, RelevanceGrader, RougeLGrader
from moe_ray.scoring.score import Grader

from .answering import example, generated
from .hostile_texts import READERS, UNITS

MAX_CPU_S = 40
GRADERS = [DecisionGrader(), RougeLGrader(), CompletenessGrader(), RelevanceGrader(), FinalNumberGrader()]
ASKED = example(label="yes", choices=["yes", "no", "billing"], number="-72", question="Does the cat sit?")
TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=())),
    st.lists(st.sampled_from([*UNITS, "billing", "BİLLİNG", "72", "return x\n", "def f(x): return 1\n"])).map("".join),
)


@given(TEXTS)
def test_any_text_is_read(text: str) -> None:
    for read in READERS.values():
        read(text)


@pytest.mark.parametrize("grader", GRADERS, ids=lambda grader: type(grader).__name__)
@given(text=TEXTS)
def test_any_text_has_a_score_or_is_a_failure_of_the_model(grader: Grader, text: str) -> None:
    scores = grader.grade(ASKED, "m", [generated(text)])
    assert [score.metric for score in scores] == [metric.name for metric in grader.metrics]
    assert all(score.failed if score.value is None else 0 <= score.value <= 1 for score in scores)


def test_long_texts_take_seconds_and_not_minutes() -> None:
    """With the pattern that fences were found by, one of these texts alone takes longer than all may take together."""
    command = [sys.executable, "-m", "tests.scoring.hostile_texts", "14"]
    root = Path(__file__).parents[2]
    limit = (MAX_CPU_S, MAX_CPU_S)
    run = subprocess.run(
        command, cwd=root, check=False, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, limit)
    )
    assert run.returncode == 0
