"""How large the models are, how long each is trained, and the learning rates that are tried."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from moe_ray.moe.btx.request import ExpertTraining

PARTS = ("experts", "gates", "gates and experts", "dense, from the anchor", "dense, from nothing")


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Steps are of `batch_size` blocks of `block_tokens` tokens; `expert_steps` are each expert's.

    `rates` are by the part that is trained. `max_texts` are by domain, so that all have about as many bytes.
    """

    hidden_size: int
    num_layers: int
    num_heads: int
    vocab_size: int
    block_tokens: int
    batch_size: int
    anchor_steps: int
    expert_steps: int
    finetune_steps: int
    anchor_rate: float
    rates: Mapping[str, tuple[float, ...]]
    max_texts: Mapping[str, int]
    seed: int = 0

    @property
    def step_tokens(self) -> int:
        return self.batch_size * self.block_tokens

    def architecture(self, networks: int = 1) -> dict[str, Any]:
        """A GPT-Neo whose feed-forwards are as large as `networks` experts side by side."""
        return {
            "model_type": "gpt_neo",
            "hidden_size": self.hidden_size,
            "num_layers": self.num_layers,
            "num_heads": self.num_heads,
            "intermediate_size": 4 * self.hidden_size * networks,
            "attention_types": [[["global"], self.num_layers]],
            "max_position_embeddings": self.block_tokens,
            "vocab_size": self.vocab_size,
        }

    def settings(self, steps: int, rate: float) -> ExpertTraining:
        """All trainings differ in steps and learning rate alone."""
        return ExpertTraining(
            steps=steps,
            learning_rate=rate,
            batch_size=self.batch_size,
            block_tokens=self.block_tokens,
            seed=self.seed,
        )


FULL = Size(
    hidden_size=128,
    num_layers=4,
    num_heads=4,
    vocab_size=2048,
    block_tokens=256,
    batch_size=4,
    anchor_steps=500,
    expert_steps=300,
    finetune_steps=120,
    anchor_rate=3e-3,
    rates={
        "experts": (1e-3, 3e-3),
        "gates": (3e-3, 3e-2),
        "gates and experts": (1e-3, 3e-3),
        "dense, from the anchor": (1e-3, 3e-3),
        "dense, from nothing": (3e-3, 6e-3),
    },
    max_texts={"coding": 4534, "math": 3400, "biomedical": 1450},
)
SMALL = Size(
    hidden_size=32,
    num_layers=2,
    num_heads=2,
    vocab_size=512,
    block_tokens=64,
    batch_size=4,
    anchor_steps=12,
    expert_steps=12,
    finetune_steps=6,
    anchor_rate=3e-3,
    rates=dict.fromkeys(PARTS, (1e-3, 3e-3)),
    max_texts={"coding": 120, "math": 90, "biomedical": 40},
)
