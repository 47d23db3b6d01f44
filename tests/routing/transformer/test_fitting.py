"""How a training goes: what it minimises, when it ends, which epoch it keeps, what it tells and what it leaves."""

import random
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from moe_ray.config.schema import RouterConfig
from moe_ray.errors import ConfigError
from moe_ray.progress import TrainingProgress
from moe_ray.routing.transformer import TransformerClassifier
from moe_ray.routing.transformer.fitting import LabelLoss
from moe_ray.routing.transformer.watch import EpochResult, EpochWatch
from moe_ray.texts.labelled import LabelledText, codes
from tests.routing.queries import DOMAINS, nothing_reported
from tests.routing.transformer.tiny import TRAIN, VALIDATION, described, train

LOGITS = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 0.5], [0.3, 0.2, 0.1]])
GOLD = [0, 2, 1]


def nats(logits: Any, gold: Sequence[int]) -> Any:
    """Cross-entropy of each row by its definition."""
    rows = np.asarray(logits, dtype=np.float64)
    return np.log(np.exp(rows).sum(axis=1)) - rows[np.arange(len(gold)), gold]


def mislabelled(texts: Sequence[LabelledText], seed: int) -> list[LabelledText]:
    """The same texts with labels that mean nothing, each as often as before."""
    labels = [text.label for text in texts]
    random.Random(seed).shuffle(labels)
    return [replace(text, label=label) for text, label in zip(texts, labels, strict=True)]


def test_the_loss_without_weights_is_the_mean_cross_entropy() -> None:
    loss = LabelLoss([])({"logits": LOGITS}, torch.tensor(GOLD))
    assert loss.item() == pytest.approx(nats(LOGITS, GOLD).mean(), rel=1e-6)


def test_each_text_counts_in_the_loss_as_much_as_its_label_weighs() -> None:
    weights = [0.5, 2.0, 3.0]
    loss = LabelLoss(weights)({"logits": LOGITS}, torch.tensor(GOLD))
    expected = sum(weights[label] * one for label, one in zip(GOLD, nats(LOGITS, GOLD), strict=True)) / 3
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_weights_count_in_a_batch_of_one_label_too() -> None:
    one_label = torch.tensor([1, 1, 1])
    plain, weighted = (LabelLoss(weights)({"logits": LOGITS}, one_label) for weights in ([], [1.0, 4.0, 1.0]))
    assert weighted.item() == pytest.approx(4 * plain.item())


@pytest.mark.parametrize("balance", ["weighted", "none"])
def test_labels_weigh_as_the_experiment_says(balance: str) -> None:
    uneven = [text for place, text in enumerate(TRAIN) if text.label != "code" or place % 4 == 0]
    config = RouterConfig.model_validate({**described(epochs=1).model_dump(), "balance": balance})
    router = TransformerClassifier.train(config, DOMAINS, uneven, VALIDATION, device="cpu", report=nothing_reported)
    gold = codes(VALIDATION, DOMAINS)
    by_sklearn = compute_class_weight("balanced", classes=np.arange(3), y=np.array(codes(uneven, DOMAINS)))
    weights = by_sklearn if balance == "weighted" else np.ones(3)
    loss = weights[gold] * nats(router.outputs([text.text for text in VALIDATION]).logits, gold)
    assert list(router.history.settings.label_weights.values()) == pytest.approx(
        by_sklearn.tolist() if balance == "weighted" else []
    )
    assert router.history.epochs[0].validation_loss == pytest.approx(loss.mean(), rel=1e-5)


def test_training_ends_when_nothing_is_gained_and_the_best_epoch_is_kept() -> None:
    config = described(epochs=60, patience=3)
    held_out = mislabelled(VALIDATION, seed=2)
    router = TransformerClassifier.train(
        config, DOMAINS, mislabelled(TRAIN[:60], seed=1), held_out, device="cpu", report=nothing_reported
    )
    history, gold = router.history, codes(held_out, DOMAINS)
    logits = router.outputs([text.text for text in held_out]).logits
    best = max(history.epochs, key=lambda one: (one.macro_f1, -one.validation_loss))
    assert history.stopped_early
    assert len(history.epochs) < 60
    assert history.best_epoch == best.epoch < history.epochs[-1].epoch
    assert best.validation_loss == pytest.approx(nats(logits, gold).mean(), rel=1e-5)
    assert best.validation_loss != pytest.approx(history.epochs[-1].validation_loss, rel=1e-3)


