"""Fitting a gating network to features: when it ends, what it keeps, and what moves it."""

import dataclasses

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score
from sklearn.utils.class_weight import compute_class_weight

from moe_ray.gating.fitting import FitSettings, Fitted, LabelledFeatures, balanced_weights, fit
from moe_ray.progress import TrainingProgress

NUM_LABELS, NUM_FEATURES = 3, 8


def clouds(num_rows: int, *, seed: int, spread: float, shares: tuple[float, ...] = (1.0, 1.0, 1.0)) -> LabelledFeatures:
    """Rows around one corner for each label; `spread` says how much the clouds overlap."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.multinomial(torch.tensor(shares), num_rows, replacement=True, generator=random)
    noise = torch.randn(num_rows, NUM_FEATURES, generator=random)
    return LabelledFeatures(features=torch.eye(NUM_FEATURES)[labels] * 3 + spread * noise, labels=labels)


def settings(**changes: object) -> FitSettings:
    plain = FitSettings(
        hidden_sizes=(16,),
        dropout=0.1,
        epochs=12,
        batch_size=8,
        learning_rate=1e-2,
        weight_decay=0.01,
        warmup_fraction=0.1,
        patience=12,
        seed=0,
    )
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]


def fitted(
    chosen: FitSettings,
    *,
    spread: float = 2.0,
    label_weights: torch.Tensor | None = None,
    reports: list[TrainingProgress] | None = None,
) -> Fitted:
    train, validation = clouds(200, seed=1, spread=spread), clouds(60, seed=2, spread=spread)
    reports = [] if reports is None else reports
    return fit(train, validation, NUM_LABELS, chosen, label_weights=label_weights, report=reports.append)


def test_clouds_that_lie_apart_are_told_apart() -> None:
    found, unseen = fitted(settings(), spread=0.3), clouds(100, seed=3, spread=0.3)
    assert torch.equal(found.network(unseen.features).argmax(dim=1), unseen.labels)


def test_the_weights_are_those_of_the_best_epoch() -> None:
    found, validation = fitted(settings()), clouds(60, seed=2, spread=2.0)
    scores = [epoch.macro_f1 for epoch in found.epochs]
    assert scores[found.best_epoch - 1] == max(scores) > min(scores)
    predicted = found.network(validation.features).argmax(dim=1)
    assert f1_score(validation.labels, predicted, average="macro") == pytest.approx(max(scores))
    assert scores[-1] < max(scores), "the last epoch is the best: this test would show nothing"


def test_the_network_of_the_last_epoch_is_kept_too() -> None:
    found, validation = fitted(settings()), clouds(60, seed=2, spread=2.0)
    predicted = found.last(validation.features).argmax(dim=1)
    assert f1_score(validation.labels, predicted, average="macro") == pytest.approx(found.epochs[-1].macro_f1)
    loss = torch.nn.functional.cross_entropy(found.last(validation.features), validation.labels)
    assert loss.item() == pytest.approx(found.epochs[-1].validation_loss)
    assert not torch.equal(found.last.output.weight, found.network.output.weight)


def test_of_equally_good_epochs_the_one_with_the_lowest_validation_loss_is_kept() -> None:
    found = fitted(settings(), spread=0.3)
    perfect = [epoch.validation_loss for epoch in found.epochs if epoch.macro_f1 == 1.0]
    assert len(perfect) > 2
    assert found.epochs[found.best_epoch - 1].validation_loss == min(perfect)
    validation = clouds(60, seed=2, spread=0.3)
    loss = torch.nn.functional.cross_entropy(found.network(validation.features), validation.labels)
    assert loss.item() == pytest.approx(min(perfect))


@pytest.mark.parametrize("patience", [1, 3])
def test_it_ends_after_so_many_epochs_without_a_better_macro_f1(patience: int) -> None:
    found = fitted(settings(epochs=200, patience=patience))
    scores = [epoch.macro_f1 for epoch in found.epochs]
    waits = [at for at in range(1, len(scores)) if scores[at] > max(scores[:at])]
    last_rise = waits[-1] if waits else 0
    assert len(scores) == last_rise + patience + 1 < 200


def test_it_ends_after_the_last_epoch_however_much_it_still_improves() -> None:
    assert len(fitted(settings(epochs=2)).epochs) == 2


def test_every_epoch_is_reported() -> None:
    reports: list[TrainingProgress] = []
    found = fitted(settings(epochs=3), reports=reports)
    assert [(one.step, one.num_steps, one.epoch) for one in reports] == [(25, 75, 1.0), (50, 75, 2.0), (75, 75, 3.0)]
    assert [(one.loss, one.macro_f1) for one in reports] == [(one.loss, one.macro_f1) for one in found.epochs]


def test_the_seed_alone_decides_chance() -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    first = fitted(settings()).network.state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(8)
    again, other = fitted(settings()).network.state_dict(), fitted(settings(seed=1)).network.state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["output.weight"], other["output.weight"])


def test_balanced_weights_are_scikit_learns() -> None:
    labels = clouds(500, seed=4, spread=1.0, shares=(0.7, 0.25, 0.05)).labels
    expected = compute_class_weight("balanced", classes=np.arange(NUM_LABELS), y=labels.numpy())
    np.testing.assert_allclose(balanced_weights(labels, NUM_LABELS), expected, rtol=1e-6)


def test_a_heavier_label_is_found_more_often() -> None:
    unseen = clouds(500, seed=3, spread=2.0).features
    heavy = torch.tensor([0.1, 0.1, 10.0])
    found = [
        (fitted(settings(), label_weights=weights).network(unseen).argmax(dim=1) == 2).sum()
        for weights in (None, heavy)
    ]
    assert found[1] > 1.5 * found[0]


def test_a_strong_decay_shrinks_the_weights() -> None:
    plain, shrunk = (fitted(settings(weight_decay=decay)).network.hidden[0] for decay in (0.0, 10.0))
    assert torch.linalg.norm(next(shrunk.parameters())) < 0.8 * torch.linalg.norm(next(plain.parameters()))
