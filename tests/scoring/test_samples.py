import pytest

from moe_ray.config.schema import SandboxConfig
from moe_ray.scoring.code import CodeGrader
from moe_ray.scoring.decisions import DecisionGrader, LikelihoodDecisionGrader
from moe_ray.scoring.references import BitsPerByteGrader, CompletenessGrader, RougeLGrader
from moe_ray.scoring.score import Grader

from .answering import decision_example, generated, measured

GRADERS: list[Grader] = [
    BitsPerByteGrader(),
    CodeGrader(SandboxConfig()),
    CompletenessGrader(),
    DecisionGrader(),
    LikelihoodDecisionGrader(),
    RougeLGrader(),
]


@pytest.mark.parametrize("grader", GRADERS, ids=lambda grader: type(grader).__name__)
def test_an_answer_with_an_error_is_a_failure_and_a_missing_one_is_not(grader: Grader) -> None:
    asked = decision_example(tests=["assert True"])
    refused = [generated(None, error="the prompt is too long"), measured(None, [], error="the prompt is too long")]
    for answers, failed in ((refused, True), ([], False)):
        scores = grader.grade(asked, "m", answers)
        assert [(score.value, score.failed) for score in scores] == [(None, failed)] * len(grader.metrics)


@pytest.mark.parametrize(
    ("cut_at", "reason"),
    [
        (64, "cut at max_new_tokens (64) inside the reasoning: the model gave no answer"),
        (None, "the model gave its reasoning and no answer"),
    ],
)
def test_reasoning_without_an_answer_is_a_failure_and_never_graded(cut_at: int | None, reason: str) -> None:
    asked = decision_example(tests=["assert True"])
    answers = [generated(" \n", reasoning="Yes, so yes", cut_at=cut_at)]
    graders: list[Grader] = [CodeGrader(SandboxConfig()), CompletenessGrader(), DecisionGrader(), RougeLGrader()]
    for grader in graders:
        scores = grader.grade(asked, "m", answers)
        assert {(score.value, score.reason, score.failed) for score in scores} == {(None, reason, True)}


def test_of_several_samples_one_without_an_answer_is_an_empty_text() -> None:
    answers = [generated("", reasoning="cut", cut_at=8), generated("The cat sat.", sample=1)]
    (score,) = RougeLGrader(2).grade(decision_example(), "m", answers)
    assert score.value == 0.5
