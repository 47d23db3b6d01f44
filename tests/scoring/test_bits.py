import math

import pytest

from moe_ray.scoring.bits import BitsPerByteGrader
from moe_ray.store.answers import Answer

from .answering import decision_example, example, measured


def test_a_uniform_model_of_bytes_takes_eight_bits_a_byte() -> None:
    reference = " na\u00efve \u2014 ja"
    num_bytes = len(reference.encode())
    assert num_bytes > len(reference)
    answer = measured([num_bytes * math.log(1 / 256)], [reference])
    (score,) = BitsPerByteGrader().grade(example(), "m", [answer])
    assert score.value == pytest.approx(8.0)
    assert score.weight == num_bytes


def test_the_reference_is_the_last_continuation_after_the_choices() -> None:
    answer = measured([-1.0, -2.0, -3.0, -4 * math.log(2)], [" yes", " no", " maybe", " abc"])
    (score,) = BitsPerByteGrader().grade(decision_example(), "m", [answer])
    assert score.value == pytest.approx(1.0)


def test_the_weighted_mean_is_all_bits_over_all_bytes() -> None:
    answers = [measured([-10.0], ["ab"]), measured([-1.0], ["abcdefgh"])]
    scores = [BitsPerByteGrader().grade(example(), "m", [answer])[0] for answer in answers]
    total = sum((score.value or 0.0) * score.weight for score in scores) / sum(score.weight for score in scores)
    assert total == pytest.approx(11.0 / math.log(2) / 10)


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ([], "no answer"),
        ([measured(None, [], error="lost")], "error: lost"),
        ([measured([-1.0, -1.0, -1.0], [" yes", " no", " maybe"])], "no reference was measured"),
        (
            [measured([-1.0, -1.0, -1.0, -math.inf], ["a", "b", "c", "d"])],
            "the reference's log-likelihood is not finite",
        ),
        ([measured([-1.0, -1.0, -1.0, 0.0], ["a", "b", "c", ""])], "the reference is empty"),
    ],
)
def test_what_has_no_value_is_unscored(answers: list[Answer], reason: str) -> None:
    (score,) = BitsPerByteGrader().grade(decision_example(), "m", answers)
    assert (score.value, score.reason) == (None, reason)


def test_fewer_bits_are_better() -> None:
    (metric,) = BitsPerByteGrader().metrics
    assert not metric.higher_is_better
