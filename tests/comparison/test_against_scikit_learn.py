"""Macro-F1 and accuracy against scikit-learn, from answers' texts to the aggregate, on label sets of any shape."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

from moe_ray.comparison.columns import ColumnKey, score_matrix
from moe_ray.comparison.statistics import aggregate
from moe_ray.scoring.decisions import DecisionGrader
from tests.comparison.columns import MACRO_F1, label_column
from tests.scoring.answering import decision_example, generated


@pytest.mark.parametrize("num_labels", [2, 3, 6])
@pytest.mark.parametrize("num_examples", [1, 2, 7, 300])
@pytest.mark.parametrize("seed", range(3))
def test_macro_f1_over_the_gold_labels_is_scikit_learns(num_labels: int, num_examples: int, seed: int) -> None:
    """Few examples leave labels without a gold answer or without a predicted one; some predictions are no label."""
    random = np.random.default_rng([num_labels, num_examples, seed])
    labels = [f"label {number}" for number in range(num_labels)]
    golds = random.choice(labels, num_examples, p=random.dirichlet(np.ones(num_labels))).tolist()
    predicted = random.choice([*labels, "unparsed"], num_examples).tolist()
    gold_labels = sorted(set(golds))
    expected = f1_score(golds, predicted, labels=gold_labels, average="macro", zero_division=0)
    assert aggregate(label_column(golds, predicted), MACRO_F1, gold_labels).value == pytest.approx(expected, abs=1e-12)


def test_texts_are_graded_and_aggregated_to_scikit_learns_figures() -> None:
    """Answers without a decision are unscored failures here; comparisons count them as misses of their gold label."""
    spelled = {"yes": "Yes, it does.", "no": "**No**: it does not.", "maybe": "Answer: maybe", "unparsed": "Hm."}
    random = np.random.default_rng(11)
    golds = random.choice(["yes", "no", "maybe"], 200, p=[0.55, 0.34, 0.11]).tolist()
    predicted = np.where(random.random(200) < 0.6, golds, random.choice(list(spelled), 200)).tolist()
    grader = DecisionGrader()
    scores = []
    for number, (gold, label) in enumerate(zip(golds, predicted, strict=True)):
        example = decision_example(gold, f"e{number}")
        scores += grader.grade(example, "m", [generated(spelled[label], of=example)])
    columns = score_matrix(scores).columns
    accuracy, macro_f1 = (
        aggregate(columns[ColumnKey("m", "field", metric.name)], metric, ["maybe", "no", "yes"]).value
        for metric in grader.metrics[:2]
    )
    unread = [score for score in scores if score.metric == "macro_f1" and score.failed]
    assert len(unread) == predicted.count("unparsed") > 0
    assert {(score.value, score.label) for score in unread} == {(None, "unparsed")}
    read = [(gold, label) for gold, label in zip(golds, predicted, strict=True) if label != "unparsed"]
    golds, predicted = map(list, zip(*read, strict=True))
    assert accuracy == pytest.approx(accuracy_score(golds, predicted), abs=1e-12)
    expected = f1_score(golds, predicted, labels=["maybe", "no", "yes"], average="macro", zero_division=0)
    assert macro_f1 == pytest.approx(expected, abs=1e-12)
