import pytest

from moe_ray.config.schema import SandboxConfig
from moe_ray.scoring.bits import BitsPerByteGrader
from moe_ray.scoring.code import CodeGrader
from moe_ray.scoring.coverage import CompletenessGrader
from moe_ray.scoring.decisions import DecisionGrader, LikelihoodDecisionGrader
from moe_ray.scoring.rouge import RougeLGrader
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
