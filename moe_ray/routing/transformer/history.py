"""What training.json tells of how a transformer router came to be."""

from moe_ray.store.records import StoredRecord


class TrainingSettings(StoredRecord):
    """All that decided the weights, beside the texts. `label_weights` is empty where all texts weigh the same."""

    base: str
    pretrained: bool
    num_parameters: int
    device: str
    precision: str
    max_epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    num_warmup_steps: int
    patience: int
    max_tokens: int
    seed: int
    label_weights: dict[str, float]


class EpochResult(StoredRecord):
    """One pass over the training texts, and how the validation texts fared after it."""

    epoch: int
    num_steps: int
    train_loss: float
    validation_loss: float
    macro_f1: float


class TrainingHistory(StoredRecord):
    """A training from its start to its end; the weights are those after `best_epoch`."""

    settings: TrainingSettings
    epochs: list[EpochResult]
    best_epoch: int
    stopped_early: bool
    train_s: float
