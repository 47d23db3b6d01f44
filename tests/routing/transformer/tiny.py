"""Tiny routers of real architectures: 2 layers of width 32, trained on made-up queries within seconds."""

from typing import Any

import numpy as np

from moe_ray.config.schema import RouterConfig
from moe_ray.progress import Report
from moe_ray.routing.transformer import TransformerClassifier
from moe_ray.texts.labelled import LabelledText
from tests.routing.queries import COMMON, DOMAINS, WORDS, nothing_reported

# A wide initialisation, because so narrow a network hardly tells words apart with the usual one.
SHAPE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "initializer_range": 0.1,
}
DISTILBERT = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "initializer_range": 0.1}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "distilbert": DISTILBERT,
    "bert": SHAPE,
    "roberta": SHAPE,
    "modernbert": SHAPE,
    "deberta-v2": SHAPE,
}


def queries(num_each: int, first: int) -> list[LabelledText]:
    """Queries of 9 to 12 words, five to eight of which tell the domain."""
    return [query(label, seed) for seed in range(first, first + num_each) for label in DOMAINS]


def query(label: str, seed: int) -> LabelledText:
    """The query of `label` that `seed` draws."""
    rng = np.random.default_rng([seed, DOMAINS.index(label)])
    words = [*rng.choice(WORDS[label], int(rng.integers(5, 9))), *rng.choice(COMMON, 4)]
    return LabelledText(id=f"{label}-{seed}", text=" ".join(rng.permutation(words)), label=label)


TRAIN = queries(60, first=0)
VALIDATION = queries(10, first=10_000)
TEST = queries(20, first=20_000)


def described(model_type: str = "distilbert", **training: Any) -> RouterConfig:
    """The section `router` of an experiment that describes a tiny model, to be trained as `training` says."""
    given = {"learning_rate": 3e-3, "epochs": 8, "batch_size": 8, "max_tokens": 64, **training}
    return RouterConfig.model_validate(
        {"architecture": {"model_type": model_type, **ARCHITECTURES[model_type]}, "training": given}
    )


def train(config: RouterConfig, report: Report = nothing_reported) -> TransformerClassifier:
    """A router between the three made-up domains."""
    return TransformerClassifier.train(config, DOMAINS, TRAIN, VALIDATION, device="cpu", report=report)
