"""`moe-ray moe pretrain` as a Ray job on two nodes, one of which dies while it trains.

    python -m benchmarks.moe_job

Two raylets with a declared GPU each; `jobs/moe.py pretrain` is submitted, which trains three experts of a tiny GPT-Neo
on generated words, each as a task that takes a GPU. When both nodes have kept a state, the second one is killed with
all its processes. Exits with 1 unless the job succeeds, the mixture's certificate holds, and every tensor is bit for
bit what the same trainings give one after the other in this process.
"""

import json
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers
import yaml
from safetensors.torch import load_file

from benchmarks.ray_job import enter_private_environment, run_job
from moe_ray.moe.btx.pretrain import pretrain
from moe_ray.moe.btx.request import load_pretrain_config
from moe_ray.moe.verify import verify

WORDS = {
    "cooking": ["stir", "salt", "butter", "oven", "dough", "pan", "simmer", "onion"],
    "sailing": ["mast", "wind", "rope", "harbour", "tide", "anchor", "sail", "knot"],
    "gardens": ["soil", "seed", "prune", "rose", "water", "weed", "spade", "hedge"],
}
NUM_TEXTS, NUM_WORDS = 40, 60
NUM_STEPS = 400


def write_pretraining(folder: Path) -> Path:
    """Write texts and the file of a pretraining into `folder`."""
    draw = random.Random(0)
    for expert, words in WORDS.items():
        records = [json.dumps({"text": " ".join(draw.choices(words, k=NUM_WORDS))}) for _ in range(NUM_TEXTS)]
        (folder / f"{expert}.jsonl").write_text("\n".join(records) + "\n", encoding="utf-8")
    heads = {"hidden_size": 64, "num_layers": 2, "num_heads": 2, "attention_types": [[["global"], 2]]}
    asked = {
        "architecture": {"model_type": "gpt_neo", "max_position_embeddings": 64, "vocab_size": 320, **heads},
        "experts": {expert: [{"source": f"./{expert}.jsonl"}] for expert in WORDS},
        "training": {"steps": NUM_STEPS, "block_tokens": 32, "checkpoint_every": 20, "precision": "float32"},
        "runtime": {"cpu_threads": 1},
    }
    file = folder / "pretrain.yaml"
    file.write_text(yaml.safe_dump(asked, sort_keys=False), encoding="utf-8")
    return file


class NodeLoss:
    """Kills the second node once as many trainings have kept a state as there are nodes."""

    def __init__(self, cluster: Any, node: Any, out: Path) -> None:
        self._cluster, self._node, self._out = cluster, node, out
        self.num_states: int | None = None

    def __call__(self) -> None:
        num_states = len(list(self._out.glob("experts/.trainings/*.state")))
        if self.num_states is None and num_states >= 2:
            self._cluster.remove_node(self._node, allow_graceful=False)
            self.num_states = num_states
            print(f"killed a node when {num_states} trainings had kept a state", flush=True)


def problems_of(out: Path, alone: Path) -> list[str]:
    """What is wrong with the mixture in `out`, and how it differs from the one that was made without Ray."""
    problems = [f"{finding.what}: {finding.detail}" for finding in verify(out / "mixture") if not finding.holds]
    for name in ("mixture", *(f"experts/{expert}" for expert in WORDS)):
        there, here = (load_file(folder / name / "model.safetensors") for folder in (out, alone))
        different = [tensor for tensor in there if not torch.equal(there[tensor], here[tensor])]
        problems += [f"{name}: {len(different)} tensors differ from those trained in turn"] if different else []
    return problems


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="moe-job-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        enter_private_environment(folder / "home")
        from ray.cluster_utils import Cluster

        file, out = write_pretraining(folder), folder / "out"
        head = {"num_cpus": 2, "num_gpus": 1, "include_dashboard": True, "dashboard_port": 0}
        cluster: Any = Cluster(initialize_head=True, head_node_args=head)
        loss = NodeLoss(cluster, cluster.add_node(num_cpus=2, num_gpus=1), out)
        try:
            status = run_job(cluster, ["python", "jobs/moe.py", "pretrain", str(file), "--out", str(out)], loss)
        finally:
            cluster.shutdown()
        problems = [] if status == "SUCCEEDED" else [f"the job is {status}"]
        problems += [] if loss.num_states else ["no node was killed while it trained"]
        if not problems:
            transformers.utils.logging.disable_progress_bar()
            pretrain(load_pretrain_config(file), folder, folder / "alone")
            problems = problems_of(out, folder / "alone")
    print("\n".join(problems) if problems else "The job lost a node, and its mixture is the same bit for bit.")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
