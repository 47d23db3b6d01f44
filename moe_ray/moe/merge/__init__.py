"""Fine-tunes of one model merged behind a gate: the gate's training, the merge, and the mixture's verification."""

from moe_ray.moe.merge.build import MergePlan, merge, plan_merge
from moe_ray.moe.merge.gate import Gate, GateConfig, load_gate_config, read_gate
from moe_ray.moe.merge.gate_training import TrainedGate, train_gate

__all__ = [
    "Gate",
    "GateConfig",
    "MergePlan",
    "TrainedGate",
    "load_gate_config",
    "merge",
    "plan_merge",
    "read_gate",
    "train_gate",
]
