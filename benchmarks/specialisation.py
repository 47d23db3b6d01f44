"""What tracing a mixture costs, and how often its statistics are right.

    python -m benchmarks.specialisation cost [--pairs 15] [--layers 6] [--hidden 512] [--tokens 256]
    python -m benchmarks.specialisation calibration [--runs 1000] [--texts 40]
    python -m benchmarks.specialisation identical [--runs 200]

`cost` compares the CPU time of a forward pass with hooks to one without, in turn, of a random Mixtral in float32. It
exits with 1 if the median of the ratios is above 1.10.

`calibration` simulates texts whose tokens are alike, with and without a difference of two classes. It exits with 1 if
tests reject more than 5 % and three standard errors of runs without a difference, or if intervals cover a true
difference in less than 93 or more than 97 % of the runs.

`identical` removes experts whose removal is like any control draw. It exits with 1 if more than 5 % and three standard
errors of the runs discover an effect.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import transformers

from benchmarks.machine import machine_line
from moe_ray.arrays import FloatArray
from moe_ray.comparison.statistics import benjamini_hochberg
from moe_ray.mixtures.sites import RoutingSite, find_sites
from moe_ray.specialisation import information as info
from moe_ray.specialisation.causal import PairedChanges, causal_effects, mean_of
from moe_ray.specialisation.measures import log_lift
from moe_ray.specialisation.over_texts import jackknife, null_of
from moe_ray.specialisation.tracing import collected

MAX_RATIO = 1.10
NUM_EXPERTS, TOP_K = 8, 2
TEXTS_PER_CLASS, TOKENS_PER_TEXT = 40, 150
COVERAGE = (0.93, 0.97)


def cost(arguments: argparse.Namespace) -> bool:
    """Print the ratio of forward passes with hooks to those without; return whether it is small enough."""
    model = _model(arguments)
    ids = torch.randint(3, 1000, (1, arguments.tokens), generator=torch.Generator().manual_seed(1))

    def run() -> None:
        with torch.inference_mode():
            model(input_ids=ids, use_cache=False, logits_to_keep=1)

    sites = find_sites(model, run, name="mixtral")
    run()
    plain, traced = [], []
    for _ in range(arguments.pairs):
        plain.append(_seconds(run))
        traced.append(_seconds(lambda: _traced(run, sites, arguments.tokens)))
    ratios = [after / before for before, after in zip(plain, traced, strict=True)]
    middle = statistics.median(ratios)
    print(f"CPU time: plain {statistics.median(plain) * 1e3:.1f} ms, traced {statistics.median(traced) * 1e3:.1f} ms")
    print(f"ratio {middle:.3f} ({min(ratios):.3f} to {max(ratios):.3f}), target at most {MAX_RATIO}")
    return middle <= MAX_RATIO


def _model(arguments: argparse.Namespace) -> Any:
    torch.manual_seed(1)
    config = transformers.MixtralConfig(
        vocab_size=1000,
        hidden_size=arguments.hidden,
        intermediate_size=2 * arguments.hidden,
        num_hidden_layers=arguments.layers,
        num_attention_heads=8,
        num_key_value_heads=4,
        num_local_experts=NUM_EXPERTS,
        num_experts_per_tok=TOP_K,
    )
    return transformers.MixtralForCausalLM(config).eval()


def _traced(run: Callable[[], None], sites: list[RoutingSite], num_tokens: int) -> None:
    with collected(sites, np.ones(num_tokens, dtype=np.bool_), with_norms=False):
        run()


def _seconds(run: Callable[[], None]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def _js(totals: FloatArray) -> FloatArray:
    return info.generalised_js(totals)[..., None]


def _texts(rng: np.random.Generator, size: float, num: int, concentration: float) -> FloatArray:
    """Return selections [num, 6] of texts, each with preferences of its own around a profile that `size` tilts."""
    profile = np.exp(np.linspace(-size, size, 6))
    own = np.log(rng.dirichlet(concentration * profile / profile.sum(), num) + 1e-300)
    rows = []
    for preferences in own:
        noise = rng.gumbel(size=(TOKENS_PER_TEXT, 6))
        chosen = np.argpartition(-(preferences + noise), TOP_K, axis=1)[:, :TOP_K]
        rows.append(np.bincount(chosen.ravel(), minlength=6))
    return np.stack(rows).astype(np.float64)


def calibration(arguments: argparse.Namespace) -> bool:
    """Print rejections and coverage; return whether all are as they should be."""
    print("| clustering | difference | JS rejects | JS covered | lift rejects | lift covered |")
    print("| --- | --- | --- | --- | --- | --- |")
    good = True
    for concentration in (100.0, 30.0, 10.0):
        for size in (0.0, 0.3):
            good &= _case(arguments.runs, arguments.texts, concentration, size)
    return good


def _case(num_runs: int, num_texts: int, concentration: float, size: float) -> bool:
    rng = np.random.default_rng(int(concentration * 10 + size * 10))
    truth = np.stack([_texts(rng, size * at, 20_000, concentration).sum(axis=0) for at in (0, 1)])
    true_js, true_lift = (float(_js(truth)[0]), log_lift(truth)) if size else (0.0, np.zeros(12))
    found = np.array(list(_runs(rng, num_runs, num_texts, concentration, size, (true_js, true_lift))))
    js_rejects, js_covers, lift_rejects, lift_covers = found.mean(axis=0)
    cells = (f"{concentration:g}", f"{size:g}", *(f"{share:.3f}" for share in found.mean(axis=0)))
    print(f"| {' | '.join(cells)} |")
    most = 0.05 + 3 * (0.05 * 0.95 / num_runs) ** 0.5
    if size == 0:
        return bool(js_rejects <= most and lift_rejects <= most and lift_covers >= COVERAGE[0])
    return bool(COVERAGE[0] <= js_covers <= COVERAGE[1] and COVERAGE[0] <= lift_covers <= COVERAGE[1])


def _runs(
    rng: np.random.Generator,
    num_runs: int,
    num_texts: int,
    concentration: float,
    size: float,
    truth: tuple[float, FloatArray],
) -> Iterator[tuple[float, float, float, float]]:
    codes = np.repeat([0, 1], num_texts)
    true_js, true_lift = truth
    for _ in range(num_runs):
        rows = np.concatenate([_texts(rng, size * at, num_texts, concentration) for at in (0, 1)])
        null = null_of(_js, rows, codes, 2, purpose="calibration", num_permutations=199)
        js, lifts = jackknife(_js, rows, codes, 2), jackknife(log_lift, rows, codes, 2)
        (js_low, js_high), (low, high) = js.interval(), lifts.interval()
        yield (
            float(null.upper[0] <= 0.05),
            float(js_low[0] <= true_js <= js_high[0]),
            float((lifts.p_values() <= 0.05).mean()),
            float(((low <= true_lift) & (true_lift <= high)).mean()),
        )


def identical(arguments: argparse.Namespace) -> bool:
    """Print how many runs discover an effect of identical experts; return whether they are few enough."""
    num_experts, num_classes, num_draws = 4, 3, 20
    labels = np.repeat(np.arange(num_classes), TEXTS_PER_CLASS)
    discovered = np.zeros(2)
    for seed in range(arguments.runs):
        rng = np.random.default_rng(seed)
        texts = rng.normal(0, 0.3, (len(labels), 1, 1))
        draws = rng.normal(0, 0.05, (1, num_experts, num_draws + 1))
        changes = -0.5 + texts + draws + rng.normal(0, 0.2, (len(labels), num_experts, num_draws + 1))
        removed, controls = changes[:, :, 0], changes[:, :, 1:]
        given = PairedChanges(removed=removed, controls=controls, labels=labels, num_classes=num_classes)
        effects = causal_effects(given, family="identical experts")
        alone = [
            mean_of((removed - controls.mean(axis=2))[labels == label, expert]).p_value()
            for expert in range(num_experts)
            for label in range(num_classes)
        ]
        found = [effect.q_value for effect in effects], benjamini_hochberg(alone)
        discovered += [any(q_value is not None and q_value < 0.05 for q_value in one) for one in found]
    print(f"{discovered[0]:.0f} of {arguments.runs} runs discover an effect;")
    print(f"{discovered[1]:.0f} if the spread over control draws is left out")
    return bool(discovered[0] / arguments.runs <= 0.05 + 3 * (0.05 * 0.95 / arguments.runs) ** 0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    commands = parser.add_subparsers(required=True)
    of_cost = commands.add_parser("cost")
    for name, default in (("--pairs", 15), ("--layers", 6), ("--hidden", 512), ("--tokens", 256)):
        of_cost.add_argument(name, type=int, default=default)
    of_cost.set_defaults(run=cost)
    of_calibration = commands.add_parser("calibration")
    of_calibration.add_argument("--runs", type=int, default=1000)
    of_calibration.add_argument("--texts", type=int, default=TEXTS_PER_CLASS)
    of_calibration.set_defaults(run=calibration)
    of_identical = commands.add_parser("identical")
    of_identical.add_argument("--runs", type=int, default=200)
    of_identical.set_defaults(run=identical)
    arguments = parser.parse_args()
    print(machine_line("torch", "transformers", "numpy"))
    sys.exit(0 if arguments.run(arguments) else 1)


if __name__ == "__main__":
    main()
