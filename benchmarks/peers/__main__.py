"""Hold moe_ray against lm-evaluation-harness: the same models, prompts, batch size and stop rules, on this machine.

    python -m benchmarks.peers agreement --out OUT [--venv VENV] [--weights WEIGHTS] [--quick] [--examples N]
    python -m benchmarks.peers speed --out OUT [--venv VENV] [--work early-stops|full-length] [--pairs 5]

OUT keeps what is made (models, lm_eval's own environment unless VENV names one, both sides' results). The first run
trains the micro-world's generalist, makes two random Llamas of about 30 million parameters, and chooses prompts by
the lengths of their answers. WEIGHTS is a folder with llama2.c's stories260K.bin and tok512.bin: a model that others
trained, in addition. `agreement` exits with 1 when an answer, a log-likelihood or a score differs by more than it may;
`speed` prints whether its targets were met. See docs/measurements/lm-evaluation-harness.md.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from benchmarks.peers import environment, models, ours
from benchmarks.peers.agreement import DomainAgreement, compare_all
from benchmarks.peers.comparing import EQUAL_SHARE, LIKELIHOOD_TOLERANCE
from benchmarks.peers.speed import TARGET_THROUGHPUT, TARGET_WALL, Pair, measure, median_stages
from benchmarks.stories260k import convert
from benchmarks.tiny_experiment import private_environment

WEIGHTS_FILE, VOCABULARY_FILE = "stories260K.bin", "tok512.bin"


def main() -> int:
    arguments = _arguments()
    out = arguments.out.resolve()
    python = environment.peer_python((arguments.venv or out / "venv").resolve())
    scale = models.QUICK if arguments.quick else models.FULL
    made = models.make_materials(out / ("quick" if arguments.quick else "full"), scale)
    if arguments.weights is not None:
        made = replace(made, checkpoints={**made.checkpoints, ours.STORIES: _stories(out, arguments.weights)})
    print(environment.describe_machine(python), flush=True)
    results = Path(tempfile.mkdtemp(prefix="results-", dir=out))
    print(f"results  {results}\n", flush=True)
    with tempfile.TemporaryDirectory(prefix="peers-", ignore_cleanup_errors=True) as temporary:
        # Ray gives its workers a low priority; lm_eval has the usual one, and so have they here.
        settings = private_environment(out / "home", RAY_worker_niceness="0")
        setting = environment.Setting(
            folder=results,
            python=python,
            environment=environment.both_sides(settings, arguments.threads),
            temp_dir=Path(temporary),
            num_threads=arguments.threads,
            max_examples=arguments.examples,
        )
        if arguments.part == "agreement":
            return 0 if print_agreement(compare_all(setting, made)) else 1
        for work in (arguments.work,) if arguments.work else (ours.EARLY, ours.FULL_LENGTH):
            print_speed(work, measure(setting, made, work, arguments.pairs))
    return 0


def _stories(out: Path, weights: Path) -> Path:
    folder = out / "stories260k"
    if not (folder / "tokenizer.json").is_file():
        convert(weights / WEIGHTS_FILE, weights / VOCABULARY_FILE, folder)
    return folder


def print_agreement(found: Iterable[DomainAgreement]) -> bool:
    """Print one block a domain as it comes; return whether all that must be equal is."""
    holds = True
    for one in found:
        texts = one.texts
        print(f"{one.domain} ({one.model})")
        num_equal = texts.num_examples - len(texts.differences)
        print(f"  texts            {num_equal} of {texts.num_examples} equal, {texts.num_tokens:,} tokens")
        for explanation in one.explanations:
            known = "rounding" if explanation.is_rounding else "UNEXPLAINED"
            print(
                f"    {explanation.difference.example_id}: {explanation.difference.kind}: {explanation.words}: {known}"
            )
        for part, likelihood in one.likelihoods.items():
            print(
                f"  log-likelihoods  {part}: {likelihood.num_values} values, largest difference "
                f"{likelihood.largest_difference:.1e} nats, mean size {likelihood.mean_size:.1f}"
            )
        for score in one.scores:
            print(
                f"  scores           {score.our_name} {score.our_value:.4f}, lm_eval's {score.their_name} "
                f"{score.their_value:.4f}"
            )
        print(f"  {'equal' if one.holds else 'NOT EQUAL'}", flush=True)
        holds = holds and one.holds
    print(
        f"\ntexts equal on at least {EQUAL_SHARE:.0%} with every other explained, log-likelihoods within "
        f"{LIKELIHOOD_TOLERANCE}, scores equal: {'holds' if holds else 'DOES NOT HOLD'}"
    )
    return holds


def print_speed(work: str, measured: Iterable[Pair]) -> None:
    """Print each pair as it comes, then medians, ranges and where the time goes."""
    print(f"{work}\npair  wall s: ours  theirs  ratio   tokens/s: ours  theirs  ratio   tokens: ours  theirs")
    pairs = []
    for number, pair in enumerate(measured, start=1):
        pairs.append(pair)
        mine, other = pair.ours, pair.theirs
        print(
            f"{number:4}  {mine.wall_s:12.1f}  {other.wall_s:6.1f}  {pair.wall_ratio:5.2f}  {mine.tokens_per_s:15.0f}"
            f"  {other.tokens_per_s:6.0f}  {pair.throughput_ratio:5.2f}  {mine.num_tokens:13,}  {other.num_tokens:6,}",
            flush=True,
        )
    walls = sorted(pair.wall_ratio for pair in pairs)
    rates = sorted(pair.throughput_ratio for pair in pairs)
    wall, rate = statistics.median(walls), statistics.median(rates)
    is_met = "met" if wall <= TARGET_WALL else "MISSED"
    print(f"whole process: median {wall:.2f} x ({walls[0]:.2f} to {walls[-1]:.2f}), ", end="")
    print(f"target at most {TARGET_WALL}: {is_met}")
    print(f"tokens/s: median {rate:.2f} x ({rates[0]:.2f} to {rates[-1]:.2f})", end="")
    if work == ours.EARLY:
        print(f", target at least {TARGET_THROUGHPUT}: {'met' if rate >= TARGET_THROUGHPUT else 'MISSED'}", end="")
    print("\n\nwhere the time goes, medians in seconds")
    for side, profiles in (
        ("moe_ray", [pair.our_stages for pair in pairs]),
        ("lm_eval", [pair.their_stages for pair in pairs]),
    ):
        print(f"  {side}")
        for stage, seconds in median_stages(profiles):
            print(f"    {stage:34} {seconds:6.2f}")
    print(flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers", description="Compare moe_ray with lm-evaluation-harness."
    )
    parser.add_argument("part", choices=("agreement", "speed"))
    parser.add_argument("--out", type=Path, required=True, help="folder for models, environment and results")
    parser.add_argument("--venv", type=Path, help="lm_eval's environment; made where it is not there (OUT/venv)")
    parser.add_argument("--weights", type=Path, help="folder with stories260K.bin and tok512.bin")
    parser.add_argument("--examples", type=int, help="limit for each domain")
    parser.add_argument("--quick", action="store_true", help="small models and few prompts: shows that it works")
    parser.add_argument("--work", choices=(ours.EARLY, ours.FULL_LENGTH), help="one of the timed works; default: both")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2, help="of the one model, on either side")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    return arguments


if __name__ == "__main__":
    sys.exit(main())
