"""Test results of a router, as in test_results.json and in a run's summary."""

from pydantic import AliasChoices, Field

from moe_ray.files import StoredRecord
from moe_ray.gating.calibration import Calibration, LabelResult


class OutOfDomainResult(StoredRecord):
    """How well one score tells a set of out-of-domain queries from the domains' own test texts.

    `auroc`: the chance that an own query scores higher than an out-of-domain one. `fpr95`: share of out-of-domain
    queries kept by the threshold that keeps 95 % of the own. `kept`: share of them that the router's threshold keeps.
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
    keeps. `validation_out_of_domain` holds the measurement by which the out-of-domain score was chosen.
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
    confident_temperature: float | None = Field(
        None, validation_alias=AliasChoices("confident_temperature", "sure_temperature")
    )
    before_scaling: Calibration
    after_scaling: Calibration
    out_of_domain_score: str = Field(validation_alias=AliasChoices("out_of_domain_score", "foreign_score"))
    threshold: float
    own_kept: float
    validation_out_of_domain: list[OutOfDomainResult] = Field(
        validation_alias=AliasChoices("validation_out_of_domain", "validation_foreign")
    )
    out_of_domain: list[OutOfDomainResult] = Field(validation_alias=AliasChoices("out_of_domain", "foreign"))
    train_s: float
    seconds_per_text: float
