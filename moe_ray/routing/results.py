"""Test results of a router, as in test_results.json and in a run's summary."""

from moe_ray.files import StoredRecord
from moe_ray.gating.calibration import Calibration, LabelResult


class ForeignResult(StoredRecord):
    """How well one score tells a set of foreign queries from the domains' own test texts.

    `auroc`: the chance that an own query scores higher than a foreign one. `fpr95`: share of foreign queries that are
    kept where 95 % of the own are. `kept`: share of the foreign queries that the router's threshold keeps.
    """

    set: str
    score: str
    n: int
    auroc: float
    fpr95: float
    kept: float | None


class RouterTestResults(StoredRecord):
    """A router on test texts that nothing of it has seen before.

    `confusion[i][j]`: texts of label i that the router gives label j, before the threshold. `accuracy_low` and
    `accuracy_high` are the 95 % Wilson interval. `own_kept`: share of the domains' own test texts that the threshold
    keeps. `validation_foreign` holds the measurement by which the foreign score was chosen.
    """

    labels: list[str]
    num_train: int
    num_validation: int
    n: int
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    macro_f1: float
    per_label: list[LabelResult]
    confusion: list[list[int]]
    temperature: float
    sure_temperature: float | None = None
    before_scaling: Calibration
    after_scaling: Calibration
    foreign_score: str
    threshold: float
    own_kept: float
    validation_foreign: list[ForeignResult]
    foreign: list[ForeignResult]
    train_s: float
    seconds_per_text: float
