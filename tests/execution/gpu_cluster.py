"""Run in a process of its own by test_gpu_cluster: two raylets with two and three declared GPUs.

    python -m tests.execution.gpu_cluster FOLDER

Writes two run directories below FOLDER: `shared/`, in which models hold a GPU, two GPUs or half of one; and `killed/`,
in which a node is killed and another one joins.
"""

import os
import sys
from pathlib import Path
from typing import Any

from moe_ray.runs import evaluate as pipeline
from tests.execution.experiments import Recorder, scripted, write_experiment


def run_shared(folder: Path) -> None:
    """Four models at once: one over two GPUs of a node, one on a whole one, two on halves of one."""
    demands = {"wide": 2, "whole": 1, "half": 0.5, "other-half": 0.5}
    models = {name: {**scripted(seconds_per_batch=0.2), "gpus": gpus} for name, gpus in demands.items()}
    pipeline.evaluate(write_experiment(folder, models, num_examples=24, runtime={"shard_size": 24}), Recorder())


def run_killed(folder: Path, cluster: Any, node: Any) -> None:
    """A model that only `node` can hold, beside another; at its first commit a like node joins and `node` dies."""
    demands = {"first": 2, "second": 3}
    models = {name: {**scripted(seconds_per_batch=0.2), "gpus": gpus} for name, gpus in demands.items()}
    experiment = write_experiment(folder, models, num_examples=32, runtime={"shard_size": 8})
    observer = Recorder()

    def replace_node(_num_committed: int) -> None:
        if [model for model, _ in observer.commits].count("second") == 1 and observer.commits[-1][0] == "second":
            cluster.add_node(num_cpus=0, num_gpus=3, object_store_memory=100 << 20)
            cluster.remove_node(node, allow_graceful=False)

    observer.on_committed = replace_node
    pipeline.evaluate(experiment, observer)


def main(folder: Path) -> None:
    from ray.cluster_utils import Cluster

    cluster: Any = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "num_gpus": 2, "include_dashboard": False, "object_store_memory": 100 << 20},
    )
    try:
        second = cluster.add_node(num_cpus=0, num_gpus=3, object_store_memory=100 << 20)
        os.environ["RAY_ADDRESS"] = cluster.address
        run_shared(folder / "shared")
        run_killed(folder / "killed", cluster, second)
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
