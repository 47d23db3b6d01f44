"""`moe-ray demo`: the whole tool on a synthetic world, with nothing to download."""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from moe_ray.cli.runs import evaluate_experiment
from moe_ray.cli.terminal import Terminal, output_console
from moe_ray.config.load import load_experiment
from moe_ray.microworld.build import build_microworld
from moe_ray.microworld.spec import TrainingResult, TrainingSpec
from moe_ray.microworld.worlds import WorldSize

Train = Callable[[TrainingSpec], TrainingResult]


def run_demo(results_dir: Path, size: WorldSize = "demo", *, mixtures: bool = False) -> None:
    """Build the micro-world, train models that are not cached as Ray tasks, and evaluate all models.

    `mixtures` adds two more models: a merged and an upcycled mixture.
    """
    console = output_console(soft_wrap=True)
    console.print("Demo: a synthetic micro-world, and four models of under a million parameters trained on it.")
    started = time.monotonic()
    file = build_microworld(results_dir / "microworld", size=size, map_tasks=_train_on_ray(console), mixtures=mixtures)
    console.print(f"Ready after {time.monotonic() - started:.0f} s. What follows is: moe-ray evaluate {file}")
    evaluate_experiment(load_experiment(file, [f'output.results_dir="{results_dir}"']), only=None)


def _train_on_ray(console: Terminal) -> Callable[[Train, Sequence[TrainingSpec]], Iterator[TrainingResult]]:
    def mapped(train: Train, specs: Sequence[TrainingSpec]) -> Iterator[TrainingResult]:
        from moe_ray.config.schema import RuntimeConfig
        from moe_ray.execution.cluster import connect
        from moe_ray.execution.tasks import Retries, map_tasks

        console.print(f"Training {len(specs)} models, as Ray tasks on this machine's cores (about a minute).")
        runtime = RuntimeConfig()
        retries = Retries(
            max_attempts=runtime.max_attempts,
            name=lambda spec: f"the training of {spec.name}",
            on_retry=lambda text: console.print(f"  {text}", markup=False),
        )
        with connect(runtime):
            for result in map_tasks(train, specs, num_cpus=1, retries=retries):
                console.print(f"  {result.name}: trained in {result.train_s:.0f} s")
                yield result

    return mapped
