"""The scheduler alone, driven by a clock: what it costs by itself, at sizes that no machine here could pretend."""

import time
from collections.abc import Sequence

from benchmarks.machine import peak_memory_bytes
from moe_ray.checkpoints.identity import ModelIdentity
from moe_ray.config.schema import ExperimentConfig
from moe_ray.domains.example import Example
from moe_ray.planning.fleet import Demand, Fleet, Node
from moe_ray.planning.plan import Workload, all_cells, plan_work
from moe_ray.planning.simulate import simulate
from moe_ray.prompts.messages import Message, Prompt

SLOTS_PER_NODE = 8
NUM_PROMPT_WORDS = 60
SLOWEST = 10.0


def play(sizes: Sequence[int], num_slots: int, num_models: int) -> int:
    """Plan and play each size on nodes of eight slots, CPU slots and GPUs in turn; print a row for each.

    Returns 1 when the simulation lost or doubled a cell, else 0.
    """
    print(
        "\n    cells  slots of  shards   plan us/cell  bytes/cell  play s  events/s  us/event  starts  peak MiB",
        flush=True,
    )
    all_once = True
    for num_cells in sizes:
        before, started = _resident_bytes(), time.process_time()
        work = _work(num_cells, num_models)
        plan_s, plan_bytes = time.process_time() - started, _resident_bytes() - before
        for place, gpus in (("CPU", 0.0), ("GPU", 1.0), ("halves", 0.5)):
            all_once &= _play_one(work, place, gpus, num_slots, plan_s, plan_bytes)
    return 0 if all_once else 1


def _play_one(work: Workload, place: str, gpus: float, num_slots: int, plan_s: float, plan_bytes: int) -> bool:
    models = sorted({shard.model for shard in work.shards})
    costs = {name: SLOWEST ** (number / max(1, len(models) - 1)) for number, name in enumerate(models)}
    demands = {name: Demand(gpus=gpus, reason="simulated") for name in models}
    started = time.process_time()
    simulation = simulate(_fleet(num_slots, gpus), demands, work.shards, costs)
    play_s = time.process_time() - started
    num_cells, num_shards = len(work.cells), len(work.shards)
    num_played = sum(stay.num_cells for stay in simulation.stays)
    print(
        f"{num_cells:9,}  {num_slots:5} {place:6} {num_shards:7,}  {1e6 * plan_s / num_cells:12.1f}"
        f"  {plan_bytes / num_cells:10.0f}  {play_s:6.2f}  {num_shards / play_s:8,.0f}"
        f"  {1e6 * play_s / num_shards:8.1f}  {len(simulation.stays):6}  {peak_memory_bytes() / (1 << 20):8.0f}",
        flush=True,
    )
    return num_played == num_cells


def _fleet(num_slots: int, gpus: float) -> Fleet:
    num_gpus = 0 if gpus == 0 else round(SLOTS_PER_NODE * gpus)
    return Fleet(
        tuple(
            Node(
                id=f"n{number}",
                name=f"n{number}",
                num_cpus=SLOTS_PER_NODE,
                cpu_slots=SLOTS_PER_NODE,
                gpu_bytes=(80 << 30,) * num_gpus,
            )
            for number in range(-(-num_slots // SLOTS_PER_NODE))
        )
    )


def _work(num_cells: int, num_models: int) -> Workload:
    names = [f"m{number}" for number in range(num_models)]
    config = ExperimentConfig.model_validate(
        {
            "name": "pure",
            "models": {name: {"path": f"scripted/{name}", "engine": "scripted"} for name in names},
            "matrix": "full",
            "likelihood": False,
            "domains": {"d": {"task": "decision", "data": {"source": "./d.jsonl"}}},
        }
    )
    examples = [_example(number) for number in range(-(-num_cells // num_models))]
    models = {name: ModelIdentity(name=name, fingerprint=name, prompt_style="chat") for name in names}
    cells = all_cells(config, {"d": examples}, models, {("d", name) for name in names})
    return plan_work(config, cells, frozenset())


def _example(number: int) -> Example:
    words = " ".join(f"w{(number * 31 + i) % 997}" for i in range(NUM_PROMPT_WORDS))
    prompt = Prompt(messages=(Message(role="user", content=words),))
    return Example(id=f"e{number}", domain="d", prompts={"chat": prompt}, reference="yes")


def _resident_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123
        return int(file.read().split()[1]) * 4096
