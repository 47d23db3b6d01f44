"""Fine-tunes of one model merged behind a gate: the gate's training, the merge, and the mixture's verification."""

from moe_ray.moe.merged.gate import Gate, read_gate
from moe_ray.moe.merged.gate_config import GateConfig, load_gate_config
from moe_ray.moe.merged.gate_training import TrainedGate, train_gate
from moe_ray.moe.merged.merge import MergePlan, merge, plan_merge

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
