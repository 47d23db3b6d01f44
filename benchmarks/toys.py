"""What the experts of toys do: train the seeds of a file, trace, ablate, and test over seeds.

    python -m benchmarks.toys FILE --out DIR [--max-texts 100] [--joint 3] [--operation reroute] [--set KEY=VALUE]

One checkpoint says something about itself; the seeds are the unit here. For each seed it prints the accuracy, the
divergence of classes in the routing (excess over permuted labels, with its q), experts with a specific and with a
selective loss (q < 0.05) of those that were removed, the largest specific loss on the texts for testing of the expert
that was chosen on the others, and the pair that costs most beyond the sum of its experts. Then means over seeds, with
95 % intervals of Student's t. A killed run continues.
"""

import argparse
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.machine import machine_line
from moe_ray.specialisation.ablation.joint import ablate_jointly
from moe_ray.specialisation.ablation.measuring import AblationOptions
from moe_ray.specialisation.ablation.records import JOINT_FOLDER, read_ablation
from moe_ray.specialisation.ablation.report import AblationReport, make_ablation_report
from moe_ray.specialisation.ablation.run import AblationRequest, ablate_model
from moe_ray.specialisation.causal import mean_of
from moe_ray.specialisation.records import read_trace
from moe_ray.specialisation.report import make_report
from moe_ray.specialisation.texts import SourceTexts, limit_per_class, read_source_texts
from moe_ray.specialisation.toy.records import TEST_FILE, seed_folder
from moe_ray.specialisation.toy.request import load_toy_config
from moe_ray.specialisation.toy.run import train_toy
from moe_ray.specialisation.trace_model import TraceRequest, trace_model

NUM_DRAWS = 20


class SeedFacts(NamedTuple):
    """What is printed of a seed; the mean over seeds of each number follows."""

    accuracy: float
    js_excess: float
    js_q: float
    specific: float
    selective: float
    chosen: float
    chosen_q: float
    beyond: float
    rank_correlation: float


def facts_of(seed: int, accuracy: float, arguments: argparse.Namespace) -> SeedFacts:
    """Trace and ablate one seed, or read what was done before; print its sentences."""
    model, out = seed_folder(arguments.out, seed), arguments.out / f"study-{seed}"
    texts = read_source_texts(arguments.out / TEST_FILE)
    if not (out / "trace" / "trace.json").is_file():
        trace_model(TraceRequest(model=str(model), out=out / "trace", texts=texts))
    trace = make_report(read_trace(out / "trace"))
    js = [one for one in trace.values if one.measure == "generalised_js"]
    best = max(js, key=lambda one: one.excess or 0)
    request = AblationRequest(
        model=str(model),
        out=out / arguments.operation,
        texts=SourceTexts(texts=limit_per_class(texts.texts, arguments.max_texts)),
        options=AblationOptions(operation=arguments.operation, num_draws=NUM_DRAWS, batch_size=NUM_DRAWS + 1),
    )
    ablate_model(request)
    singles = read_ablation(request.out)
    report, chosen = make_ablation_report(singles), make_ablation_report(singles, choose=1)
    for unit in sorted(report.units, key=lambda one: 2.0 if one.q_value is None else one.q_value)[:4]:
        print(f"  {unit.sentence}")
    largest = min((one for one in chosen.effects if one.kind == "specific"), key=lambda one: one.value or 0)
    return SeedFacts(
        accuracy=accuracy,
        js_excess=best.excess or 0.0,
        js_q=1.0 if best.q_value is None else best.q_value,
        specific=_num_found(report, "specific"),
        selective=_num_found(report, "selective"),
        chosen=largest.value or 0.0,
        chosen_q=1.0 if largest.q_value is None else largest.q_value,
        beyond=_beyond(request, arguments.joint, singles),
        rank_correlation=next((one.correlation for one in report.agreement if one.effect == "specific"), None) or 0.0,
    )


def _num_found(report: AblationReport, kind: str) -> float:
    """Return how many of the removed experts have a loss of this kind on some class."""
    found = {
        (one.layer, one.expert)
        for one in report.effects
        if one.kind == kind and one.q_value is not None and one.q_value < 0.05 and (one.value or 0) < 0
    }
    return float(len(found))


def _beyond(request: AblationRequest, num: int, singles: Any) -> float:
    """Return the largest loss of a set beyond the sum of its experts, over sets and classes."""
    if not num:
        return 0.0
    ablate_jointly(request, num)
    report = make_ablation_report(read_ablation(request.out / JOINT_FOLDER), singles=singles)
    least = min(report.interactions, key=lambda one: one.value or 0)
    low, high, q = (one if one is not None else float("nan") for one in (least.low, least.high, least.q_value))
    print(f"  experts {least.experts}, layer {least.layer}, beyond their sum on {least.label}: {least.value:.3f} nats")
    print(f"    [{low:.3f}, {high:.3f}], q = {q:.3g}, {len(report.interactions)} tests")
    return least.value or 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("file", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--max-texts", type=int, default=100)
    parser.add_argument("--joint", type=int, default=3)
    parser.add_argument("--operation", default="reroute", choices=["reroute", "renormalise", "zero", "swap", "mean"])
    parser.add_argument("--set", action="append", default=[])
    arguments = parser.parse_args()
    print(machine_line("torch", "transformers"))
    start_s = time.monotonic()
    trained = train_toy(load_toy_config(arguments.file, arguments.set), arguments.out)
    print(f"trained in {time.monotonic() - start_s:.0f} s; texts: {trained.texts}")
    print(f"accuracy {trained.accuracy:.3f} [{trained.low or 0:.3f}, {trained.high or 0:.3f}] over seeds")
    found = []
    for one in trained.seeds:
        print(
            f"seed {one.seed}: accuracy {one.accuracy:.3f} [{one.low:.3f}, {one.high:.3f}], "
            f"{one.num_parameters} parameters"
        )
        found.append(facts_of(one.seed, one.accuracy, arguments))
        print("  " + ", ".join(f"{name} {value:.3g}" for name, value in found[-1]._asdict().items()))
    for name, values in zip(SeedFacts._fields, zip(*found, strict=True), strict=True):
        mean = mean_of(np.array(values))
        low, high = mean.interval()
        print(f"{name}: {mean.value:.3f} [{low:.3f}, {high:.3f}] over {len(values)} seeds")
    print(f"all in {time.monotonic() - start_s:.0f} s")


if __name__ == "__main__":
    main()
