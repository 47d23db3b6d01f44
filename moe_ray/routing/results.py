"""What was measured of a router, as it stands in test_results.json and in a run's summary."""

from moe_ray.store.records import StoredRecord


class LabelResult(StoredRecord):
    """One label over n texts that bear it. None where a ratio has nothing to divide by."""

    label: str
    n: int
    precision: float | None
    recall: float | None
    f1: float | None


class ReliabilityBin(StoredRecord):
    """Texts whose highest probability lies in [low, high): how sure the router was, and how often it was right."""

    low: float
    high: float
    n: int
    mean_confidence: float | None
    accuracy: float | None


class Calibration(StoredRecord):
    """How well confidence agrees with being right. `ece` is the expected calibration error over the bins, in [0, 1].

    `nll` is the mean negative log-likelihood of the true label, in nats.
    """

    ece: float
    nll: float
    bins: list[ReliabilityBin]


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