def watched(results: Sequence[tuple[float, float]], patience: int) -> tuple[int, int, float]:
    """Number of epochs until the end, the best of them, and the weight restored, which is its epoch's number."""
    watch, model = EpochWatch(patience, nothing_reported), torch.nn.Linear(1, 1)
    control = SimpleNamespace(should_training_stop=False)
    for epoch, (macro_f1, loss) in enumerate(results, start=1):
        torch.nn.init.constant_(model.weight, epoch)
        state = SimpleNamespace(global_step=epoch, max_steps=len(results), epoch=float(epoch))
        metrics = {"eval_macro_f1": macro_f1, "eval_loss": loss}
        watch.on_evaluate(SimpleNamespace(learning_rate=1.0), state, control, metrics=metrics, model=model)
        if control.should_training_stop:
            break
    watch.restore_best(model)
    return len(watch.epochs), watch.best_epoch, model.weight.item()


@pytest.mark.parametrize(
    ("results", "patience", "num_epochs", "best"),
    [
        pytest.param([(0.5, 1.0), (0.6, 1.1), (0.6, 1.2), (0.6, 1.3), (0.9, 0.1)], 2, 4, 2, id="no gain for two"),
        pytest.param([(0.2, 1.0), (0.2, 0.9), (0.2, 0.8), (0.2, 0.7), (0.9, 0.1)], 2, 5, 5, id="a plateau that falls"),
        pytest.param([(0.9, 0.5), (1.0, 0.4), (1.0, 0.3), (1.0, 0.2), (1.0, 0.1)], 2, 4, 4, id="perfect, and surer"),
        pytest.param([(0.9, 0.5), (0.8, 0.1), (0.9, 0.6), (0.9, 0.4)], 2, 3, 1, id="a lower loss at a lower F1"),
        pytest.param([(0.9, 0.5), (0.8, 0.1), (0.95, 0.6)], 2, 3, 3, id="a gain just in time"),
        pytest.param([(0.1, 0.5), (0.1, 0.6)], 1, 2, 1, id="patience for one"),
    ],
)
def test_patience_and_the_best_epoch(
    results: list[tuple[float, float]], patience: int, num_epochs: int, best: int
) -> None:
    assert watched(results, patience) == (num_epochs, best, float(best))


def test_the_loss_of_an_epoch_is_the_mean_over_its_steps() -> None:
    watch, model = EpochWatch(1, nothing_reported), torch.nn.Linear(1, 1)
    for step, loss in ((2, 3.0), (3, 6.0)):
        watch.on_log(None, SimpleNamespace(global_step=step, max_steps=3, epoch=1.0), None, logs={"loss": loss})
    metrics = {"eval_macro_f1": 0.5, "eval_loss": 1.0}
    state = SimpleNamespace(global_step=3, max_steps=3, epoch=1.0)
    watch.on_evaluate(SimpleNamespace(learning_rate=1.0), state, SimpleNamespace(), metrics=metrics, model=model)
    assert watch.epochs == [EpochResult(epoch=1, num_steps=3, train_loss=4.0, validation_loss=1.0, macro_f1=0.5)]


def test_progress_is_told_often_and_after_every_epoch_and_nothing_is_printed(
    capfd: pytest.CaptureFixture[str],
) -> None:
    reports: list[TrainingProgress] = []
    router = train(described(epochs=2, patience=2), reports.append)
    steps = [one.step for one in reports]
    assert len(reports) >= 20
    assert steps == sorted(steps)
    assert {one.num_steps for one in reports} == {2 * -(-len(TRAIN) // 8)}
    assert reports[-1].step == reports[-1].num_steps
    assert [(one.epoch, one.macro_f1) for one in reports if one.macro_f1 is not None] == [
        (one.epoch, one.macro_f1) for one in router.history.epochs
    ]
    assert all(one.loss is not None or one.macro_f1 is not None for one in reports)
    assert capfd.readouterr() == ("", "")


class Interruption(BaseException):
    """Stands for Ctrl+C."""


def interrupting(progress: TrainingProgress) -> None:
    if progress.step > 3:
        raise Interruption


def test_a_training_can_be_interrupted_and_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Interruption):
        train(described(), interrupting)
    assert not list(tmp_path.iterdir())
    train(described(epochs=1))
    assert not list(tmp_path.iterdir())


def test_a_training_that_diverges_says_so() -> None:
    with pytest.raises(ConfigError, match="diverged") as caught:
        train(described(learning_rate=1e30, epochs=2))
    assert caught.value.where == "router.training.learning_rate"


def test_a_warm_up_of_all_steps_is_possible() -> None:
    router = train(described(epochs=1, warmup_fraction=1.0))
    assert router.history.settings.num_warmup_steps == router.history.epochs[0].num_steps
