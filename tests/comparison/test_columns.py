"""The matrix of scores: equal to the plain one, from objects and from the table on disk."""

import random
from pathlib import Path

import pytest

from moe_ray.comparison.columns import COLUMN_PARTS, ScoreMatrix, score_matrix
from moe_ray.scoring import score as table_module
from moe_ray.scoring.score import Metric, Score, read_scores, write_scores
from tests.comparison.columns import scores_of
from tests.comparison.plain_matrix import plain_matrix

VALUES = (None, 0.0, -0.0, 1.0, 1 / 3, float("nan"), float("inf"), -1e300, 5e-324)
TEXTS = (None, "", "yes", "no", "é\n", "None")


def random_scores(seed: int) -> list[Score]:
    """Scores of a few models, domains and metrics, each place with any values, in any order, some places empty."""
    rng = random.Random(seed)
    scores = [
        Score(
            model=f"model {model}",
            domain=domain,
            example_id=f"{rng.choice('zaé')}{example}",
            metric=metric,
            value=rng.choice(VALUES),
            reason=rng.choice(TEXTS),
            weight=rng.choice((1.0, 17.0, 0.1)),
            label=rng.choice(TEXTS),
            gold=rng.choice(TEXTS),
        )
        for model in range(3)
        for domain in ("law", "code")
        for metric in ("a", "b")
        for example in range(20)
        if rng.random() < 0.7
    ]
    rng.shuffle(scores)
    return scores


def assert_same(found: ScoreMatrix, expected: ScoreMatrix) -> None:
    assert dict(found.example_ids) == dict(expected.example_ids)
    assert set(found.columns) == set(expected.columns)
    for key, column in found.columns.items():
        for name in COLUMN_PARTS:
            mine, other = getattr(column, name), getattr(expected.columns[key], name)
            assert mine.dtype == other.dtype
            same = mine.tobytes() == other.tobytes() if mine.dtype != object else mine.tolist() == other.tolist()
            assert same, (key, name)


@pytest.mark.parametrize("seed", range(5))
def test_the_matrix_is_the_plain_one_to_the_last_bit(seed: int) -> None:
    scores = random_scores(seed)
    assert_same(score_matrix(scores), plain_matrix(scores))


def test_the_matrix_of_the_table_on_disk_is_that_of_its_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The texts are dictionary-encoded, with another dictionary in each part of the file."""
    monkeypatch.setattr(table_module, "ROWS_AT_A_TIME", 10)
    scores = random_scores(7)
    metrics = {name: Metric(name=name, definition=name) for name in ("a", "b")}
    write_scores(tmp_path / "scores.parquet", scores, metrics)
    assert_same(score_matrix(read_scores(tmp_path / "scores.parquet")[0]), plain_matrix(scores))


def test_no_scores_are_an_empty_matrix() -> None:
    assert_same(score_matrix([]), plain_matrix([]))


def test_two_scores_for_one_place_are_refused_with_its_name() -> None:
    twice = [*scores_of([1.0, 0.0]), scores_of([1.0, 0.0])[1]]
    with pytest.raises(ValueError, match=r"two scores for .*'e00001'"):
        score_matrix(twice)


def test_a_matrix_over_its_own_examples_is_itself_and_over_others_is_moved() -> None:
    matrix = score_matrix(random_scores(1))
    ids = matrix.example_ids["law"]
    for chosen in (ids, [*ids, "zz"], ids[3:], sorted({"b", *ids[::2]})):
        over = matrix.over("law", chosen)
        assert over.example_ids == {"law": tuple(chosen)}
        for key, column in over.columns.items():
            for at, name in enumerate(chosen):
                known = matrix.columns[key].reasons[ids.index(name)] if name in ids else "no score for this example"
                assert column.reasons[at] == known
